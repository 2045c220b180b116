"""What a misbehaving filter does to its sender, to the others and to the log."""

import asyncio
import contextlib
import uuid
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed

from ..waiting import MEASURED, Watch, limited, measure, until
from .processes import Daphne
from .sockets import connect
from .test_serving import hears

SITE = {"DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings"}


@pytest.fixture(scope="module")
def process(database):
    process = Daphne(env=database | SITE)
    yield process
    process.stop()


@pytest.fixture
def site(process):
    """The process of all tests here, of which only what it says in this one counts."""
    process.forget()
    return process


@pytest.fixture
def fresh_site(database):
    """A process of its own: another one may have logged this already, or say goodbye late."""
    # With DEBUG each error is logged.
    quiet = {
        "DJANGO_DEBUG": "0",
        "DJANGO_SECRET_KEY": uuid.uuid4().hex * 2,
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
    }
    process = Daphne(env=database | SITE | quiet)
    yield process
    process.stop()


async def test_a_dropped_message_is_silence(site):
    async with connect(site.ws()) as ann, connect(site.ws()) as bob:
        await ann.send("drop")
        await ann.send("next")
        assert await hears(bob, 1) == ["next"]
    assert "ERROR" not in site.output and "Traceback" not in site.output


async def test_a_raising_filter_is_logged_once_and_everybody_lives(fresh_site):
    async with connect(fresh_site.ws()) as ann, connect(fresh_site.ws()) as bob:
        for _ in range(5):
            await ann.send("raise")
        await ann.send("next")
        assert await hears(bob, 1) == ["next"]
    # Said after what is counted.
    await until(lambda: fresh_site.output.count("GOODBYE") == 2)
    words = "tests.e2e.site_filters.Misbehave raised KeyError on connection"
    assert fresh_site.output.count(words) == 1
    assert fresh_site.output.count("Traceback") == 1


async def test_a_forgotten_await_is_a_line_in_the_log(site):
    async with connect(site.ws()) as ann, connect(site.ws()) as bob:
        await ann.send("forget")
        assert "'forgotten'" in (await hears(ann, 1))[0]
        # Sent on after that: who connects in the next test must not get it.
        assert await hears(bob, 1) == ["forget"]
    line = await asyncio.to_thread(site.said, "was never awaited")
    assert "site_filters.py" in line.string and "coroutine 'sleep'" in line.string


async def test_a_closing_filter_closes_its_connection_only(site):
    async with connect(site.ws()) as ann, connect(site.ws()) as bob, connect(site.ws()) as cy:
        await ann.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await hears(ann, 1)
        assert caught.value.rcvd.code == 4321
        await asyncio.to_thread(site.said, "GOODBYE 4321")
        await bob.send("next")
        assert await hears(cy, 1) == ["next"]
    assert site.output.count("GOODBYE 4321") == 1 and "Traceback" not in site.output


async def test_a_filter_that_blocks_in_a_thread_holds_up_only_its_own_connection(site):
    async with connect(site.ws()) as ann, connect(site.ws()) as bob, connect(site.ws()) as cy:
        await ann.send("block")
        await ann.send("behind it")
        await asyncio.to_thread(site.said, "BLOCKING in fws-blocking")
        for n in range(20):
            await bob.send(str(n))
        assert await hears(cy, 20) == [str(n) for n in range(20)]
        # The blocked connection is written to meanwhile, too.
        assert await hears(ann, 20) == [str(n) for n in range(20)]
        await bob.send("release")
        last = await hears(cy, 3)
        assert sorted(last) == ["behind it", "block", "release"]
        assert last.index("block") < last.index("behind it")


@pytest.mark.parametrize("layer", ["core", "pubsub"])
async def test_both_redis_layers_carry_any_name_and_any_message(database, valkey, layer):
    env = database | SITE | {"REDIS_URL": valkey.url, "TEST_LAYER": layer}
    servers = [await asyncio.to_thread(Daphne, env=env) for _ in range(2)]
    try:
        for name in ("世界", "a b", "💥" * 40, uuid.uuid4().hex):
            path = f"/rooms/{quote(name)}/"
            async with connect(servers[0].ws(path)) as ann, connect(servers[1].ws(path)) as bob:
                await ann.send("GRÜSSE")
                assert await hears(bob, 1) == ["GRÜSSE"]
        async with connect(servers[0].ws()) as ann, connect(servers[1].ws()) as bob:
            for message in ("Grüße", b"\x00\xff", "x" * 262_144):
                await ann.send(message)
                assert await hears(bob, 1) == [message]
        assert all("Traceback" not in server.output for server in servers)
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)


async def test_the_disconnect_chain_runs_when_the_client_vanishes(fresh_site):
    async with connect(fresh_site.ws()) as ann:
        ann.transport.abort()
        await asyncio.to_thread(fresh_site.said, "GOODBYE 1006")
    assert fresh_site.output.count("GOODBYE") == 1


@pytest.mark.promise
async def test_100_clients_whose_messages_raise_do_not_disturb_a_good_one(fresh_site):
    async with contextlib.AsyncExitStack() as stack:
        # They keep what they are sent and do not read.
        openings = [connect(fresh_site.ws(), max_queue=None) for _ in range(102)]
        ann, bob, *bad = [await stack.enter_async_context(opening) for opening in openings]
        ended, errors = asyncio.Event(), 0

        async def misbehave(socket):
            nonlocal errors
            while not ended.is_set():
                await socket.send("raise")
                errors += 1
                # Its turn is over when the pong is back.
                await (await socket.ping())

        async with asyncio.TaskGroup() as group:
            for socket in bad:
                group.create_task(misbehave(socket))
            waits = []
            for n in range(200 if MEASURED else 40):
                watch = Watch()
                await ann.send(str(n))
                assert await hears(bob, 1) == [str(n)]
                waits.append(watch.seconds)
            ended.set()
        measure("a message beside 100 clients whose messages raise, p99", sorted(waits)[-2], 0.2)
        assert all(socket.close_code is None for socket in bad)
    await until(lambda: fresh_site.output.count("GOODBYE") == len(bad) + 2)
    raised = fresh_site.output.count("Misbehave raised KeyError on connection")
    # A line in ten seconds, with how many there were.
    assert 1 <= raised <= errors / 50


async def test_a_filter_that_blocks_the_loop_is_named(site):
    async with connect(site.ws()) as ann:
        await ann.send("block the loop")
        line = await asyncio.to_thread(site.said, "the event loop is blocked by (.*)")
        assert line[1].startswith("tests.e2e.site_filters.BlockTheLoop (")
        async with limited():
            await (await ann.ping())


async def test_a_filter_that_stops_the_consumer_stops_nothing(fresh_site):
    """Channels' own exception to end a consumer, which leaves the socket open."""
    async with connect(fresh_site.ws()) as ann, connect(fresh_site.ws()) as bob:
        await ann.send("stop")
        await ann.send("next")
        assert await hears(bob, 1) == ["next"]
    await until(lambda: fresh_site.output.count("GOODBYE") == 2)
