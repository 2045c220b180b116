"""The rules that both stores keep, and the one in this process: presence.memory."""

import pytest

from filtered_websocket.presence.base import MAX_CHANGES, Call, Entry, Stats
from filtered_websocket.presence.memory import MemoryStore

from .worlds import LEASE, MemoryWorld, call, entry


def kinds(answer):
    return [(event.kind, event.connection, event.is_users) for event in answer.events]


async def test_a_group_without_members_is_empty(world):
    assert await world.store.members("g") == (0, {})
    assert await world.store.stats("g") == Stats(0, 0)


async def test_members_are_told_with_their_process_and_info(world):
    ann = entry("ann", {"name": "Ännchen"})
    answer = await call(world.store, "a", "g", ("c1", ann), ("c2", entry()))
    assert (answer.before, answer.after, answer.has_more) == (0, 2, False)
    members = await world.store.members("g")
    assert members == (answer.revision, {"c1": Entry("a", ann), "c2": Entry("a", entry())})
    assert members.infos == {"c1": ("ann", {"name": "Ännchen"}), "c2": (None, None)}


async def test_a_change_is_told_once_however_often_it_is_sent(world):
    first = await call(world.store, "a", "g", ("c1", entry("u")), ("c2", None))
    assert kinds(first) == [("join", "c1", True)]
    again = await call(world.store, "a", "g", ("c1", entry("u")), ("c2", None))
    assert (again.before, again.after, again.events) == (1, 1, [])
    gone = await call(world.store, "a", "g", ("c1", None))
    assert (gone.after, kinds(gone)) == (0, [("leave", "c1", True)])
    again = await call(world.store, "a", "g", ("c1", None))
    assert (again.before, again.events) == (0, [])


async def test_revisions_rise_by_one_and_start_higher_after_everything_was_lost(world):
    first = await call(world.store, "a", "g", ("c1", entry()), ("c2", entry()))
    last = await call(world.store, "a", "g", ("c1", None))
    revisions = [event.revision for event in (*first.events, *last.events)]
    assert revisions == list(range(revisions[0], revisions[0] + 3))
    assert last.revision == revisions[-1]
    if isinstance(world, MemoryWorld):
        world.now += 0.001
    await world.lose()
    assert (await call(world.store, "a", "g", ("c1", entry()))).revision > last.revision


async def test_a_users_first_and_last_connection_are_told_across_processes(world):
    ann = entry("ann")
    assert kinds(await call(world.store, "a", "g", ("c1", ann))) == [("join", "c1", True)]
    assert kinds(await call(world.store, "b", "g", ("c2", entry("ann", 1)))) == [
        ("join", "c2", False)
    ]
    assert await world.store.stats("g") == Stats(2, 1)
    assert kinds(await call(world.store, "a", "g", ("c1", None))) == [("leave", "c1", False)]
    assert kinds(await call(world.store, "b", "g", ("c2", None))) == [("leave", "c2", True)]


async def test_all_anonymous_connections_are_one_user(world):
    await call(world.store, "a", "g", ("c1", entry()), ("c2", entry()), ("c3", entry("null")))
    assert await world.store.stats("g") == Stats(3, 2)


async def test_another_info_of_a_connection_is_a_leave_and_a_join(world):
    await call(world.store, "a", "g", ("c1", entry("ann")))
    answer = await call(world.store, "a", "g", ("c1", entry("bob")))
    assert kinds(answer) == [("leave", "c1", True), ("join", "c1", True)]
    assert (answer.before, answer.after) == (1, 1)
    assert await world.store.stats("g") == Stats(1, 1)


async def test_groups_know_nothing_of_each_other(world):
    answers = await world.store.change(
        "a", [Call("g", [("c1", entry("u"))]), Call("h", [("c1", entry("u"))])]
    )
    assert [kinds(answer) for answer in answers] == [[("join", "c1", True)]] * 2
    await call(world.store, "a", "g", ("c1", None))
    assert list((await world.store.members("h")).entries) == ["c1"]


async def test_events_are_told_to_the_group_unless_a_call_tells_nothing(world):
    heard = []
    await world.listen("a", lambda group, events: heard.append((group, events)), ["g"])
    told = await call(world.store, "a", "g", ("c1", entry("ü")), ("c2", entry()))
    await call(world.store, "a", "g", ("c3", entry()), tells=False)
    await call(world.store, "a", "g")
    await world.delivered()
    assert heard == [("g", told.events)]


