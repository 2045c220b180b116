"""The stand-alone server: how it starts, serves and ends."""

import asyncio
import json
import signal
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed

from ..waiting import until, within
from .certificates import write_pair
from .fws import FILTERS, OURS, REDIS, Fws, clients
from .processes import ROOT, Process, Valkey, free_port
from .sockets import connect
from .test_serving import hears


def run(*arguments, env=None):
    """How a server that ends by itself does so: its status, and all that it says."""
    process = Process([*OURS, *arguments], env={"DJANGO_SETTINGS_MODULE": "", **(env or {})})
    return process.wait(), process.output


@pytest.mark.measured
@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
async def test_tls_1_1_is_refused(tmp_path, server):
    key, certificate = write_pair(tmp_path)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    new = ssl.create_default_context(cafile=certificate)
    process = await asyncio.to_thread(
        Fws, OURS, "-key", key, "-cert", certificate, "--server", server
    )
    try:
        url = process.ws().replace("ws://", "wss://")
        async with connect(url, ssl=new) as ann:
            assert ann.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)):
            await connect(url, ssl=old).__aenter__()
    finally:
        await asyncio.to_thread(process.stop)


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_end_that_is_asked_for_closes_every_client_and_is_status_0(kind, number):
    server = await asyncio.to_thread(Fws, OURS, "--server", kind, "--host", "127.0.0.1")
    try:
        sockets = [await connect(server.ws()).__aenter__() for _ in range(20)]
        server.signal(number)
        for socket in sockets:
            with pytest.raises(ConnectionClosed) as caught:
                await hears(socket, 1)
            assert caught.value.rcvd.code == 4200
        assert await asyncio.to_thread(server.wait) == 0
    finally:
        await asyncio.to_thread(server.stop)
    assert "Traceback" not in server.output


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("filters", ["Block", "Stubborn"])
async def test_what_hangs_does_not_keep_the_process(kind, filters):
    """A thread that is busy, a coroutine that will not be cancelled: a second signal ends both."""
    arguments = ["-f", f"busy_filters.{filters}", "--server", kind]
    server = await asyncio.to_thread(Fws, OURS, *arguments)
    async with clients(1, server) as (ann,):
        await ann.send("x")
        await asyncio.to_thread(server.said, "BUSY")
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            await hears(ann, 1)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
    assert "Traceback" not in server.output


@pytest.mark.promise
async def test_the_end_has_a_deadline(database):
    settings = {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings",
        "TEST_SETTINGS": '{"DRAIN_DEADLINE": 1}',
    }
    server = await asyncio.to_thread(
        Fws, OURS, "-f", "busy_filters.Block", env={**database, **settings}
    )
    async with clients(1, server) as (ann,):
        await ann.send("x")
        await asyncio.to_thread(server.said, "BUSY")
        async with within(5, least=1):
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0


BAD_STARTS = {
    "settings that do not exist": {"DJANGO_SETTINGS_MODULE": "nosuch.settings"},
    "settings that raise": {"DJANGO_SETTINGS_MODULE": "tests.raising_module"},
    "a storage object that exits": {"STORAGE_OBJECT_MODULE": "tests.exiting_module"},
    "a storage object of another kind": {"STORAGE_OBJECT_MODULE": "."},
    "a storage object that can do nothing": {
        "STORAGE_OBJECT_MODULE": "tests.e2e.legacy.odd_storage"
    },
    "a layer that does not exist": {"DJANGO_SETTINGS_MODULE": "tests.e2e.bad_layer_settings"},
}


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_start_that_fails_is_one_line(name, kind):
    status, said = run("-p", str(free_port()), "--server", kind, env=BAD_STARTS[name])
    assert status == 2
    assert said.startswith("fws_server: error: ") and said.count("\n") == 0


@pytest.mark.measured
async def test_start_up_says_where_and_what(tmp_path):
    server = await asyncio.to_thread(Fws, OURS, "-f", "legacy_filters")
    try:
        await asyncio.to_thread(server.said, rf"on ws://localhost:{server.port}/$")
        await asyncio.to_thread(
            server.said, r"message    \| legacy_filters.Remember \| legacy_filters.TellMembers \| "
        )
        await asyncio.to_thread(server.said, "storage: default; channel layer: none; daphne")
        page = f"http://127.0.0.1:{server.port}/"
        with pytest.raises(urllib.error.HTTPError, match="426"):
            await asyncio.to_thread(urllib.request.urlopen, page)
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_port_in_use_is_one_line(server, kind):
    status, said = run("-p", str(server.port), "--host", "127.0.0.1", "--server", kind)
    assert status == 2
    assert said == (
        f"fws_server: error: cannot listen on 127.0.0.1:{server.port}: Address already in use"
    )


