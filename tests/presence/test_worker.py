"""A hub's worker: what it does by itself, with a store in memory and a fake clock."""

import asyncio
import inspect
import random

import pytest

from filtered_websocket.presence import worker as module
from filtered_websocket.presence.base import Info

from ..waiting import run_in_fake_time, until
from .processes import LEASE, World

ANN, BOB = Info("ann"), Info("bob", {"mood": "good"})


@pytest.fixture(autouse=True)
def same_times():
    """A seed gives the same schedule each time: renewals are at random moments."""
    random.seed(0)


def in_fake_time(test):
    """The test runs on a clock that skips every wait."""

    def run(*args, **kwargs):
        run_in_fake_time(test(*args, **kwargs))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.signature(test)
    return run


@in_fake_time
async def test_who_has_entered_is_present_in_all_processes():
    world = World()
    one, two = world.start(), world.start()
    one.join("g", "a", ANN)
    two.join("g", "b", BOB)
    await asyncio.gather(one.worker.entered("g"), two.worker.entered("g"))
    everyone = {"a": ANN, "b": BOB}
    await until(lambda: one.worker.present("g") == two.worker.present("g") == everyone)
    assert (await world.store.members("g")).infos == everyone
    one.leave("g", "a")
    await until(lambda: two.told["g"].counts["leave", "a"])
    await world.check(["g"])
    assert two.told["g"].counts["leave", "a"] == 1
    await world.stop()


@in_fake_time
async def test_members_of_a_killed_process_leave_within_the_lease_and_25_seconds():
    world = World()
    one, two = world.start(), world.start()
    for number in range(1200):
        one.join("g", f"a{number}", ANN)
    two.join("g", "b", BOB)
    await asyncio.sleep(LEASE * 3)
    assert len(two.worker.present("g")) == 1201
    await one.kill()
    await asyncio.sleep(LEASE + 25)
    await world.check(["g"])
    assert two.told["g"].counts["leave", "a7"] == 1
    await world.stop()


@in_fake_time
async def test_a_process_that_slept_past_its_lease_enters_its_members_again():
    world = World()
    one, two = world.start(), world.start()
    one.join("g", "a", ANN)
    two.join("g", "b", BOB)
    await asyncio.sleep(1)
    one.freeze()
    await asyncio.sleep(LEASE + 25)
    assert two.worker.present("g") == {"b": BOB}
    one.thaw()
    await asyncio.sleep(LEASE / 3 + 1)
    await world.check(["g"])
    assert two.told["g"].counts == {("leave", "a"): 1, ("join", "a"): 1}
    await world.stop()


@in_fake_time
async def test_after_redis_was_restarted_empty_nothing_is_told_of_who_stayed():
    world = World()
    processes = [world.start() for _ in range(3)]
    for number, process in enumerate(processes):
        process.join("g", f"c{number}", ANN)
    await asyncio.sleep(1)
    counts = [dict(process.told["g"].counts) for process in processes]
    world.lose()
    processes[2].leave("g", "c2")
    for process in processes:
        await asyncio.sleep(0.5)
        process.heal()
    await asyncio.sleep(module.SETTLE + 1)
    await world.check(["g"])
    assert processes[0].told["g"].counts == {**counts[0], ("leave", "c2"): 1}
    assert processes[1].told["g"].counts == {**counts[1], ("leave", "c2"): 1}
    await world.stop()


@in_fake_time
async def test_nothing_is_asked_while_the_layer_is_away():
    world = World()
    one = world.start()
    one.join("g", "a", ANN)
    await one.worker.entered("g")
    one.cut()
    await asyncio.sleep(LEASE)
    calls = one.store.counts["calls"]
    one.join("g", "b", BOB)
    await one.worker.entered("g")
    await one.worker.flushed()
    await asyncio.sleep(LEASE)
    assert one.store.counts["calls"] <= calls + 1
    one.heal()
    await asyncio.sleep(module.SETTLE + 1)
    await world.check(["g"])
    await world.stop()


@in_fake_time
async def test_a_call_that_failed_is_made_again_and_logged_once(caplog):
    world = World()
    one = world.start()
    one.loses = 1.0
    one.join("g", "a", ANN)
    await asyncio.sleep(5)
    assert len(caplog.records) == 1
    assert "presence of group 'g' is not up to date: TimeoutError" in caplog.text
    one.loses = 0.0
    await asyncio.sleep(3)
    await world.check(["g"])
    await world.stop()


@in_fake_time
async def test_groups_without_join_leave_are_neither_told_nor_read():
    world = World()
    one, two = world.start(), world.start()
    one.join("g", "a", ANN, tells=False)
    two.join("g", "b", BOB, tells=False)
    await one.worker.entered("g")
    await asyncio.sleep(LEASE)
    assert (await world.store.members("g")).infos == {"a": ANN, "b": BOB}
    assert one.worker.present("g") == {} and not one.told
    one.worker.miss("g")
    one.worker.receive("g", [])
    await world.stop()


