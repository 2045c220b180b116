"""What one process has got of a history: follower."""

import gc
import sys

from filtered_websocket.history import follower as module
from filtered_websocket.history.base import Page, Position, Publication
from filtered_websocket.history.follower import Follower, Run

from .worlds import batch_of

E = "epoch"


def batch(first, *texts, epoch=E):
    return batch_of(*texts, number=first)._replace(epoch=epoch)


def texts(run):
    return None if run is None else [item.payload.decode() for item in run.items]


def page(first, *messages, epoch=E, top=None):
    items = batch(first, *messages).items
    found = [Publication(offset, item) for offset, item in enumerate(items, first)]
    return Page(found, Position(epoch, top or first + len(items) - 1))


def at(offset):
    follower = Follower()
    run = follower.answer(Position(E, offset), follower.ask())
    assert run == Run(E, offset + 1, [])
    return follower


def test_what_comes_in_order_is_handed_out_at_once():
    follower = at(6)
    assert texts(follower.take(batch(7, "a", "b"))) == ["a", "b"]
    assert texts(follower.take(batch(9, "c"))) == ["c"]
    assert follower.position == (E, 9, False) and not follower.asks_page


def test_what_has_come_already_is_dropped():
    follower = at(6)
    follower.take(batch(7, "a", "b"))
    assert follower.take(batch(7, "a", "b")) is None
    assert texts(follower.take(batch(8, "b", "c"))) == ["c"]
    assert not follower.asks_page


def test_what_skips_some_waits_for_them():
    follower = at(6)
    assert follower.take(batch(9, "c")) is None and follower.asks_page
    assert follower.take(batch(9, "c")) is None
    assert texts(follower.take(batch(7, "a"))) == ["a"] and follower.asks_page
    assert texts(follower.fill(page(7, "a", "b", "c", "d"), follower.ask())) == ["b", "c", "d"]
    assert not follower.asks_page and follower.position.offset == 10


def test_what_comes_before_the_first_position_is_kept_for_it():
    follower = Follower()
    assert follower.asks_top and not follower.asks_page
    asked = follower.ask()
    assert follower.take(batch(3, "old", "old too", "a")) is None
    assert texts(follower.answer(Position(E, 4), asked)) == ["a"]
    assert follower.position.offset == 5 and not follower._held and not follower._bytes


def test_a_hole_before_the_first_position_is_nobodys():
    follower = Follower()
    asked = follower.ask()
    follower.take(batch(2, "old"))
    follower.take(batch(4, "old too"))
    assert follower.answer(Position(E, 4), asked) == Run(E, 5, [])
    assert not follower.asks_page


def size(follower):
    """Bytes of what a follower has of its own, apart from numbers and texts."""
    seen, left = {}, [follower]
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, type | int | str):
            seen[id(one)] = one
            left += gc.get_referents(one)
    return sum(map(sys.getsizeof, seen.values()))


def test_what_it_needs_for_the_first_position_only_takes_no_memory_afterwards():
    follower = Follower()
    first, second = follower.ask(), follower.ask()
    assert follower.answer(Position(E, 6), second) is None
    assert size(follower) - size(at(6)) > 400
    follower.begin(Position(E, 6), first)
    # The answer comes when it has gone on already.
    assert follower.answer(Position(E, 5), first) is None
    assert follower.position == (E, 6, False) and size(follower) == size(at(6))


def test_it_begins_at_the_lowest_top_of_the_first_questions():
    follower = Follower()
    first, failed, last = follower.ask(), follower.ask(), follower.ask()
    follower.take(batch(4, "a", "b"))
    assert follower.answer(Position(E, 5), last) is None
    late = follower.ask()
    assert follower.answer(None, failed) is None and follower.asks_top
    assert texts(follower.answer(Position(E, 3), first)) == ["a", "b"]
    assert follower.answer(Position(E, 5), late) is None
    assert follower.position.offset == 5 and not follower.asks_page


def test_a_first_question_without_an_answer_leaves_it_to_the_others():
    follower = Follower()
    failed, asked = follower.ask(), follower.ask()
    assert follower.answer(Position(E, 5), asked) is None
    assert follower.answer(None, failed) == Run(E, 6, [])
    follower = Follower()
    assert follower.answer(None, follower.ask()) is None and follower.asks_top


def test_of_two_epochs_it_begins_with_the_one_that_was_found_later():
    follower = Follower()
    first, second = follower.ask(), follower.ask()
    assert follower.answer(Position("next", 7), second) is None
    assert follower.answer(Position(E, 3), first) == Run("next", 8, [])


def test_who_is_a_member_already_gets_what_has_come():
    follower = Follower()
    follower.keeps_all = True
    follower.ask()
    asked = follower.ask()
    follower.take(batch(4, "a"))
    assert texts(follower.answer(Position(E, 9), asked)) == ["a"]
    assert follower.asks_page and follower.position.offset == 4


def test_a_higher_top_or_another_epoch_is_something_that_is_missing():
    follower = at(6)
    follower.note_top(Position(E, 6))
    assert not follower.asks_page
    follower.note_top(Position(E, 7))
    assert follower.asks_page
    follower = at(6)
    follower.note_top(Position("other", 6))
    assert follower.asks_page
    follower = Follower()
    follower.note_top(Position(E, 7))
    assert not follower.asks_page and not follower.is_behind


def test_what_is_of_another_epoch_than_the_store_knows_is_dropped():
    follower = at(6)
    follower.take(batch(7, "old", epoch="gone"))
    assert follower.asks_page
    assert follower.fill(Page([], Position(E, 6)), follower.ask()) is None
    assert not follower.asks_page


def test_what_comes_after_the_question_may_be_of_a_newer_epoch():
    follower = at(6)
    asked = follower.ask()
    follower.take(batch(1, "new", epoch="next"))
    assert follower.fill(Page([], Position(E, 6)), asked) is None
    assert follower.asks_page
    assert texts(follower.begin(Position("next", 1), follower.ask())) == ["new"]


def test_more_than_may_wait_is_asked_for_instead(monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 2)
    follower = at(6)
    follower.take(batch(8, *"abcd"))
    assert follower.is_behind and len(follower._held) == 2
    assert texts(follower.take(batch(7, "x"))) is None
    assert len(texts(follower.fill(page(7, *"xabcd"), follower.ask()))) == 5
    assert follower._bytes == 0 and not follower._held


def test_where_nobody_can_be_asked_it_goes_on_with_what_came_last():
    follower = at(6)
    assert follower.skip() is None
    follower.take(batch(9, "a"))
    follower.take(batch(3, "b", epoch="next"))
    assert texts(follower.skip()) == ["b"]
    assert follower.position == ("next", 3, False) and not follower.asks_page
