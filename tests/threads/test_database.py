"""Threads for what the house asks the database: queries."""

import asyncio
import threading
import time

import pytest

from filtered_websocket.threads import blocking, database
from filtered_websocket.threads.database import run_query, time_limit


@pytest.fixture(autouse=True)
def ended():
    yield
    assert blocking.shut_down(10)


@pytest.fixture
def closings(monkeypatch):
    """How often connections were looked at."""
    seen = []
    monkeypatch.setattr(database, "close_old_connections", lambda: seen.append(1))
    return seen


async def test_filters_that_hog_their_threads_do_not_hold_up_the_house(settings):
    settings.FILTERED_WEBSOCKET = {"BLOCKING_THREADS": 1}
    gate = threading.Event()
    busy = asyncio.ensure_future(blocking.run_blocking(gate.wait, 30))
    assert (await run_query(threading.current_thread)).name.startswith("fws-query")
    gate.set()
    assert await busy


async def test_questions_that_wait_share_a_connection(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    answers = await asyncio.gather(*(run_query(lambda n=n: n) for n in range(20)))
    assert answers == list(range(20))
    assert blocking.shut_down(10)
    # Before the first and after the last, once or twice if the thread was quicker than we.
    assert 2 <= len(closings) < 20


async def test_where_questions_never_cease_a_connection_is_looked_at_in_time(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    monkeypatch.setattr(database, "SHARED_FOR", -1.0)
    await asyncio.gather(*(run_query(lambda n=n: n) for n in range(20)))
    assert blocking.shut_down(10)
    # Before each, and at the beginning and end of each batch of them.
    assert len(closings) >= 22


async def test_one_question_does_not_wait_for_another(closings):
    gate = threading.Event()
    slow = asyncio.ensure_future(run_query(gate.wait, 30))
    assert await run_query(lambda: "quick") == "quick"
    gate.set()
    assert await slow


async def test_what_a_question_raises_is_told_and_the_next_is_asked(closings):
    def fail():
        raise OSError("the database is away")

    with pytest.raises(OSError, match="the database is away"):
        await run_query(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run_query(next, iter(()))
    assert await run_query(lambda: 3) == 3


class Line:
    """QueryQueue that wait, and are answered as often as somebody looks."""

    def __init__(self, wait, moves):
        self.wait = wait
        self._moves = moves
        self._answered = 0

    @property
    def answered(self):
        self._answered += self._moves
        return self._answered


@pytest.mark.parametrize("line", [Line(True, False), Line(False, True)])
async def test_who_waits_for_nobody_or_for_ever_is_told_in_time(monkeypatch, line):
    monkeypatch.setattr(database, "_queue_of_queries", line)
    with pytest.raises(TimeoutError):
        async with time_limit(0.01):
            await asyncio.Event().wait()
    # Whatever is caught, no more looks come.
    async with time_limit(0.01):
        pass


async def test_who_waits_in_a_line_that_moves_has_more_time_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(database, "_queue_of_queries", Line(True, True))
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        async with time_limit(0.05):
            await asyncio.Event().wait()
    assert time.monotonic() - begin > 0.05 * (1 + 0.9 * (database.ANEW - 1))


async def test_answers_are_counted_and_who_waits_is_seen(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    line, gate = database.QueryQueue(), threading.Event()
    first = asyncio.wrap_future(line.put(gate.wait))
    second = asyncio.wrap_future(line.put(lambda: line.wait))
    assert line.wait and line.answered == 0
    gate.set()
    await first
    assert await second is False
    assert blocking.shut_down(10)
    assert line.answered == 2


async def test_who_gave_up_is_not_asked_for(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    gate, asked = threading.Event(), []
    slow = asyncio.ensure_future(run_query(gate.wait, 30))
    impatient = asyncio.ensure_future(run_query(asked.append, 1))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    gate.set()
    await slow
    assert await run_query(lambda: asked) == []


async def test_a_question_has_the_context_of_who_asks(closings):
    from contextvars import ContextVar

    who = ContextVar("who")
    who.set("ann")
    assert await run_query(who.get) == "ann"
