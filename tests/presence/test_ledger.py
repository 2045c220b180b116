"""The entries of one process: presence.ledger."""

import asyncio

import pytest

from filtered_websocket.presence.base import MAX_CHANGES, Info
from filtered_websocket.presence.ledger import Ledger

from .worlds import MemoryWorld, call, entry


class Watched:
    """A store that keeps the calls, and fails where a test says so."""

    def __init__(self, store):
        self._store = store
        self.calls = []
        self.reads = []
        self.error = None

    async def change(self, origin, calls):
        self.calls.append(calls)
        if isinstance(self.error, asyncio.CancelledError):
            raise self.error
        return [self.error] * len(calls) if self.error else await self._store.change(origin, calls)

    async def members(self, group):
        self.reads.append(group)
        if self.error:
            raise self.error
        return await self._store.members(group)


@pytest.fixture
def world():
    return MemoryWorld()


@pytest.fixture
def store(world):
    return Watched(world.store)


@pytest.fixture
def ledger(store):
    return Ledger(store, "a", lambda group: group != "silent")


async def connections(world, group="g"):
    return sorted((await world.store.members(group)).entries)


async def test_changes_of_several_groups_go_out_together(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    ledger.add("g", "c2", Info("bob"))
    ledger.add("silent", "c1", Info("ann"))
    assert (ledger.groups, ledger.is_settled) == (["g", "silent"], False)
    report = await ledger.flush()
    assert ledger.is_settled
    [calls] = store.calls
    assert [(call.group, call.tells, len(call.changes)) for call in calls] == [
        ("g", True, 2),
        ("silent", False, 1),
    ]
    assert [group for group, _ in report.events] == ["g", "silent"]
    assert report.revisions.keys() == {"g", "silent"} and report.errors == {}


async def test_who_came_and_went_before_a_flush_is_never_told(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    ledger.remove("g", "c1")
    ledger.remove("g", "never there")
    assert ledger.groups == []
    assert (await ledger.flush()).events == []
    assert await connections(world) == []


async def test_what_cannot_be_stored_changes_nothing(ledger):
    with pytest.raises(TypeError):
        ledger.add("g", "c1", Info(1))
    assert ledger.is_settled and not any(ledger._wanted.values())


async def test_many_changes_go_out_in_parts(world, store, ledger):
    for number in range(2 * MAX_CHANGES + 1):
        ledger.add("g", f"c{number}", Info(None))
    await ledger.flush()
    assert [len(calls[0].changes) for calls in store.calls] == [MAX_CHANGES, MAX_CHANGES, 1]
    assert len(await connections(world)) == 2 * MAX_CHANGES + 1


async def test_a_failed_call_is_compared_and_made_by_the_next_flush(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    store.error = ConnectionError("away")
    report = await ledger.flush()
    assert report.errors == {"g": store.error} and not ledger.is_settled
    assert (await ledger.flush()).errors == {"g": store.error}, "the reading failed"
    store.error = None
    assert (await ledger.flush()).errors == {}
    assert ledger.is_settled and await connections(world) == ["c1"]


async def test_a_lost_answer_is_told_once(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    ledger.add("g", "c2", Info("ann"))
    store.error = TimeoutError("no answer")
    await ledger.flush()
    await call(world.store, "a", "g", ("c1", entry("ann")), ("c2", entry("ann")))
    ledger.remove("g", "c2")
    store.error = None
    report = await ledger.flush()
    [(_, [event])] = report.events
    assert (event.kind, event.connection) == ("leave", "c2")


async def test_a_flush_that_was_cancelled_is_done_by_the_next_one(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    store.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await ledger.flush()
    store.error = None
    await ledger.flush()
    assert await connections(world) == ["c1"]


async def test_renewals_are_one_call_for_each_group_whoever_is_in_it(store, ledger):
    for number in range(20):
        ledger.add("g", f"c{number}", Info(None))
        ledger.add(f"g{number}", "c", Info(None))
    await ledger.flush()
    store.calls.clear()
    report = await ledger.renew()
    [calls] = store.calls
    assert [(call.changes, call.expires) for call in calls] == [((), True)] * 21
    assert len(report.revisions) == 21 and store.reads == [] and ledger.is_settled


async def test_a_process_that_slept_past_its_lease_adds_its_members_again(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    await ledger.flush()
    await call(world.store, "b", "g", ("c2", entry()))
    await world.end_lease("a", ["g"])
    await call(world.store, "b", "g", expires=True)
    await ledger.renew()
    assert not ledger.is_settled
    [(_, [event])] = (await ledger.flush()).events
    assert (event.kind, event.connection) == ("join", "c1")
    assert await connections(world) == ["c1", "c2"]


async def test_a_join_that_finds_the_lease_gone_brings_the_others_back(world, store, ledger):
    ledger.add("g", "c1", Info("ann"))
    await ledger.flush()
    await world.lose()
    ledger.add("g", "c2", Info("ann"))
    await ledger.flush()
    assert await connections(world) == ["c1", "c2"]


async def test_after_rejoin_every_group_is_compared_and_only_differences_are_sent(
    world, store, ledger
):
    for group in "gh":
        ledger.add(group, "c1", Info("ann"))
    await ledger.flush()
    await call(world.store, "a", "h", ("c1", None), ("other", entry()))
    store.calls.clear()
    ledger.rejoin()
    await ledger.flush()
    assert sorted(store.reads) == ["g", "h"]
    changes = [call.changes for calls in store.calls for call in calls]
    assert changes == [[("other", None), ("c1", entry("ann"))]]


async def test_entries_of_ended_leases_are_removed_by_as_many_calls_as_it_takes(
    world, store, ledger
):
    for at in range(3):
        names = [f"c{at}-{number}" for number in range(MAX_CHANGES)]
        await call(world.store, "dead", "g", *((name, entry()) for name in names))
    ledger.add("g", "c1", Info("ann"))
    await ledger.flush()
    await world.end_lease("dead", ["g"])
    store.calls.clear()
    report = await ledger.renew()
    assert len(store.calls) == 3
    assert sum(len(events) for _, events in report.events) == 3 * MAX_CHANGES
    assert await connections(world) == ["c1"]
