"""Who comes back over real sockets gets what was missed, in order, once; or is told."""

import asyncio
import contextlib
import itertools
import json
import signal
from urllib.parse import urlsplit

import pytest

from filtered_websocket.history.hosts import slot_of
from filtered_websocket.history.scripts import keys_of
from filtered_websocket.layer.envelope import group_key

from ..transports.test_inbox import frame
from ..waiting import LIMIT, limited, until
from .faults.proxy import Proxy
from .history_site import Client, ClusterSite, Reader, Site, open_site
from .processes import Daphne, Peak, Uvicorn, run_python
from .test_lanes import Raw
from .topologies import Move

NAMES = itertools.count()
#: Clients that read nothing, and how often each comes back: for 48 MB of publications.
IDLE, IDLE_ASKS = 4, 25


KINDS = ["daphne", "uvicorn", "encrypted", "core", "cluster"]


@pytest.fixture(scope="module", params=KINDS)
def site(request, database):
    site = open_site(database, request.param)
    yield site
    site.stop()


@pytest.fixture
def own_site(database):
    """Two processes, and a Redis that a test restarts or cuts off."""
    site = Site(database, Daphne, Uvicorn)
    yield site
    site.stop()


@contextlib.asynccontextmanager
async def opened(*servers):
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for server in servers:
            clients.append(await Client.open(server))
            stack.push_async_callback(clients[-1].close)
        yield clients


@contextlib.asynccontextmanager
async def reading(group, *servers):
    """A reader on each process, from the first publication on."""
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for server in servers:
            readers.append(Reader(group))
            await readers[-1].come(lambda server=server: server)
            stack.push_async_callback(lambda reader=readers[-1]: reader.go())
        yield readers


async def talk(publisher, group, talking, said):
    """Publish a few, one after the other, while ``talking`` is set."""
    while talking.is_set():
        texts = [f"m{len(said) + n}" for n in range(1 + len(said) % 3)]
        await publisher.publish(group, *texts)
        said += texts


async def test_who_comes_back_to_the_other_process_has_everything_once_and_in_order(site):
    first, last = site.servers[0], site.servers[-1]
    group = f"room:{next(NAMES)}"
    said, talking = [], asyncio.Event()
    talking.set()
    async with opened(first) as [publisher], reading(group, first, last) as readers:
        task = asyncio.create_task(talk(publisher, group, talking, said))
        for server in (last, first, last):
            for reader in readers:
                await until(lambda reader=reader: len(reader.got) > 5)
                await reader.go(abort=reader is readers[0])
            missed = len(said)
            await until(lambda missed=missed: len(said) > missed + 20)
            for reader in readers:
                await reader.come(lambda server=server: server)
        talking.clear()
        await task
        await until(lambda: all(len(reader.got) >= len(said) for reader in readers))
        for reader in readers:
            assert reader.texts == said
            assert (reader.jumps, reader.refusals, reader.gaps) == ([], [], 0)


async def test_a_joiner_gets_the_latest_and_what_a_filter_hides_stays_hidden(site):
    first, last = site.servers[0], site.servers[-1]
    group = f"last:{next(NAMES)}"
    async with opened(first, last, last, first) as (ann, bob, cy, dan):
        await ann.publish(group, "a", "hidden b", "c")
        (is_joined, (epoch, offset, _)), before = await bob.ask("join", group)
        assert (is_joined, offset, before) == (True, 3, 1)
        seen = [{"text": "a", "at": [epoch, 1]}, {"text": "c", "at": [epoch, 3]}]
        assert bob.arrived == seen[1:]
        await ann.publish(group, "d", "hidden e")
        seen.append({"text": "d", "at": [epoch, 4]})
        # What is hidden moves the position all the same.
        answer = [True, [epoch, 5, False]]
        assert await cy.ask("recover", group, [epoch, 0]) == (answer, 3)
        assert cy.arrived == seen
        # The last one is hidden, too: who joins gets nothing.
        assert await dan.ask("join", group) == (answer, 0)
        await ann.publish(group, "f")
        seen.append({"text": "f", "at": [epoch, 6]})
        await until(lambda: len(bob.arrived) == 3 and len(cy.arrived) == 4 and dan.arrived)
        assert (bob.arrived, cy.arrived, dan.arrived) == (seen[1:], seen, seen[3:])


async def test_who_comes_back_when_too_much_was_missed_is_told_and_gets_no_part(site):
    first, last = site.servers[0], site.servers[-1]
    group = f"short:{next(NAMES)}"
    async with opened(first) as [publisher], reading(group, last) as [reader]:
        [before] = await publisher.publish(group, "a")
        await until(lambda: reader.at == before)
        await reader.go()
        positions = await publisher.publish(group, *"bcdefghij")
        await reader.come(lambda: last)
        assert reader.refusals == [(before, positions[-1])]
        await publisher.publish(group, "k")
        await until(lambda: len(reader.got) == 2)
        assert reader.texts == ["a", "k"] and reader.jumps == []