# Leases


async def test_a_process_that_does_not_renew_is_removed_by_others_and_told_once(world):
    heard = []
    await world.listen("x", lambda group, events: heard.extend(events), ["g"])
    await call(world.store, "dead", "g", ("c1", entry("u")), ("c2", entry("v")))
    await call(world.store, "a", "g", ("c3", entry("u")))
    assert (await call(world.store, "a", "g", expires=True)).events == []
    await world.end_lease("dead", ["g"])
    assert (await call(world.store, "a", "g")).events == [], "this call looks for nothing"
    answers = [await call(world.store, origin, "g", expires=True) for origin in "ab"]
    assert sorted(kinds(answers[0])) == [("leave", "c1", False), ("leave", "c2", True)]
    assert answers[1].events == []
    await world.delivered()
    assert [event.kind for event in heard].count("leave") == 2
    assert list((await world.store.members("g")).entries) == ["c3"]


async def test_a_process_that_slept_and_was_not_missed_goes_on(world):
    await call(world.store, "a", "g", ("c1", entry()))
    await world.end_lease("a", ["g"])
    back = await call(world.store, "a", "g", expires=True)
    assert (back.before, back.after, back.events) == (1, 1, [])
    assert (await call(world.store, "b", "g", expires=True)).events == []


async def test_a_process_whose_entries_were_removed_finds_none(world):
    await call(world.store, "a", "g", ("c1", entry()))
    await call(world.store, "b", "g", ("c2", entry()))
    await world.end_lease("a", ["g"])
    await call(world.store, "b", "g", expires=True)
    back = await call(world.store, "a", "g", expires=True)
    assert (back.before, back.after) == (0, 0)
    assert kinds(await call(world.store, "a", "g", ("c1", entry()))) == [("join", "c1", False)]


async def test_many_entries_are_removed_in_parts_and_a_process_that_wakes_keeps_the_rest(world):
    names = [f"c{number}" for number in range(MAX_CHANGES + 20)]
    for at in range(0, len(names), MAX_CHANGES):
        part = names[at : at + MAX_CHANGES]
        await call(world.store, "dead", "g", *((name, entry()) for name in part))
    await call(world.store, "b", "g", ("b", entry("b")))
    await world.end_lease("dead", ["g"])
    first = await call(world.store, "b", "g", expires=True)
    assert (len(first.events), first.has_more) == (MAX_CHANGES, True)
    back = await call(world.store, "dead", "g", expires=True)
    assert (back.before, back.after, back.has_more) == (20, 20, False)
    await world.end_lease("dead", ["g"])
    last = await call(world.store, "b", "g", expires=True)
    assert (len(last.events), last.has_more) == (20, False)
    assert await world.store.stats("g") == Stats(1, 1)


# In this process


@pytest.fixture
def memory():
    return MemoryWorld()


async def test_what_nobody_renews_is_gone_a_third_of_a_lease_later(memory):
    await call(memory.store, "a", "g", ("c1", entry()))
    memory.now += LEASE * 4 / 3 - 1
    assert list((await memory.store.members("g")).entries) == ["c1"]
    memory.now += 1
    assert await memory.store.members("g") == (0, {})
    assert await memory.store.stats("g") == Stats(0, 0)


async def test_other_groups_calls_free_the_memory_of_what_nobody_renews(memory):
    for group in "ghi":
        await call(memory.store, "a", group, ("c1", entry()))
    memory.now += LEASE
    await call(memory.store, "a", "h")
    memory.now += LEASE
    await call(memory.store, "a", "h")
    assert list(memory.store._groups) == ["h"]


async def test_a_group_takes_no_memory_once_it_is_empty(memory):
    await call(memory.store, "a", "g", ("c1", entry()))
    await call(memory.store, "a", "g", ("c1", None))
    await call(memory.store, "b", "g")
    assert memory.store._groups == {}


async def test_the_clock_is_that_of_the_machine_where_none_is_given():
    store = MemoryStore(lambda group, events: None, 60.0)
    answer = await call(store, "a", "g", ("c1", entry()))
    assert answer.revision > 1_700_000_000_000_000
