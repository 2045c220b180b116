"""Who is in a group, over real sockets, processes and Redis."""

import asyncio
import contextlib
import itertools
import json
import random
import signal
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed

from filtered_websocket.history.hosts import slot_of
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.presence import Info, Stats, presence, presence_stats
from filtered_websocket.publishing.direct import close_senders

from ..presence.test_reading import use_layer
from ..waiting import limited, until, wait_until, within
from .processes import Daphne, Uvicorn, Valkey, resident
from .sockets import connect
from .topologies import Cluster, Move

SITE = "tests.e2e.presence_site:application"
#: Seconds: short, so that a test need not wait for long.
LEASE = 3.0
#: What is promised of a killed process's members, beside the lease.
LATER = 25.0
ROOM = "room:1"


class Site:
    """Processes on one Redis, or each on a node of a cluster; every second one is of uvicorn."""

    def __init__(self, database, redis=None):
        self.valkey = redis or Valkey()
        self.env = {
            **database,
            "DJANGO_SETTINGS_MODULE": "tests.e2e.presence_settings",
            "TEST_SETTINGS": json.dumps({"PRESENCE_LEASE": LEASE}),
        }
        self.servers = []
        self._kinds = itertools.cycle([Daphne, Uvicorn])

    def start(self, node=None):
        env = {**self.env, "REDIS_URL": (node or self.valkey).url}
        self.servers.append(next(self._kinds)(SITE, env=env))
        return self.servers[-1]

    def stop(self):
        for server in self.servers:
            server.stop()
        self.valkey.stop()


@pytest.fixture
def site(database, settings):
    site = Site(database)
    use_layer(settings, "pubsub", site.valkey.url)
    yield site
    close_senders()
    site.stop()


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


class Page:
    """A client that knows of its room what it was told, and nothing else."""

    def __init__(self, server, user=None):
        self.server = server
        self.user = user
        self.id = self.room = None
        self.present = {}
        #: Joins and leaves, as they were told; and whether the user's first or last one.
        self.told = []
        self.users_told = []
        self._answers = asyncio.Queue()

    @classmethod
    async def open(cls, server, user=None):
        page = cls(server, user)
        query = "" if user is None else f"?user={user}"
        page._socket = await connect(server.ws(f"/{query}"))
        page._reading = asyncio.create_task(page._read())
        return page

    async def _read(self):
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                self._take(json.loads(frame))

    def _take(self, message):
        if "all" in message:
            self.present = message["all"]
        elif "changes" in message:
            for change in message["changes"]:
                kind = change["is"]
                self.told.append((kind, change["connection"]))
                is_users = change["first" if kind == "join" else "last"]
                self.users_told.append((kind, change["user"], is_users))
                if kind == "join":
                    self.present[change["connection"]] = change["user"]
                else:
                    self.present.pop(change["connection"], None)
        else:
            self._answers.put_nowait(message)

    async def ask(self, command):
        await self._socket.send(command)
        async with limited():
            return await self._answers.get()

    async def join(self, room=ROOM):
        self.id = (await self.ask(f"+{room}"))["id"]
        self.room = room

    async def leave(self):
        room, self.room = self.room, None
        await self.ask(f"-{room}")
        self.present, self.told, self.users_told = {}, [], []

    async def close(self):
        await self._socket.close()
        await self._reading


@contextlib.asynccontextmanager
async def open_pages(*wanted):
    """One for each (server, user), in the room."""
    pages = [await Page.open(*who) for who in wanted]
    try:
        for page in pages:
            await page.join()
        yield pages
    finally:
        for page in pages:
            await page.close()


async def look_at_redis(page, room, infos):
    await asyncio.to_thread(look, room, infos)


async def agree(pages, everyone=None, look=look_at_redis):
    """Wait until all pages show the same people as Redis has, and ``everyone`` who is there."""
    everyone = pages if everyone is None else everyone
    for room in {page.room for page in everyone} - {None}:
        there = [page for page in everyone if page.room == room]
        truth = {page.id: None if page.user is None else str(page.user) for page in there}

        def is_agreed(room=room, truth=truth):
            shown = [page.present for page in pages if page.room == room]
            return all(one == truth for one in shown)

        await until(is_agreed)
        infos = {key: Info(user) for key, user in truth.items()}
        await look(there[0], room, infos)


def look(room, infos):
    # After a restart of Redis the processes put their members back one after another.
    wait_until(lambda: presence(room) == infos)
    assert presence(room) == infos
    users = {info.user for info in infos.values()}
    assert presence_stats(room) == Stats(len(infos), len(users))


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


class Schedule:
    """What happens to a site, at random."""

    ACTIONS = ["join"] * 5 + ["leave"] * 4 + ["close"] * 2
    FAULTS = ["kill", "stop", "go_on", "restart_redis"]

    def __init__(self, site, seed):
        self.site = site
        self.rng = random.Random(seed)
        self.pages = []
        self.stopped = []

    @property
    def running(self):
        return [one for one in self.site.servers if one not in self.stopped]

    async def play(self, steps):
        for _ in range(3):
            self.site.start()
        for _ in range(steps):
            await getattr(self, self.rng.choice(self.ACTIONS * 2 + self.FAULTS))()
            # Now and then long enough for a lease to end, or for the layer to come back.
            await asyncio.sleep(self.rng.choice([0, 0, 0, 0.01, 0.3, LEASE]))

    def pick(self, condition):
        some = [one for one in self.pages if one.server in self.running and condition(one)]
        return self.rng.choice(some) if some else None

    async def join(self):
        page = self.pick(lambda page: page.room is None)
        if page is None or len(self.pages) < 8:
            user = self.rng.choice([1, 2, 3, None])
            page = await Page.open(self.rng.choice(self.running), user)
            self.pages.append(page)
        await page.join(self.rng.choice([ROOM, "room:2"]))

    async def leave(self):
        if page := self.pick(lambda page: page.room is not None):
            await page.leave()

    async def close(self):
        if page := self.pick(lambda page: True):
            self.pages.remove(page)
            await page.close()

    async def kill(self):
        if len(self.site.servers) > 1 and self.running[1:]:
            server = self.rng.choice(self.running)
            server.signal(signal.SIGKILL)
            await asyncio.to_thread(server.wait)
            await self.remove(server)
            self.site.start()

    async def remove(self, server):
        self.site.servers.remove(server)
        for page in [page for page in self.pages if page.server is server]:
            self.pages.remove(page)
            await page.close()

    async def stop(self):
        if len(self.running) > 1:
            server = self.rng.choice(self.running)
            server.signal(signal.SIGSTOP)
            self.stopped.append(server)

    async def go_on(self):
        if self.stopped:
            self.stopped.pop().signal(signal.SIGCONT)

    async def restart_redis(self):
        self.site.valkey = await asyncio.to_thread(self.site.valkey.restart)


@pytest.mark.parametrize("seed", range(4))
async def test_after_a_random_schedule_what_was_told_is_what_is(site, seed):
    schedule = Schedule(site, seed)
    try:
        await schedule.play(40)
        while schedule.stopped:
            await schedule.go_on()
        await schedule.join()
        pages = [page for page in schedule.pages if page.room is not None]
        await until(lambda: is_quiet(pages))
        await agree(pages)
    finally:
        for page in schedule.pages:
            await page.close()


def is_quiet(pages):
    """Whether all pages of a room show those who are there."""
    truth = {page.room: set() for page in pages}
    for page in pages:
        truth[page.room].add(page.id)
    return all(set(page.present) == truth[page.room] for page in pages)
