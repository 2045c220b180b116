"""
Several processes with random members, on both stores: what is there in the end, and what each
process told its subscribers, compared with a model that knows everything.

A seed that fails is in the name of the test.
"""

import asyncio
import random
from collections import Counter

import pytest

from filtered_websocket.presence.base import Info, pack_info, unpack_info
from filtered_websocket.presence.ledger import Ledger
from filtered_websocket.presence.roster import Roster

pytestmark = pytest.mark.repeats

GROUPS = ["g", "h"]
USERS = ["ann", "bob", None]
FAULTS = ["die", "sleep", "wake", "end_lease", "lose", "cut", "heal", "break_calls", "miss"]
PLAIN = ["join", "leave", "flush", "renew", "renew_all", "flush_all"]


class Breaking:
    """A store whose calls fail while ``chance`` says so: before they are made, or after."""

    def __init__(self, store, rng):
        self._store = store
        self._rng = rng
        self.chance = 0.0

    async def _travel(self):
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)

    async def change(self, origin, calls):
        answers = []
        for call in calls:
            await self._travel()
            breaks = self._rng.random() < self.chance
            if breaks and self._rng.random() < 0.5:
                answers.append(ConnectionError("not sent"))
                continue
            [answer] = await self._store.change(origin, [call])
            answers.append(ConnectionError("answer lost") if breaks else answer)
        await self._travel()
        return answers

    async def members(self, group):
        if self._rng.random() < self.chance:
            raise TimeoutError("no answer")
        await self._travel()
        members = await self._store.members(group)
        await self._travel()
        return members


class Told:
    """What a subscriber of one group was told, from when it came."""

    def __init__(self):
        self.members = {}
        self.users = set()
        self.counts = Counter()

    def tell(self, events):
        for event in events:
            user = event.info.user
            self.counts[event.kind, event.connection] += 1
            if event.kind == "join":
                assert event.connection not in self.members
                self.members[event.connection] = event.packed
                assert event.is_users == (user not in self.users)
                self.users.add(user)
            else:
                assert self.members.pop(event.connection) == event.packed
                others = {unpack_info(packed).user for packed in self.members.values()}
                assert event.is_users == (user not in others)
                if event.is_users:
                    self.users.remove(user)


class Process:
    """One process: what it wants in the store, and what it tells its subscribers."""

    def __init__(self, origin, store):
        self.origin = origin
        self.store = store
        self.ledger = Ledger(store, origin)
        self.connections = {}
        self.rosters = {}
        self.told = {}
        self.is_dead = self.is_asleep = self.is_cut = False
        self.misses = 0
        self._unread = []

    def hear(self, group, events):
        if self.is_asleep:
            self._unread.append((group, events))
        elif self.misses:
            self.misses -= 1
        elif group in self.rosters and not self.is_cut:
            self.told[group].tell(self.rosters[group].apply(events))

    def wake(self):
        self.is_asleep = False
        unread, self._unread = self._unread, []
        for group, events in unread:
            self.hear(group, events)

    def heal(self):
        """The layer is back, for this process."""
        self.is_cut = False
        self.store.chance = 0.0
        self.ledger.rejoin()
        for roster in self.rosters.values():
            roster.miss()

    async def join(self, group, connection, info):
        self.connections[group, connection] = pack_info(info)
        self.ledger.add(group, connection, info)
        if group not in self.rosters:
            self.rosters[group], self.told[group] = Roster(), Told()

    def leave(self, group, connection):
        del self.connections[group, connection]
        self.ledger.remove(group, connection)
        if group not in {group for group, _ in self.connections}:
            del self.rosters[group], self.told[group]

    async def flush(self):
        await self.ledger.flush()
        await self.read()

    async def renew(self):
        report = await self.ledger.renew()
        for group, revision in report.revisions.items():
            self.rosters[group].check(revision)
        await self.read()

    async def read(self):
        for group, roster in tuple(self.rosters.items()):
            if roster.is_stale and not self.is_cut:
                roster.begin()
                try:
                    members = await self.store.members(group)
                except TimeoutError:
                    roster.miss()
                else:
                    self.told[group].tell(roster.refresh(members))