async def test_who_comes_back_and_reads_nothing_takes_a_bounded_amount_of_memory(site):
    """Nor does it when the publications come, and then its connection is closed."""
    server = site.servers[0]
    # Where it is kept in the process, too, that takes little memory.
    group, done = f"short:{next(NAMES)}", f"room:{next(NAMES)}"
    long = "x" * 60_000
    commands = [["recover", group, ["", 0]]] * IDLE_ASKS + [["publish", done, ["done"]]]
    frames = b"".join(frame(json.dumps(command).encode()) for command in commands)
    async with opened(server) as [publisher], limited():
        for _ in range(8):
            await publisher.publish(group, long)
        await publisher.ask("join", done)
        peak = Peak(server)
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE):
                idle = Raw(server.port, urlsplit(server.ws()).path)
                stack.callback(idle.close)
                idle.socket.sendall(frames)
            # Each has had all its answers, or is closed already.
            while await others(publisher) > len(publisher.arrived):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while await others(publisher):
                await publisher.publish(group, long)
            assert peak.growth < 32 << 20
        [(epoch, offset)] = await publisher.publish(group, "last")
        async with opened(server) as [reader]:
            (recovered, _), _ = await reader.ask("recover", group, [epoch, offset - 1])
            assert recovered and texts(reader) == ["last"]


async def others(client):
    """How many connections the process of ``client`` has besides."""
    count, _ = await client.ask("connections")
    return count - 1


async def test_after_redis_was_restarted_empty_all_are_told_and_live_goes_on(own_site):
    first, last = own_site.servers
    async with (
        opened(first) as [publisher],
        reading("room:1", first, last, last) as (stays, also, goes),
    ):
        await publisher.publish("room:1", "a", "b")
        await until(lambda: len(stays.got) == len(also.got) == len(goes.got) == 2)
        await goes.go()
        own_site.valkey = await asyncio.to_thread(own_site.valkey.restart)
        for server in own_site.servers:
            await asyncio.to_thread(server.said, "EVENT .*layer_back")
        [(epoch, offset)] = await publisher.publish("room:1", "c")
        assert offset == 1
        await goes.come(lambda: first)
        [(since, _)] = goes.refusals
        assert since[0] != epoch
        await publisher.publish("room:1", "d", "e")
        everyone = (stays, also, goes)
        await until(lambda: all(reader.at == (epoch, 3) for reader in everyone))
        assert goes.texts[-2:] == ["d", "e"] and goes.jumps == []
        # Who stayed may have got the first one of the new epoch; what follows is whole.
        for reader in (stays, also):
            assert len(reader.jumps) == 1
            await until(lambda reader=reader: reader.gaps)
            assert reader.texts[-2:] == ["d", "e"]


