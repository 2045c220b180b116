"""What one process tells its subscribers: presence.roster."""

from filtered_websocket.presence import roster as module
from filtered_websocket.presence.base import Entry, Event, Members
from filtered_websocket.presence.roster import Roster

from .worlds import entry

ANN, BOB = entry("ann"), entry("bob")


def joined(revision, connection, packed=ANN):
    return Event(revision, "join", connection, packed, False)


def left(revision, connection, packed=ANN):
    return Event(revision, "leave", connection, packed, False)


def members(revision, **packed):
    return Members(revision, {key: Entry("a", value) for key, value in packed.items()})


def read(roster, *found, **packed):
    roster.begin()
    return roster.refresh(members(*found, **packed))


def short(told):
    return [(event.kind, event.connection, event.is_users) for event in told]


def test_the_first_reading_tells_everyone():
    roster = Roster()
    assert roster.is_stale
    assert short(read(roster, 5, c1=ANN, c2=ANN)) == [("join", "c1", True), ("join", "c2", False)]
    assert not roster.is_stale
    assert (roster.members, roster.users) == ({"c1": ANN, "c2": ANN}, 1)


def test_what_follows_is_told_at_once_and_a_repetition_is_not():
    roster = Roster()
    read(roster, 5, c1=ANN)
    events = [joined(6, "c2"), left(7, "c1"), left(8, "c2")]
    told = [("join", "c2", False), ("leave", "c1", False), ("leave", "c2", True)]
    assert short(roster.apply(events)) == told
    assert roster.apply(events) == []
    assert (roster.members, roster.users, roster.is_stale) == ({}, 0, False)


def test_what_arrives_while_the_group_is_read_follows_the_difference():
    roster = Roster()
    roster.begin()
    assert roster.apply([joined(5, "c1"), joined(6, "c2", BOB)]) == []
    told = roster.refresh(members(5, c1=ANN))
    assert short(told) == [("join", "c1", True), ("join", "c2", True)]
    assert not roster.is_stale


def test_after_a_gap_nothing_is_told_until_the_group_is_read():
    roster = Roster()
    read(roster, 5, c1=ANN)
    assert roster.apply([joined(7, "c3")]) == [] and roster.is_stale
    assert roster.apply([joined(8, "c4")]) == []
    told = read(roster, 8, c2=BOB, c3=ANN)
    assert short(told) == [("leave", "c1", True), ("join", "c2", True), ("join", "c3", True)]


def test_another_info_is_told_as_a_leave_of_the_old_one_and_a_join():
    roster = Roster()
    read(roster, 5, c1=ANN)
    told = read(roster, 7, c1=BOB)
    assert [(event.kind, event.packed) for event in told] == [("leave", ANN), ("join", BOB)]


def test_a_gap_in_what_was_held_has_the_group_read_again():
    roster = Roster()
    roster.begin()
    roster.apply([joined(9, "c9")])
    assert roster.refresh(members(5)) == [] and roster.is_stale


def test_more_than_can_be_held_has_the_group_read_again(monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 2)
    roster = Roster()
    roster.begin()
    roster.apply([joined(6, "c1"), joined(7, "c2"), joined(8, "c3")])
    assert roster._held == []
    assert roster.refresh(members(5)) == [] and roster.is_stale
    assert len(read(roster, 8, c1=ANN, c2=ANN, c3=ANN)) == 3 and not roster.is_stale


def test_what_is_missed_during_a_reading_has_the_group_read_again():
    roster = Roster()
    roster.begin()
    roster.miss()
    assert short(roster.refresh(members(5, c1=ANN))) == [("join", "c1", True)]
    assert roster.is_stale


def test_a_reading_without_a_beginning_tells_the_difference_and_leaves_it_stale():
    roster = Roster()
    assert short(roster.refresh(members(5, c1=ANN))) == [("join", "c1", True)]
    assert roster.is_stale


def test_a_lost_last_event_is_found_by_the_second_renewal_after_it():
    roster = Roster()
    read(roster, 5, c1=ANN)
    roster.check(6)
    assert not roster.is_stale, "it may be under way"
    roster.check(6)
    assert roster.is_stale


def test_a_renewal_whose_answer_comes_after_newer_events_is_no_loss():
    roster = Roster()
    read(roster, 5)
    roster.check(5)
    roster.apply([joined(6, "c1"), joined(7, "c2")])
    roster.check(6)
    roster.check(7)
    assert not roster.is_stale


def test_a_store_that_went_back_is_found_by_the_next_renewal():
    roster = Roster()
    read(roster, 5)
    roster.check(5)
    roster.check(4)
    assert roster.is_stale


def test_a_join_that_is_known_and_a_leave_that_is_not_are_not_told():
    roster = Roster()
    read(roster, 5, c1=ANN)
    assert roster.apply([joined(6, "c1"), left(7, "c2")]) == []
    assert roster.members == {"c1": ANN}