class Model:
    def __init__(self, world, seed, count=3):
        self.world = world
        self.rng = random.Random(seed)
        self.processes = [
            Process(f"origin{number}", Breaking(world.new_store(), self.rng))
            for number in range(count)
        ]
        self._number = 0

    async def open(self):
        for process in self.processes:
            await self.world.listen(process.origin, process.hear, GROUPS)

    @property
    def running(self):
        return [one for one in self.processes if not (one.is_dead or one.is_asleep)]

    async def step(self, actions):
        action = self.rng.choice(actions)
        if process := self.rng.choice([None, *self.running]):
            await getattr(self, action)(process)
        if isinstance(getattr(self.world, "now", None), float):
            self.world.now += 0.001

    async def join(self, process):
        for _ in range(self.rng.choice([1, 1, 3])):
            self._number += 1
            info = Info(self.rng.choice(USERS), self.rng.choice([None, {"n": self._number}]))
            await process.join(self.rng.choice(GROUPS), f"c{self._number}", info)

    async def leave(self, process):
        if process.connections:
            process.leave(*self.rng.choice(list(process.connections)))

    async def flush(self, process):
        await process.flush()

    async def renew(self, process):
        await process.renew()

    async def flush_all(self, process):
        await asyncio.gather(*(one.flush() for one in self.running))

    async def renew_all(self, process):
        await asyncio.gather(*(one.renew() for one in self.running))

    # Faults

    async def die(self, process):
        if len(self.running) > 1:
            process.is_dead = True

    async def sleep(self, process):
        process.is_asleep = True

    async def wake(self, process):
        for one in self.processes:
            one.wake()

    async def end_lease(self, process):
        for one in self.processes:
            if one.is_dead or one.is_asleep:
                await self.world.end_lease(one.origin, GROUPS)

    async def lose(self, process):
        await self.world.lose()
        for one in self.processes:
            one.heal()

    async def cut(self, process):
        process.is_cut = True

    async def heal(self, process):
        process.heal()

    async def break_calls(self, process):
        process.store.chance = 0.3

    async def miss(self, process):
        process.misses = 1

    # The end

    async def quiet(self):
        """All faults are over, and every process has done what it does anyway."""
        await self.wake(None)
        await self.end_lease(None)
        for one in self.running:
            one.misses = 0
            one.store.chance = 0.0
            if one.is_cut:
                one.heal()
        await self.flush_all(None)
        for _ in range(2):
            await self.renew_all(None)
            await self.flush_all(None)
            await self.world.delivered()
        for one in self.running:
            while any(roster.is_stale for roster in one.rosters.values()):
                await one.read()
        await self.world.delivered()

    async def check(self):
        truth = {group: {} for group in GROUPS}
        for process in self.running:
            assert process.ledger.is_settled
            for (group, connection), packed in process.connections.items():
                truth[group][connection] = packed
        for group, present in truth.items():
            members = await self.world.store.members(group)
            if not present:
                # Nobody who lives looks there: they end with their keys.
                dead = {process.origin for process in self.processes if process.is_dead}
                assert {entry.origin for entry in members.entries.values()} <= dead
                continue
            assert {key: entry.packed for key, entry in members.entries.items()} == present
            users = {unpack_info(packed).user for packed in present.values()}
            assert await self.world.store.stats(group) == (len(present), len(users))
            for process in self.running:
                if group in process.told:
                    assert process.rosters[group].members == present
                    assert process.told[group].members == present
                    assert process.told[group].users == users


async def play(world, seed, actions, steps=80):
    model = Model(world, seed)
    await model.open()
    for _ in range(steps):
        await model.step(actions)
    await model.quiet()
    await model.check()
    return model


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """So that a few members are many."""
    for module in ("ledger", "memory", "redis"):
        monkeypatch.setattr(f"filtered_websocket.presence.{module}.MAX_CHANGES", 2)
    monkeypatch.setattr("filtered_websocket.presence.roster.MAX_HELD", 2)


def pytest_generate_tests(metafunc):
    cases = [("memory", seed) for seed in range(60)] + [("redis", seed) for seed in range(8)]
    metafunc.parametrize(("kind", "seed"), cases)


async def test_after_quiet_all_that_was_told_adds_up_to_who_is_there(world, seed):
    await play(world, seed, PLAIN * 2 + FAULTS)


async def test_without_outages_each_join_and_leave_is_told_once(world, seed):
    model = await play(world, seed, PLAIN)
    for process in model.processes:
        for told in process.told.values():
            assert set(told.counts.values()) <= {1}
