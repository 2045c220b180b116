"""Joining with a position: lines."""

import asyncio
from types import SimpleNamespace

import pytest

from filtered_websocket.history import lines as module
from filtered_websocket.history.base import Page, Position, check_position
from filtered_websocket.history.lines import NOT_RECOVERED, Joiner, Line, Passed, Recovery

from ..waiting import until

E = "epoch"


def passed(offset, size=1, exclude=()):
    return Passed(offset, f"m{offset}", size, exclude)


class Case:
    """One joiner that asks for what comes after ``since``, of a history up to ``tops``."""

    def __init__(self, sent, since, *tops):
        self.line = Line(SimpleNamespace(position=Position(E, sent)))
        self.since, self.tops = since, list(tops)
        self.answers = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0
        self.joiner = Joiner(self.line, "ann", self.prepare, self.answer)

    def answer(self, recovery):
        self.answers.append(recovery)
        return recovery

    async def read(self):
        self.reads += 1
        await self.gate.wait()
        top = self.tops.pop(0)
        return None if top is None else Page([], Position(E, top))

    async def prepare(self, page):
        return [passed(offset) for offset in range(self.since + 1, page.position.offset + 1)]

    def join(self):
        return asyncio.ensure_future(self.joiner.join(self.read))


def answer(offset, *offsets):
    return Recovery(True, Position(E, offset), [f"m{number}" for number in offsets])


def told(offset):
    """That it is not recovered, and from where on it is a member."""
    return Recovery(False, Position(E, offset), [])


async def test_what_is_sent_to_the_members_meanwhile_is_merged():
    case = Case(6, 4, 7)
    case.gate.clear()
    joined = case.join()
    await until(lambda: case.reads, 0)
    for offset in (7, 8, 9):
        case.line.note(E, passed(offset, exclude=("ann",) if offset == 8 else ()))
    case.gate.set()
    assert await joined == answer(9, 5, 6, 7, 9) == case.answers[0]
    assert case.line.joiners == {} and len(case.answers) == 1


async def test_it_waits_until_the_members_have_been_sent_as_much():
    case = Case(6, 6, 8)
    joined = case.join()
    await until(lambda: case.joiner._page is not None, 0)
    case.line.note(E, passed(7))
    assert case.answers == []
    case.line.note(E, Passed(8, None))
    assert await joined == answer(8, 7, 8)


async def test_what_is_lost_meanwhile_makes_it_ask_again():
    case = Case(6, 6, 8, 9)
    joined = case.join()
    await until(lambda: case.joiner._page is not None, 0)
    case.line.lose()
    case.line.move(Position(E, 9))
    assert await joined == answer(9, 7, 8, 9) and case.reads == 2


async def test_more_than_may_wait_makes_it_ask_again(monkeypatch):
    monkeypatch.setattr(module, "MAX_BUFFER", 2)
    case = Case(6, 6, 6, 10)
    case.gate.clear()
    joined = case.join()
    await until(lambda: case.reads, 0)
    for offset in range(7, 11):
        case.line.note(E, passed(offset))
    case.gate.set()
    assert await joined == answer(10, 7, 8, 9, 10) and case.reads == 2


async def test_a_line_that_jumps_makes_it_ask_again():
    case = Case(6, 6, 6, 9)
    case.gate.clear()
    joined = case.join()
    await until(lambda: case.reads, 0)
    case.line.move(Position(E, 9))
    case.gate.set()
    assert await joined == answer(9, 7, 8, 9) and case.reads == 2


async def test_it_does_not_ask_for_ever():
    case = Case(6, 6, 7, 7, 7)
    joined = case.join()
    for _ in range(module.MAX_ASKED):
        asked = case.reads
        await until(lambda asked=asked: case.reads > asked, 0)
        await until(lambda: case.joiner._page is not None, 0)
        case.line.lose()
    assert await joined == told(6) == case.answers[0]


