"""Questions of one moment, asked in one call."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from filtered_websocket.threads import batches, blocking, database
from filtered_websocket.threads.batches import QUIET_TURNS, Batches

from ..waiting import LIMIT, limited, until

who = ContextVar("who", default="nobody")


@pytest.fixture(autouse=True)
def ended(monkeypatch):
    # No test's database is closed.
    monkeypatch.setattr(database, "close_old_connections", lambda: None)
    yield
    assert blocking.shut_down(10)


class Asked:
    """Answers in capitals, when it may; and which questions came together, in which context."""

    def __init__(self, most=500, seconds=LIMIT):
        self.calls = []
        self.gates = {}
        self.batches = Batches(self.answer, most, seconds)

    def answer(self, questions):
        texts = [text for text, future in questions if not future.done()]
        self.calls.append((who.get(), texts))
        for text in texts:
            if text in self.gates:
                self.gates[text].wait(LIMIT)
        if "everybody" in texts:
            raise OSError("the database is away")
        return [KeyError(text) if text == "wrong" else text.upper() for text, future in questions]

    def closed_gate(self, text):
        gate = self.gates[text] = threading.Event()
        return gate

    def ask(self, *texts, kind=None):
        return [self.batches.ask(text, kind) for text in texts]

    @property
    def is_idle(self):
        return not any(self.batches._lines.values())


async def test_questions_of_one_moment_are_one_call():
    asked = Asked()
    texts = [f"question {number}" for number in range(50)]
    answers = await asyncio.gather(*asked.ask(*texts))
    assert answers == [text.upper() for text in texts]
    assert asked.calls == [("nobody", texts)] and asked.is_idle


async def ask_in_turns(asked, count):
    """Ask one question in each turn of the loop, and wait for all answers."""
    waiting = []
    for number in range(count):
        waiting += asked.ask(f"question {number}")
        await asyncio.sleep(0)
    async with limited():
        await asyncio.gather(*waiting)


async def test_a_batch_grows_as_long_as_others_come(monkeypatch):
    monkeypatch.setattr(batches, "HOLD", LIMIT)
    asked = Asked()
    await ask_in_turns(asked, 30)
    assert [len(texts) for _, texts in asked.calls] == [30] and asked.is_idle
    asked.calls.clear()
    # One pauses for a turn or two, as each takes some from its socket to its question.
    waiting = asked.ask("one")
    for _ in range(QUIET_TURNS):
        await asyncio.sleep(0)
    waiting += asked.ask("two")
    async with limited():
        await asyncio.gather(*waiting)
    assert [texts for _, texts in asked.calls] == [["one", "two"]]


async def test_a_batch_does_not_wait_for_ever_for_others(monkeypatch):
    monkeypatch.setattr(batches, "HOLD", 0.0)
    asked = Asked()
    await ask_in_turns(asked, 30)
    assert len(asked.calls) > 1 and len(asked.calls[0][1]) == QUIET_TURNS + 1


async def test_a_batch_that_grows_may_become_full():
    asked = Asked(most=2)
    waiting = asked.ask("one")
    await asyncio.sleep(0)
    waiting += asked.ask("two")
    waiting += asked.ask("three")
    async with limited():
        assert await asyncio.gather(*waiting) == ["ONE", "TWO", "THREE"]
    assert sorted(texts for _, texts in asked.calls) == [["one", "two"], ["three"]]


async def test_one_kind_is_asked_in_the_context_of_its_first_and_apart_from_another():
    asked = Asked()

    async def ask(name, text, kind):
        who.set(name)
        return await asked.batches.ask(text, kind)

    rows = ("ann", "a", 1), ("bob", "b", 2), ("cy", "c", 1), ("dan", "d", 2)
    assert await asyncio.gather(*(ask(*row) for row in rows)) == ["A", "B", "C", "D"]
    assert sorted(asked.calls) == [("ann", ["a", "c"]), ("bob", ["b", "d"])]
    assert asked.is_idle


async def test_while_a_call_runs_the_next_grows_and_begins_at_its_end(monkeypatch):
    monkeypatch.setattr(batches, "HOLD", LIMIT)
    asked = Asked()
    gate = asked.closed_gate("first")
    [first] = asked.ask("first")
    await until(lambda: asked.calls)
    others = []
    for text in ("second", "third"):
        others += asked.ask(text)
        await asyncio.sleep(0)
    assert len(asked.calls) == 1
    gate.set()
    async with limited():
        assert await asyncio.gather(first, *others) == ["FIRST", "SECOND", "THIRD"]
    assert [texts for _, texts in asked.calls] == [["first"], ["second", "third"]]


async def test_a_call_that_takes_long_delays_nobody_for_long():
    asked = Asked()
    gates = [asked.closed_gate(text) for text in ("slow", "slower")]
    slow = asked.ask("slow")
    await until(lambda: asked.calls)
    async with limited():
        assert await asked.ask("quick")[0] == "QUICK"
        slow += asked.ask("slower")
        await until(lambda: len(asked.calls) == 3)
        assert await asyncio.gather(*asked.ask("quick", "more")) == ["QUICK", "MORE"]
        for gate in gates:
            gate.set()
        assert await asyncio.gather(*slow) == ["SLOW", "SLOWER"]


async def test_a_batch_that_is_full_is_asked_at_once():
    asked = Asked(most=3)
    async with limited():
        await asyncio.gather(*asked.ask(*"abcdefg"))
    assert sorted(texts for _, texts in asked.calls) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert asked.is_idle


async def test_what_is_wrong_with_one_question_is_raised_there():
    asked = Asked()
    answers = await asyncio.gather(*asked.ask("a", "wrong", "b"), return_exceptions=True)
    assert answers[::2] == ["A", "B"] and repr(answers[1]) == "KeyError('wrong')"


async def test_what_the_call_raises_is_raised_everywhere_and_the_next_one_is_answered():
    asked = Asked()
    answers = await asyncio.gather(*asked.ask("a", "everybody"), return_exceptions=True)
    assert list(map(repr, answers)) == ["OSError('the database is away')"] * 2
    assert await asked.ask("b")[0] == "B"


async def test_where_no_thread_can_be_started_everybody_is_told(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    asked = Asked()
    with monkeypatch.context() as patched:
        patched.setattr(batches, "start_query", fail)
        answers = await asyncio.gather(*asked.ask("a", "b"), return_exceptions=True)
    assert [str(error) for error in answers] == ["can't start new thread"] * 2
    assert asked.is_idle and await asked.ask("c")[0] == "C"


async def test_who_waits_no_more_is_not_asked_about_and_the_others_are_answered():
    asked = Asked()
    gate = asked.closed_gate("b")
    waiting = [asyncio.ensure_future(future) for future in asked.ask("a", "b", "c")]
    waiting[0].cancel()
    await until(lambda: asked.calls)
    waiting[1].cancel()
    gate.set()
    async with limited():
        assert await waiting[2] == "C"
    assert [texts for _, texts in asked.calls] == [["b", "c"]]
    assert waiting[0].cancelled() and waiting[1].cancelled()


async def test_where_no_answer_comes_in_time_everybody_is_told():
    asked = Asked(seconds=0.01)
    gate = asked.closed_gate("slow")
    async with limited():
        answers = await asyncio.gather(*asked.ask("slow", "b"), return_exceptions=True)
        assert [type(error) for error in answers] == [TimeoutError] * 2 and asked.is_idle
        # Late answers disturb nobody.
        gate.set()
        asked.batches._seconds = LIMIT
        assert await asked.ask("in time")[0] == "IN TIME"


async def test_who_waits_for_a_thread_or_for_others_is_told_in_time_too(monkeypatch):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    monkeypatch.setattr(batches, "HOLD", 0.0)
    asked = Asked()
    gate = asked.closed_gate("slow")
    async with limited():
        slow = asked.ask("slow")
        await until(lambda: asked.calls, 0)
        [line] = asked.batches._lines[asyncio.get_running_loop()].values()
        asked.batches._seconds = 0.1
        waiting = asked.ask("waits for a thread")
        await until(lambda: line.next is None, 0)
        monkeypatch.setattr(batches, "HOLD", LIMIT)
        waiting += asked.ask("waits for others")
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in answers] == [TimeoutError] * 2
        gate.set()
        assert await slow[0] == "SLOW"
        assert await asked.ask("in time")[0] == "IN TIME"
    assert [texts for _, texts in asked.calls if texts] == [["slow"], ["in time"]]


def test_a_loop_that_ends_while_questions_wait_is_not_kept():
    """Neither are the questions: each has a session."""

    async def leave(text):
        gates.append(asked.closed_gate(text))
        asked.ask(text)
        await until(lambda: len(asked.calls) == len(gates))

    asked, gates = Asked(), []
    try:
        with asyncio.Runner() as other:
            other.run(leave("a"))
            for text in "bc":
                asyncio.run(leave(text))
            assert len(asked.batches._lines) == 2 and other.get_loop() in asked.batches._lines
    finally:
        for gate in gates:
            gate.set()