async def test_a_process_whose_subscriber_is_far_from_redis_misses_nothing(database):
    """Its publishers are not: what they publish is there long before it is heard."""
    site = Site(database)
    async with Proxy(site.valkey.port) as proxy:
        proxy.delay, proxy.delays_subscribers = 0.05, True
        site.env["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
        try:
            for kind in (Daphne, Uvicorn):
                await asyncio.to_thread(site.start, kind)
            await test_who_comes_back_to_the_other_process_has_everything_once_and_in_order(site)
            await test_a_joiner_gets_the_latest_and_what_a_filter_hides_stays_hidden(site)
        finally:
            await asyncio.to_thread(site.stop)


@pytest.mark.parametrize("kinds", [(Daphne, Uvicorn), (Uvicorn, Daphne)], ids=["daphne", "uvicorn"])
async def test_a_process_whose_subscriber_is_cut_fills_the_hole_by_itself(database, kinds):
    """What the group chain hides from all, and the send chain from one, stays hidden."""
    its, others = kinds
    site = Site(database, its, filters=["tests.e2e.history_sends"])
    try:
        [server] = site.servers
        async with opened(server, server) as (ann, bob):
            for client in (ann, bob):
                assert (await client.ask("join", "room:1"))[0][0] is True
            await bob.ask("mute", "b")
            [subscriber] = site.subscribers()
            other = await asyncio.to_thread(site.start, others)
            async with opened(other) as [publisher]:
                places = await publisher.publish("room:1", "a", "b")
                await until(lambda: texts(ann) == ["a", "b"] and texts(bob) == ["a"])
                # What is published while it is stopped and cut off cannot reach it.
                server.signal(signal.SIGSTOP)
                assert site.do("CLIENT", "KILL", "ID", subscriber) == 1
                places += await publisher.publish("room:1", "b 1", "hidden", "c", "b 2", "d")
                server.signal(signal.SIGCONT)
                await until(lambda: texts(ann)[-1] == texts(bob)[-1] == "d")
                places += await publisher.publish("room:1", "e", "b 3", "f")
                await until(lambda: texts(ann)[-1] == texts(bob)[-1] == "f")
            assert texts(ann) == ["a", "b", "b 1", "c", "b 2", "d", "e", "b 3", "f"]
            assert texts(bob) == ["a", "c", "d", "e", "f"]
            for client, hidden in ((ann, [3]), (bob, [1, 2, 3, 5, 8])):
                seen = [tuple(message["at"]) for message in client.arrived if "at" in message]
                assert seen == [place for n, place in enumerate(places) if n not in hidden]
                assert {"gap": "room:1"} not in client.arrived
    finally:
        site.stop()


@pytest.fixture
def moving_site(database):
    """Two processes on a cluster, which wait for it as long as a test may take."""
    limits = {"LAYER_TIMEOUT": LIMIT, "PUBLISH_MAX_AGE": LIMIT}
    site = ClusterSite({**database, "TEST_FWS": json.dumps(limits)})
    yield site
    site.stop()


#: Publishes where nobody serves.
COMMAND = """
import django; django.setup()
from filtered_websocket.publish import publish
publish({"text": "from a command"}, %r)
"""


async def test_what_is_published_while_a_slot_moves_is_there_once_and_in_order(moving_site):
    """Who comes back with a position of before is told, as nobody knows that nothing is lost."""
    site = moving_site
    first, last = site.servers
    group = f"room:{next(NAMES)}"
    said, talking = [], asyncio.Event()
    talking.set()

    async def goes_on():
        count = len(said) + 10
        await until(lambda: len(said) >= count)

    async with opened(first, last) as (ann, bob), reading(group, first, last, last) as readers:
        *stay, goes = readers
        task = asyncio.create_task(talk(ann, group, talking, said))
        await goes_on()
        await goes.go()
        move = await asyncio.to_thread(Move, site.cluster, slot_of(group_key(group)))
        # All keys are where they were: whoever has published there before is not concerned.
        await goes_on()
        others = [
            asyncio.create_task(bob.publish(group, "from bob")),
            asyncio.create_task(asyncio.to_thread(run_python, site.env, "-c", COMMAND % group)),
        ]
        meta, kept = keys_of(group_key(group))
        for name, answer in ((meta, "TRYAGAIN"), (kept, "ASK")):
            await asyncio.to_thread(move.take, name)
            await until(lambda answer=answer: move.has_refused(answer))
        count = len(said)
        await asyncio.to_thread(move.finish)
        await until(lambda: len(said) >= count + 20)
        talking.clear()
        await asyncio.gather(task, *others)
        await goes.come(lambda: first)
        assert len(goes.refusals) == 1
        [end] = await bob.publish(group, "end")
        for reader in readers:
            await until(lambda reader=reader: reader.at == end)
            await until(lambda reader=reader: reader.gaps >= reader.jumped)
        async with reading(group, last) as [late]:
            await until(lambda: late.at == end)
            everything = {offset: text for (_, offset), text in late.got.items()}
    assert list(everything) == list(range(1, end[1] + 1))
    rest = ["from bob", "from a command", "end"]
    assert [text for text in everything.values() if text not in rest] == said
    assert sorted(everything.values()) == sorted([*said, *rest])
    for reader in stay:
        # What came in another order from the two nodes may be lost, which is told then.
        [(at, came)] = reader.jumps
        assert at[0] != came[0] == end[0]
        lost = range(at[1] + 1, came[1])
        got = {offset: text for (_, offset), text in reader.got.items()}
        assert list(got) == [n for n in everything if n not in lost]
        assert got.items() <= everything.items() and len(got) == len(reader.got)


async def test_while_a_cluster_is_down_what_is_published_waits_and_that_is_told_once(moving_site):
    """A node is away: the others refuse all keys, and still carry messages."""
    site, cluster = moving_site, moving_site.cluster
    first, last = site.servers
    away = cluster.nodes[2]
    names = (f"room:{next(NAMES)}" for _ in itertools.count())
    group = next(name for name in names if slot_of(group_key(name)) <= int(cluster.SLOTS[1][1]))
    async with opened(first, last) as (ann, bob), reading(group, first, last) as readers:
        await ann.publish(group, "before")
        away.signal(signal.SIGSTOP)
        try:
            for node in cluster.nodes[:2]:
                await until(lambda node=node: "cluster_state:fail" in state_of(cluster, node))
            waiting = [asyncio.create_task(one.publish(group, *"ab")) for one in (ann, bob)]
            for server in site.servers:
                await asyncio.to_thread(server.said, "lost the channel layer .* is not ready: ")
            assert not any(one.done() for one in waiting)
        finally:
            away.signal(signal.SIGCONT)
        places = sorted(itertools.chain.from_iterable(await asyncio.gather(*waiting)))
        assert [offset for _, offset in places] == [2, 3, 4, 5]
        for reader in readers:
            await until(lambda reader=reader: reader.at == places[-1])
            assert sorted(reader.texts) == ["a", "a", "b", "b", "before"]
            assert reader.jumps == reader.refusals == [] and not reader.gaps
    for server in site.servers:
        assert server.output.count("lost the channel layer") == 1


def state_of(cluster, node):
    return cluster.do(node, "CLUSTER", "INFO")


def texts(client):
    return [message["text"] for message in client.arrived if "text" in message]
