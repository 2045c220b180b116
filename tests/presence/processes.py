"""Processes of a site in a simulated world: workers on one store, with a clock of their own."""

import asyncio
import random
from collections import Counter

from filtered_websocket.presence.base import Info, pack_info, unpack_info
from filtered_websocket.presence.memory import MemoryStore
from filtered_websocket.presence.worker import Worker
from filtered_websocket.threads.tasks import Tasks

LEASE = 60.0


class Told:
    """What a subscriber of one group was told, from when it came."""

    def __init__(self, members):
        self.members = dict(members)
        self.counts = Counter()

    def tell(self, events):
        for event in events:
            user = event.info.user
            others = {info.user for key, info in self.members.items() if key != event.connection}
            assert event.is_users == (user not in others)
            self.counts[event.kind, event.connection] += 1
            if event.kind == "join":
                assert event.connection not in self.members
                self.members[event.connection] = event.info
            else:
                assert self.members.pop(event.connection) == event.info


class Store:
    """One process's way to the store: it may be cut, frozen, and lose answers."""

    lease = LEASE

    def __init__(self, world, process):
        self._world = world
        self._process = process
        self.publishes = world.publishes
        self.counts = Counter()

    async def _travel(self):
        await asyncio.sleep(self._world.rng.uniform(0, 0.01))
        await self._process.thawed.wait()
        if not self._process.is_available:
            raise ConnectionError("cut off")

    async def change(self, origin, calls):
        answers = []
        self.counts["calls"] += len(calls)
        for call in calls:
            try:
                await self._travel()
                [answer] = await self._world.store.change(origin, [call])
                await self._travel()
                if self._world.rng.random() < self._process.loses:
                    raise TimeoutError("the answer was lost")
            except OSError as error:
                answer = error
            answers.append(answer)
        return answers

    async def members(self, group):
        await self._travel()
        members = await self._world.store.members(group)
        await self._travel()
        return members

    async def close(self):
        self.counts["closed"] += 1


class Process:
    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.is_available = True
        self.is_dead = False
        #: The chance that an answer is lost, and how many messages of the layer will be.
        self.loses = 0.0
        self.misses = 0
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.connections = {}
        self.told = {}
        self._unread = []
        self.unjoined = set()
        self.store = Store(world, self)
        self.counts = Counter()
        self.worker = Worker(Tasks(self.counts), self.store, self, self.tell, world.apublish)

    # As the link that the worker knows

    def is_joined(self, key):
        return key not in self.unjoined

    def tell(self, group, events):
        if group in self.told:
            self.told[group].tell(events)
        elif group in {group for group, _ in self.connections}:
            self.told[group] = Told(self.worker.present(group))

    def receive(self, group, events):
        if not self.thawed.is_set():
            self._unread.append((group, events))
        elif self.misses:
            self.misses -= 1
        elif self.is_available and group in {group for group, _ in self.connections}:
            self.worker.receive(group, list(events))

    # What happens to it

    def join(self, group, connection, info, tells=True):
        self.connections[group, connection] = info
        self.worker.enter(group, connection, info, tells)

    def leave(self, group, connection):
        del self.connections[group, connection]
        self.worker.leave(group, connection)
        if group not in {group for group, _ in self.connections}:
            self.told.pop(group, None)

    async def kill(self):
        self.is_dead = True
        await self.worker.stop()

    def freeze(self):
        self.thawed.clear()

    def thaw(self):
        self.thawed.set()
        unread, self._unread = self._unread, []
        for group, events in unread:
            self.receive(group, events)

    def cut(self):
        self.is_available = False

    def heal(self):
        self.loses = 0.0
        if not self.is_available:
            self.is_available = True
            self.worker.layer_back()


class World:
    """The store, the layer, and the processes. For a loop in fake time."""

    def __init__(self, seed=0, publishes=True):
        self.rng = random.Random(seed)
        self.publishes = publishes
        loop = asyncio.get_running_loop()
        begun = 1_000_000.0
        deliver = self.publish if publishes else lambda group, events: None
        self.store = MemoryStore(deliver, LEASE, lambda: begun + loop.time())
        self.processes = []
        #: Those that a schedule kills in its next step.
        self.dying = []

    def start(self, name="process"):
        process = Process(self, f"{name}{len(self.processes)}")
        self.processes.append(process)
        return process

    def publish(self, group, events):
        for process in self.processes:
            if not process.is_dead:
                process.receive(group, events)

    async def apublish(self, group, events):
        self.publish(group, events)

    def lose(self):
        """Redis was restarted, empty: every process has lost its connections."""
        self.store._groups.clear()
        for process in self.running:
            process.cut()

    @property
    def running(self):
        return [one for one in self.processes if not one.is_dead]

    def truth(self, group):
        return {
            connection: info
            for process in self.running
            for (name, connection), info in process.connections.items()
            if name == group
        }

    async def stop(self):
        for process in self.running:
            await process.kill()

    async def check(self, groups):
        """All who are connected are present, and what was told adds up to them."""
        for group in groups:
            truth = self.truth(group)
            members = await self.store.members(group)
            assert members.infos == truth
            users = {info.user for info in truth.values()}
            assert await self.store.stats(group) == (len(truth), len(users))
            for process in self.running:
                if group in process.told:
                    assert process.worker.present(group) == truth
                    assert process.told[group].members == truth


def entry(user=None, info=None):
    return Info(user, info)


__all__ = ["LEASE", "Told", "World", "entry", "pack_info", "unpack_info"]