async def test_what_cannot_be_read_is_no_answer_with_a_position():
    case = Case(6, 6, None)
    assert await case.join() == NOT_RECOVERED and case.answers == [NOT_RECOVERED]


async def test_members_that_are_sent_nothing_hold_it_up_for_a_limited_time(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    case = Case(6, 6, 7, 7, 7)
    assert await case.join() == told(6) == case.answers[0] and case.reads == module.MAX_ASKED


async def test_who_leaves_meanwhile_is_not_answered():
    case = Case(6, 6, 7)
    joined = case.join()
    await until(lambda: case.joiner._page is not None, 0)
    case.line.leave("bob")
    case.line.leave("ann")
    assert await joined == NOT_RECOVERED and case.answers == []


async def test_who_leaves_while_nothing_can_be_read_is_not_answered():
    case = Case(6, 6, None)
    case.gate.clear()
    joined = case.join()
    await until(lambda: case.reads, 0)
    case.line.leave("ann")
    case.gate.set()
    assert await joined == NOT_RECOVERED and case.answers == []


async def test_who_joins_twice_is_answered_by_the_later_one():
    case = Case(6, 6, 6, 6)
    case.gate.clear()
    earlier = case.join()
    later = Joiner(case.line, "ann", case.prepare, case.answer)
    earlier.cancel()
    await asyncio.wait([earlier])
    assert case.line.joiners == {"ann": later}
    case.gate.set()
    assert await later.join(case.read) == answer(6)


class Feed:
    """Of a line that falls behind."""

    def __init__(self, *pages):
        self.position = Position(E, 6)
        self.pages = list(pages)
        self.lost = 0

    def start(self, run):
        self.task = asyncio.ensure_future(run())
        return self.task

    async def read(self, since):
        self.asked = since
        return self.pages.pop(0)

    def lose(self):
        self.lost += 1


async def room():
    await asyncio.sleep(0)


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(module, "pause", lambda failures: 0)


async def test_what_had_no_room_is_read_again_until_all_is_there(no_pause):
    item = SimpleNamespace()
    whole = Page([(5, item), (6, item)], Position(E, 6))
    rest = Page([(6, item)], Position(E, 6))
    feed, put, places = Feed(None, whole, rest), [], [True, False, True]
    line = Line(feed)

    def put_in(position, item):
        put.append(position)
        return places.pop(0)

    line.fall_behind(Position(E, 4), put_in, room)
    assert line.is_behind
    await feed.task
    assert put == [(E, 5, False), (E, 6, False), (E, 6, False)] and not line.is_behind
    assert feed.asked == (E, 5, False) and feed.lost == 0


async def test_what_had_no_room_and_is_no_longer_kept_is_told():
    feed, put = Feed(Page([], Position(E, 6), recovered=False)), []
    line = Line(feed)
    line.fall_behind(Position(E, 4), lambda *call: put.append(call), room)
    await feed.task
    assert put == [(Position(E, 6), None)] and feed.lost == 1 and not line.is_behind


@pytest.mark.parametrize("since", [None, "e", ("e",), ("e", "1"), (1, 1), ("e", True), ["e", 1]])
def test_what_is_no_position_is_refused(since):
    with pytest.raises(TypeError, match=r"a position is \(epoch, offset\)"):
        check_position(since)


def test_a_position_is_taken_as_it_is_but_for_epochs_that_nobody_draws():
    assert check_position(Position("e", 1, True)) == ("e", 1, False)
    assert check_position(("e" * 65, -1)) == ("-", -1, False)


async def test_who_asked_together_shares_what_the_chain_makes_of_a_page():
    case, made = Case(7, 4), []

    async def prepare(page):
        made.append(page)
        return [passed(5)]

    pages = [Page([], Position(E, 7)), Page([], Position(E, 7))]
    for page in pages:
        first = await case.line.prepare(page, prepare)
        assert await case.line.prepare(page, prepare) is first
    assert [id(page) for page in made] == [id(page) for page in pages]
    await asyncio.sleep(0)
    assert case.line._prepared is None  # a page may be large
