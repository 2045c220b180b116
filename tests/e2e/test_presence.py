"""Who is in a group, over real sockets, processes and Redis."""

import asyncio
import contextlib
import signal
from functools import partial

import pytest

from filtered_websocket.history.hosts import slot_of
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.publishing.direct import close_senders

from ..presence.test_reading import use_layer
from ..waiting import limited, until, within
from .presence_pages import (
    LEASE,
    ROOM,
    Page,
    Site,
    agree,
    look_at_redis,
    open_pages,
    run_site,
)
from .processes import resident
from .topologies import Cluster, Move

#: Seconds: what is promised of a killed process's members, beside the lease.
LATER = 25.0


@pytest.fixture
def site(database, settings):
    with run_site(database, settings) as site:
        yield site


@pytest.fixture(scope="module")
def calm_processes(database):
    """Two processes for tests that break nothing."""
    site = Site(database)
    yield site, site.start(), site.start()
    site.stop()


@pytest.fixture
def calm_site(calm_processes, settings):
    site, *servers = calm_processes
    use_layer(settings, "pubsub", site.valkey.url)
    yield servers
    close_senders()


@pytest.fixture
def cluster_site(database, settings):
    """Presence is read through a node that has one slot, so from the others."""
    site = Site(database, Cluster())
    use_layer(settings, "pubsub", site.valkey.nodes[0].url)
    yield site
    close_senders()
    site.stop()


async def test_who_comes_and_goes_is_told_once_in_all_processes(calm_site):
    await come_and_go(*calm_site)


async def come_and_go(one, other, look=look_at_redis):
    agreed = partial(agree, look=look)
    async with open_pages((one, 1), (other, 2), (other, None)) as (ann, bob, cy):
        await agreed([ann, bob, cy])
        await bob.leave()
        await agreed([ann, cy])
        await bob.join()
        await agreed([ann, bob, cy])
        # A second device of the user, in the other process; and the first one leaves.
        async with open_pages((other, 1)) as [phone]:
            await agreed([ann, bob, cy, phone])
            await ann.leave()
            await agreed([bob, cy, phone])
            await ann.join()
            await agreed([ann, bob, cy, phone])
        await cy.close()
        await agreed([ann, bob], [ann, bob])
        told = list(zip(bob.told, bob.users_told, strict=True))
    expected = [
        ("join", bob.id, "2", True),
        ("join", phone.id, "1", False),
        ("leave", ann.id, "1", False),
        ("join", ann.id, "1", False),
        ("leave", phone.id, "1", False),
        ("leave", cy.id, None, True),
    ]
    assert [(kind, id, user, is_users) for (kind, id), (_, user, is_users) in told] == expected


async def test_an_info_of_a_megabyte_is_refused_and_takes_no_memory(calm_site):
    await refuse_long_infos(*calm_site)


async def refuse_long_infos(*servers, look=look_at_redis):
    for server in servers:
        async with open_pages((server, 1)) as [ann]:
            bob = await Page.open(server, 2)

            async def ask(times, bob=bob):
                for _ in range(times):
                    answer = await bob.ask("+room:1 1000000")
                    assert "1000006 characters of JSON; at most 4096" in answer["refused"]

            await ask(10)
            before = resident(server)
            await ask(20)
            assert resident(server) - before < 8 << 20
            # It was refused, and is still served; nobody was told.
            await bob.join()
            await agree([ann, bob], look=look)
            assert ann.told.count(("join", bob.id)) == len(ann.told) - 1 == 1
            await bob.close()


