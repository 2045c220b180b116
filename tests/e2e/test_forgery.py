"""What somebody with access to the Redis can do and read there: little."""

import asyncio
import json
import re

import msgpack
import pytest
from channels_redis.serializers import MsgPackSerializer

from filtered_websocket.layer.envelope import CONTROL, Batch, group_key, new_origin, seal
from filtered_websocket.publishing.items import new_item

from ..waiting import until
from .processes import Daphne
from .sockets import connect
from .test_serving import hears, hears_nothing_before

SITE = {"DJANGO_SETTINGS_MODULE": "tests.e2e.forgery_settings"}
CLIENTS = 20
#: How the clients' group and that of control events are called on the pubsub layer.
CHANNELS = ["asgi__group__" + group_key(name) for name in ("default", CONTROL)]


@pytest.fixture(params=["in clear", "encrypted"])
def site(request, database, valkey):
    keys = ["a secret"] if request.param == "encrypted" else None
    env = database | SITE | {"REDIS_URL": valkey.url, "TEST_KEYS": json.dumps(keys)}
    server = Daphne(env=env)
    server.keys = keys
    yield server
    server.stop()


def envelope(message):
    return seal(Batch(new_origin(), group_key("default"), 0, [new_item(message)]))


def encrypted(message, *keys):
    return MsgPackSerializer(symmetric_encryption_keys=list(keys)).serialize(message)


def forgeries(keys):
    good = msgpack.packb(envelope("forged"))
    yield from (b"", b"garbage", b"\x00" * 1000, b"\xff" * 1000, b"\xc1", good[:-1], good + b"x")
    yield b"\x91" * 100_000 + b"\xc0"
    yield b"\x81" * 100_000
    yield b"\xdd\xff\xff\xff\xff"
    yield msgpack.packb({"type": "websocket.disconnect"})
    yield msgpack.packb(["v", 1])
    yield msgpack.packb({**envelope("x"), "m": [[0, "t", "", b"\xff", {}]]})
    yield msgpack.packb({**envelope("x"), "o": []})
    yield msgpack.packb({**envelope("x"), "o": "o" * 100_000})
    for probe in ([], {}, None, "x" * 100_000):
        yield msgpack.packb({"v": 1, "probe": probe})
    yield encrypted(envelope("forged"), "another key")
    if keys:
        # What is not encrypted does not count, however good it looks.
        yield good
    else:
        yield encrypted(envelope("forged"), "a secret")


async def test_bytes_that_are_not_the_sites_are_ignored_and_counted(site, valkey):
    sockets = [await connect(site.ws()).__aenter__() for _ in range(CLIENTS)]
    try:
        redis = valkey.client()
        sent = list(forgeries(site.keys))
        for number, data in enumerate(sent):
            for channel in CHANNELS:
                assert redis.publish(channel, data) == 1
            # They are still there, hear nothing of it, and hear each other.
            marker = f"after {number}"
            assert await hears_nothing_before(sockets[1], sockets[0], marker) == []
            for socket in sockets[2:]:
                assert await hears(socket, 1) == [marker]
        await sockets[0].send("counts")
        [counts] = await hears(sockets[0], 1)
        counts = json.loads(counts)
        assert counts["bad_envelope"] == len(sent) * len(CHANNELS)
        assert "task_failed" not in counts
    finally:
        for socket in sockets:
            await socket.close()
    await until(lambda: site.output.count("GOODBYE") == CLIENTS)
    # Once in ten seconds, however many came; and nobody was closed by them.
    said = "skipped a message on the channel layer that this package did not send"
    assert 1 <= site.output.count(said) < len(sent)
    assert site.output.count("GOODBYE 1000") == CLIENTS
    assert "Traceback" not in site.output and "ERROR" not in site.output


@pytest.mark.parametrize("layer", ["core", "pubsub"])
async def test_redis_holds_names_of_this_package_and_nothing_of_groups_and_users(
    database, valkey, layer
):
    valkey.client().flushall()
    env = database | {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings",
        "REDIS_URL": valkey.url,
        "TEST_LAYER": layer,
    }
    server = await asyncio.to_thread(Daphne, env=env)
    groups = r"(g\.[0-9a-f]{32}|house|probe\.[0-9a-f]{16}\.\d+)"
    ours = re.compile(rf"asgi(__group__|:group:)fws\.{groups}|asgi:?specific\..+")
    try:
        async with (
            connect(server.ws("/rooms/secret/")) as ann,
            connect(server.ws("/rooms/secret/")) as bob,
        ):
            redis = valkey.client()
            seen = set()
            for n in range(20):
                await ann.send(str(n))
                assert await hears(bob, 1) == [str(n)]
                seen |= {*redis.scan_iter(), *redis.pubsub_channels()}
        assert len(seen) >= 2
        assert [name for name in seen if not ours.fullmatch(name)] == []
        assert not any("secret" in name for name in seen)
    finally:
        await asyncio.to_thread(server.stop)