@in_fake_time
async def test_a_group_is_read_once_the_layer_has_subscribed():
    world = World()
    one, two = world.start(), world.start()
    two.join("g", "b", BOB)
    one.unjoined.add(module.group_key("g"))
    one.join("g", "a", ANN)
    await one.worker.entered("g")
    assert one.worker.present("g") == {}
    one.unjoined.clear()
    one.worker.miss("g")
    await one.worker.entered("g")
    assert one.worker.present("g") == {"a": ANN, "b": BOB}
    await world.stop()


@in_fake_time
async def test_only_the_first_connection_of_a_user_is_told_as_such_where_a_process_begins():
    world = World()
    told = []
    one, two = world.start(), world.start()
    two.join("g", "b", ANN)
    await two.worker.entered("g")
    one.worker._tell = lambda group, events: told.extend(events)
    one.join("g", "a", ANN)
    one.join("g", "c", BOB)
    one.join("g", "d", BOB)
    await one.worker.entered("g")
    assert [(event.kind, event.connection, event.is_users) for event in told] == [
        ("join", "a", False),
        ("join", "c", True),
        ("join", "d", False),
    ]
    await world.stop()


@in_fake_time
async def test_a_store_that_does_not_publish_has_the_events_published():
    world = World(publishes=False)
    one, two = world.start(), world.start()
    one.join("g", "a", ANN)
    two.join("g", "b", BOB)
    one.join("quiet", "a", ANN, tells=False)
    await asyncio.sleep(0.2)
    one.leave("g", "a")
    await asyncio.sleep(0.2)
    await world.check(["g"])
    assert two.told["g"].counts["leave", "a"] == 1
    await world.stop()


@in_fake_time
async def test_a_lost_join_is_found_by_the_renewals():
    world = World()
    one, two = world.start(), world.start()
    two.join("g", "b", BOB)
    await two.worker.entered("g")
    two.misses = 1
    one.join("g", "a", ANN)
    await asyncio.sleep(LEASE)
    await world.check(["g"])
    assert two.told["g"].counts["join", "a"] == 1
    await world.stop()


@in_fake_time
async def test_who_comes_back_before_the_leave_was_sent_is_told_on():
    world = World()
    one = world.start()
    one.join("g", "a", ANN)
    await one.worker.entered("g")
    one.leave("g", "a")
    one.join("g", "b", BOB)
    await one.worker.entered("g")
    await asyncio.sleep(0.1)
    await world.check(["g"])
    one.leave("g", "b")
    await one.worker.flushed()
    assert "g" not in one.worker._rosters
    assert one.worker.present("g") == {}
    await world.stop()


@in_fake_time
async def test_who_joins_while_the_last_one_leaves_is_told_of_though_it_was_not_heard():
    """The layer does not hear for a group whose last member here has left."""
    world = World()
    one, two = world.start(), world.start()
    one.join("g", "a", ANN)
    two.join("g", "c", ANN)
    await asyncio.gather(one.worker.entered("g", "a"), two.worker.entered("g", "c"))
    told = []
    one.worker._tell = lambda group, events: told.extend(events)
    one.unjoined.add(module.group_key("g"))
    one.leave("g", "a")
    one.misses = 2
    await asyncio.sleep(0)
    one.join("g", "b", BOB)
    await until(lambda: two.told["g"].counts["join", "b"])
    one.unjoined.clear()
    await one.worker.entered("g", "b")
    assert [(event.kind, event.connection) for event in told] == [("join", "b")]
    assert one.worker.present("g") == {"b": BOB, "c": ANN}
    # What was told of the two, each by a message.
    assert one.misses == 0
    await world.stop()


@in_fake_time
async def test_who_leaves_and_comes_back_at_once_is_told_to_have_done_so():
    world = World()
    one, two = world.start(), world.start()
    one.join("g", "a", ANN)
    two.join("g", "b", BOB)
    await two.worker.entered("g")
    await asyncio.sleep(1)
    told = []
    one.worker._tell = lambda group, events: told.extend(events)
    two.leave("g", "b")
    two.join("g", "b", BOB)
    await two.worker.entered("g")
    assert [(event.kind, event.connection) for event in told] == [("leave", "b"), ("join", "b")]
    two.join("g", "c", ANN)
    two.leave("g", "c")
    await two.worker.entered("g")
    assert len(told) == 2
    await world.stop()