@pytest.mark.promise
async def test_of_a_killed_process_all_leave_within_the_lease_and_25_seconds(site):
    """Both others look for its lease, and only one of them may find it."""
    one, other, third = (site.start() for _ in range(3))
    async with open_pages((one, 1), (third, 4), (other, 2), (other, 3)) as (ann, dan, *gone):
        await agree([ann, dan, *gone])
        other.signal(signal.SIGKILL)
        async with within(LEASE + LATER):
            await until(lambda: len(ann.present) == len(dan.present) == 2)
        await agree([ann, dan])
        # What one more is told comes after everything that both were told of the others.
        async with open_pages((one, 5)) as [eve]:
            await agree([ann, dan, eve])
        await agree([ann, dan])
        for page in (ann, dan):
            left = [connection for kind, connection in page.told if kind == "leave"]
            assert sorted(left) == sorted([eve.id, *(page.id for page in gone)])


async def test_in_a_cluster_who_comes_goes_and_is_killed_is_told_in_all_processes(cluster_site):
    cluster = cluster_site.valkey
    one, other = (cluster_site.start(node=node) for node in cluster.nodes[:2])
    rooms = ["room:1", "room:2", "room:4", "room:9"]
    async with contextlib.AsyncExitStack() as stack:
        pages = []
        for room in rooms:
            for server, user in ((one, 1), (other, 2), (other, None)):
                page = await Page.open(server, user)
                stack.push_async_callback(page.close)
                await page.join(room)
                pages.append(page)
        await agree(pages)
        counts = [len(cluster.do(node, "KEYS", "*:e")) for node in cluster.nodes]
        assert sum(counts) == len(rooms) and all(counts[1:])
        for page in pages[2::3]:
            await page.leave()
        pages = [page for page in pages if page.room]
        await agree(pages)
        other.signal(signal.SIGKILL)
        left = pages[::2]
        await until(lambda: all(len(page.present) == 1 for page in left))
        await agree(left)
        for page in left:
            told = [kind for kind, _ in page.told]
            assert told.count("leave") == 2 and len(page.told) == len(set(page.told))


async def test_while_the_slot_of_a_room_moves_changes_wait_and_are_told_then(cluster_site):
    cluster = cluster_site.valkey
    one, other = (cluster_site.start(node=node) for node in cluster.nodes[:2])
    async with open_pages((one, 1), (other, 2), (other, None)) as (ann, bob, cy):
        await agree([ann, bob, cy])
        key = group_key(ROOM)
        move = await asyncio.to_thread(Move, cluster, slot_of(key))
        [users] = [name for name in move.left() if name.endswith(":u")]
        await asyncio.to_thread(move.take, users)
        # Neither node has all keys of the room.
        await cy.leave()
        await until(lambda: move.has_refused("TRYAGAIN"))
        await asyncio.to_thread(move.finish)
        async with open_pages((one, 3)) as [dan]:
            await agree([ann, bob, dan])
        await agree([ann, bob])


async def test_a_process_that_was_stopped_enters_its_members_again(site):
    one, other = site.start(), site.start()
    async with open_pages((one, 1), (other, 2)) as (ann, bob):
        await agree([ann, bob])
        other.signal(signal.SIGSTOP)
        async with limited():
            await until(lambda: len(ann.present) == 1)
        other.signal(signal.SIGCONT)
        await agree([ann, bob])
        assert ann.told[-2:] == [("leave", bob.id), ("join", bob.id)]


async def test_a_process_that_ends_tells_its_leaves_itself(site):
    one, other = site.start(), site.start()
    async with open_pages((one, 1), (other, 2)) as (ann, bob):
        await agree([ann, bob])
        await asyncio.to_thread(other.stop)
        # Nobody looks for ended leases meanwhile.
        client = site.valkey.client()
        assert [len(client.hgetall(key)) for key in client.keys("*:e")] == [1]
        client.close()
        await agree([ann])


async def test_after_redis_was_restarted_empty_all_are_there_and_nobody_was_told(site):
    one, other = site.start(), site.start()
    async with open_pages((one, 1), (other, 2)) as (ann, bob):
        await agree([ann, bob])
        told = list(ann.told), list(bob.told)
        site.valkey = await asyncio.to_thread(site.valkey.restart)
        for server in (one, other):
            await asyncio.to_thread(server.said, "layer_back")
        await agree([ann, bob])
        assert (ann.told, bob.told) == told