@pytest.mark.measured
async def test_publishers_reach_clients_of_two_servers_once_each(valkey):
    arguments = ["--redis_url", valkey.url, "-f", FILTERS + "broadcast_pubsub"]
    arguments += [FILTERS + "broadcast_messages", "--redis_channels", "global", "news.*"]
    servers = [await asyncio.to_thread(Fws, OURS, *arguments, env=REDIS) for _ in range(2)]
    try:
        async with connect(servers[0].ws()) as ann, connect(servers[1].ws()) as bob:
            client = valkey.client()
            await until(lambda: client.publish("global", "ready") >= 2)
            for channel, message in (("global", "one"), ("news.x", "two"), ("global", "end")):
                client.publish(channel, message)
            for socket in (ann, bob):
                heard = [await socket.recv()]
                while heard[-1] != "end":
                    heard += await hears(socket, 1)
                assert [word for word in heard if word != "ready"] == ["one", "two", "end"]
            # Group messages cross the same Redis.
            await ann.send("to the other process")
            assert await hears(bob, 1) == ["to the other process"]
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)


@pytest.mark.promise
async def test_redis_stopped_and_started_under_load_resumes_within_5_seconds():
    redis = await asyncio.to_thread(Valkey)
    arguments = ["--redis_url", redis.url, "-f", FILTERS + "broadcast_pubsub"]
    arguments += [FILTERS + "broadcast_messages"]
    servers = [await asyncio.to_thread(Fws, OURS, *arguments, env=REDIS) for _ in range(2)]
    try:
        sockets = [await connect(servers[n % 2].ws()).__aenter__() for n in range(20)]
        heard = [asyncio.Event() for _ in sockets]
        before = [asyncio.Event() for _ in sockets]

        async def listen(number, socket):
            async for message in socket:
                if message == "before":
                    before[number].set()
                if message == "after":
                    heard[number].set()

        async def talk(socket):
            for n in range(1_000_000):
                await socket.send(f"load {n}")
                await asyncio.sleep(0.002)

        listening = [asyncio.create_task(listen(*pair)) for pair in enumerate(sockets)]
        talking = [asyncio.create_task(talk(socket)) for socket in sockets[:4]]
        client = redis.client()
        await until(lambda: client.publish("global", "before") == 2)
        await until(lambda: all(event.is_set() for event in before))
        redis = await asyncio.to_thread(redis.restart)
        client = redis.client()

        def resumed():
            client.publish("global", "after")
            return all(event.is_set() for event in heard)

        async with within(5):
            await until(resumed)
        for task in (*talking, *listening):
            assert not task.done(), "a connection ended"
            task.cancel()
        await asyncio.gather(*talking, *listening, return_exceptions=True)
        assert all("Traceback" not in server.output for server in servers)
        for socket in sockets:
            await socket.close()
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)
        await asyncio.to_thread(redis.stop)


async def test_with_a_site_its_settings_are_used_and_arguments_win(database):
    server = await asyncio.to_thread(
        Fws, OURS, "-f", FILTERS + "broadcast_messages", env=database, cwd=ROOT
    )
    try:
        await asyncio.to_thread(server.said, r"message    \| broadcast_messages$")
        await asyncio.to_thread(server.said, "channel layer: the site's")
    finally:
        await asyncio.to_thread(server.stop)
    env = database | {"DJANGO_SETTINGS_MODULE": "tests.e2e.storage_settings"}
    server = await asyncio.to_thread(Fws, OURS, env=env, cwd=ROOT)
    try:
        await asyncio.to_thread(server.said, "storage: redis; channel layer: Redis")
    finally:
        await asyncio.to_thread(server.stop)
    server = await asyncio.to_thread(Fws, OURS, env=database, cwd=ROOT)
    try:
        await asyncio.to_thread(server.said, r"message    \| tidy \| broadcast_messages")
    finally:
        await asyncio.to_thread(server.stop)


def test_the_config_of_a_2014_example_is_understood(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"port": 9000, "flags": ["redis"], "redis_port": 1, "filters": []}))
    done = subprocess.run(
        [*OURS, "-c", str(path), "--version"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0