@in_fake_time
async def test_who_waits_finds_itself_present_though_its_join_was_lost():
    world = World()
    one = world.start()
    one.join("g", "a", ANN)
    await one.worker.entered("g", "a")
    one.misses = 1
    one.join("g", "b", BOB)
    waiting = asyncio.ensure_future(one.worker.entered("g", "b"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    one.worker.miss("g")
    await waiting
    assert one.worker.present("g") == {"a": ANN, "b": BOB}
    await world.stop()


@in_fake_time
async def test_what_is_missed_while_a_group_is_read_has_it_read_again():
    world = World()
    one = world.start()
    one.join("g", "a", ANN)
    await one.worker.entered("g", "a")
    read, reads = one.store.members, []

    async def members(group):
        found = await read(group)
        reads.append(group)
        if len(reads) < 3:
            one.worker.miss(group)
        return found

    one.store.members = members
    one.worker.miss("g")
    await asyncio.sleep(1)
    assert reads == ["g"] * 3
    await world.stop()


@in_fake_time
async def test_the_end_releases_who_waits():
    world = World()
    one = world.start()
    one.freeze()
    one.join("g", "a", ANN)
    waiting = asyncio.ensure_future(one.worker.entered("g"))
    await asyncio.sleep(0)
    await world.stop()
    await waiting
    assert one.store.counts["closed"] == 1


@in_fake_time
async def test_who_waits_gives_up_after_the_time_of_one_call():
    world = World()
    one = world.start()
    one.freeze()
    one.join("g", "a", ANN)
    # Redis takes the call and says nothing.
    await one.worker.entered("g")
    one.thaw()
    await one.worker.entered("g")
    await world.check(["g"])
    await world.stop()
    await one.worker.entered("g")


GROUPS = ["g", "h", "quiet"]
USERS = ["ann", "bob", None]
PLAIN = ["join", "join", "leave"]
FAULTS = ["kill", "freeze", "thaw", "cut", "heal", "lose", "loses", "misses"]


class Schedule:
    """Random steps, with random times between them."""

    def __init__(self, seed, publishes=True):
        self.rng = random.Random(seed)
        self.world = World(seed, publishes)
        self.number = 0
        for _ in range(3):
            self.world.start()

    async def play(self, actions, steps):
        for _ in range(steps):
            action = self.rng.choice(actions)
            getattr(self, f"do_{action}")(self.rng.choice(self.world.running))
            if self.world.dying:
                await self.world.dying.pop().kill()
            await asyncio.sleep(self.rng.choice([0, 0.003, 0.02, 1, 10]))

    def do_join(self, process):
        self.number += 1
        group = self.rng.choice(GROUPS)
        info = Info(self.rng.choice(USERS), self.rng.choice([None, {"n": self.number}]))
        process.join(group, f"c{self.number}", info, group != "quiet")

    def do_leave(self, process):
        if process.connections:
            process.leave(*self.rng.choice(list(process.connections)))

    def do_rejoin(self, process):
        if process.connections:
            (group, connection), info = self.rng.choice(list(process.connections.items()))
            process.leave(group, connection)
            process.join(group, connection, info, group != "quiet")

    def do_kill(self, process):
        if len(self.world.running) > 2:
            self.world.dying.append(process)
        elif len(self.world.processes) < 6:
            self.world.start()

    def do_freeze(self, process):
        process.freeze()

    def do_thaw(self, process):
        process.thaw()

    def do_cut(self, process):
        process.cut()

    def do_heal(self, process):
        process.heal()

    def do_lose(self, process):
        self.world.lose()

    def do_loses(self, process):
        process.loses = 0.3

    def do_misses(self, process):
        process.misses = 1

    async def quiet(self):
        for process in self.world.running:
            process.thaw()
            process.heal()
            process.misses = 0
        await asyncio.sleep(2 * LEASE + 25)


#: Schedules that together run what the others do.
MEASURED = {0, 1, 2, 3, 4, 22}
SEEDS = [
    pytest.param(seed, marks=() if seed in MEASURED else pytest.mark.repeats) for seed in range(40)
]


@pytest.mark.parametrize("publishes", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@in_fake_time
async def test_after_quiet_presence_is_who_is_connected_and_what_was_told(seed, publishes):
    schedule = Schedule(seed, publishes)
    await schedule.play([*PLAIN * 4, "rejoin", *FAULTS], 120)
    await schedule.quiet()
    await schedule.world.check(GROUPS)
    assert all(process.counts["task_failed"] == 0 for process in schedule.world.processes)
    await schedule.world.stop()


@pytest.mark.parametrize("seed", SEEDS[:10])
@in_fake_time
async def test_without_outages_each_join_and_leave_is_told_once(seed):
    schedule = Schedule(seed)
    await schedule.play(PLAIN, 150)
    await asyncio.sleep(1)
    await schedule.world.check(GROUPS)
    for process in schedule.world.running:
        for told in process.told.values():
            assert set(told.counts.values()) <= {1}
    await schedule.world.stop()


@in_fake_time
async def test_at_the_end_answers_that_are_under_way_are_waited_for(monkeypatch):
    """What a call has made is known by its answer, and to nobody else."""
    world, gate, made = World(), asyncio.Event(), []
    one = world.start()
    one.join("g", "a", ANN)
    await one.worker.entered("g")
    store = one.worker._ledger._store
    real = store.change

    async def change(*calls):
        answers = await real(*calls)
        await gate.wait()
        return answers

    monkeypatch.setattr(store, "change", change)
    one.worker._made = lambda group, events: made.extend(event.kind for event in events)
    one.leave("g", "a")
    await asyncio.sleep(0.1)
    assert not one.worker._ledger.changed_groups
    flushed = asyncio.ensure_future(one.worker.flushed())
    await asyncio.sleep(0.1)
    assert not flushed.done() and made == []
    gate.set()
    await flushed
    assert made == ["leave"]
    await world.stop()
