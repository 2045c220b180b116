"""Threads for database queries."""

import asyncio
import os
import threading
from contextlib import suppress

import pytest

from filtered_websocket.logs import LogThrottle
from filtered_websocket.threads import blocking, database
from filtered_websocket.threads.database import run_query, within

from ..waiting import limited, run_in_fake_time


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


async def test_slow_blocking_filters_do_not_delay_queries(settings):
    settings.FILTERED_WEBSOCKET = {"BLOCKING_THREADS": 1}
    gate = threading.Event()
    busy = asyncio.ensure_future(blocking.run_blocking(gate.wait, 30))
    assert (await run_query(threading.current_thread)).name.startswith("fws-query")
    gate.set()
    assert await busy


async def test_queries_that_wait_share_a_connection(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    answers = await asyncio.gather(*(run_query(lambda n=n: n) for n in range(20)))
    assert answers == list(range(20))
    assert blocking.shut_down(10)
    # Before the first and after the last, once or twice if the thread was quicker than we.
    assert 2 <= len(closings) < 20


async def test_while_queries_never_cease_the_age_of_a_connection_is_checked(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    monkeypatch.setattr(database, "SHARED_FOR", -1.0)
    await asyncio.gather(*(run_query(lambda n=n: n) for n in range(20)))
    assert blocking.shut_down(10)
    # Before each, and at the beginning and end of each batch of them.
    assert len(closings) >= 22


async def test_one_query_does_not_wait_for_another(closings):
    gate = threading.Event()
    slow = asyncio.ensure_future(run_query(gate.wait, 30))
    assert await run_query(lambda: "quick") == "quick"
    gate.set()
    assert await slow


async def test_what_a_query_raises_reaches_its_caller_and_the_next_one_runs(closings):
    def fail():
        raise OSError("the database is away")

    with pytest.raises(OSError, match="the database is away"):
        await run_query(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run_query(next, iter(()))
    assert await run_query(lambda: 3) == 3


class Line:
    """A queue whose count of answers grows each time it is read."""

    def __init__(self, wait, moves):
        self.is_waiting = wait
        self._moves = moves
        self._answered = 0

    @property
    def answered(self):
        self._answered += self._moves
        return self._answered


@pytest.mark.parametrize("line", [Line(True, False), Line(False, True)])
async def test_a_time_limit_is_not_extended_while_the_queue_is_empty_or_stuck(monkeypatch, line):
    monkeypatch.setattr(database, "_queries", line)
    with pytest.raises(TimeoutError):
        await within(0.01, asyncio.Event().wait())
    # Whatever is caught, no more looks come.
    assert await within(0.01, asyncio.sleep(0, "a result")) == "a result"


def test_a_time_limit_is_extended_a_few_times_while_the_queue_moves(monkeypatch):
    monkeypatch.setattr(database, "_queries", Line(True, True))

    async def wait():
        with pytest.raises(TimeoutError):
            await within(10, asyncio.Event().wait())
        return asyncio.get_running_loop().time()

    # Nine seconds before each extension, and ten of the last.
    assert run_in_fake_time(wait()) == 9 * database.EXTENSIONS + 10


async def test_what_does_not_wait_sets_no_timer(monkeypatch):
    async def quick(error=None):
        if error is not None:
            raise error
        return 7

    def no_timer(*args):
        raise AssertionError("a timer")

    monkeypatch.setattr(database, "QueryTimer", no_timer)
    assert await within(10, quick()) == 7
    with pytest.raises(OSError, match="away"):
        await within(10, quick(OSError("away")))


async def test_steps_within_a_time_limit_are_those_of_an_await():
    """Values, exceptions, cancellation and close reach them after the first wait too."""
    loop = asyncio.get_running_loop()
    seen, waits, began = [], [loop.create_future() for _ in range(3)], asyncio.Queue()

    async def steps():
        for wait in waits:
            began.put_nowait(wait)
            try:
                seen.append(await wait)
            except BaseException as error:
                seen.append(error)
                if not isinstance(error, OSError):
                    raise

    task = asyncio.ensure_future(within(10, steps()))
    (await began.get()).set_result(1)
    (await began.get()).set_exception(failure := OSError("away"))
    await began.get()
    task.cancel("by a test")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[:2] == [1, failure] and seen[2].args == ("by a test",)

    waits = [loop.create_future()]
    coroutine = within(10, steps())
    coroutine.send(None)
    coroutine.close()
    assert isinstance(seen[3], GeneratorExit)


async def test_a_queue_counts_answers_and_says_whether_queries_wait(monkeypatch, closings):
    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    line, gate = database.QueryQueue(), threading.Event()
    first = asyncio.wrap_future(line.put(gate.wait))
    second = asyncio.wrap_future(line.put(lambda: line.is_waiting))
    assert line.is_waiting and line.answered == 0
    gate.set()
    await first
    assert await second is False
    assert blocking.shut_down(10)
    assert line.answered == 2


async def test_the_query_of_a_cancelled_caller_is_skipped(monkeypatch, closings):
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


async def test_a_query_runs_in_the_context_of_its_caller(closings):
    from contextvars import ContextVar

    who = ContextVar("who")
    who.set("ann")
    assert await run_query(who.get) == "ann"


async def test_connections_that_cannot_be_closed_take_no_thread_away(monkeypatch, caplog):
    def fail():
        raise OSError("closed twice")

    monkeypatch.setattr(database, "QUERY_THREADS", 1)
    monkeypatch.setattr(database, "close_old_connections", fail)
    # Others may have had the same line, which comes once in ten seconds.
    monkeypatch.setattr(database, "_throttle", LogThrottle())
    line = database.QueryQueue()
    for number in range(3):
        async with limited():
            assert await asyncio.wrap_future(line.put(lambda number=number: number)) == number
        assert blocking.shut_down(10)
    assert "cannot close old database connections: OSError('closed twice')" in caplog.text


class Pool:
    """Starts no thread, or runs what it is given when the test says so."""

    def __init__(self, starts):
        self.starts, self.given = starts, []

    def submit(self, run):
        if not self.starts:
            raise RuntimeError("can't start new thread")
        self.given.append(run)


def test_a_thread_waits_a_moment_for_the_next_query_before_connections_are_closed(
    monkeypatch, closings
):
    line, ran = database.QueryQueue(), []
    pool = Pool(True)
    monkeypatch.setattr(database, "thread_pool", lambda name, threads: pool)
    line.put(lambda: ran.append(len(closings)))
    [run] = pool.given
    # While a thread waits, none is started for a query that it can take.
    pool.starts = False
    arrivals = [lambda: line.put(lambda: ran.append(len(closings)))] * 2
    waits = []

    def wait_for(is_there, seconds):
        waits.append(seconds)
        if arrivals:
            arrivals.pop()()
        return is_there()

    monkeypatch.setattr(line._lock, "wait_for", wait_for)
    run()
    assert ran == [1, 1, 1] and len(closings) == 2
    assert waits == [database.LINGER] * 3 and not line.is_waiting
    # It has ended: another one is started.
    pool.starts = True
    line.put(lambda: None)
    assert len(pool.given) == 2


def test_a_thread_that_waits_serves_one_query_and_another_is_started_for_the_next(
    monkeypatch, closings
):
    line, pool = database.QueryQueue(), Pool(True)
    monkeypatch.setattr(database, "thread_pool", lambda name, threads: pool)
    line._threads = line._idle = 1
    line.put(lambda: None)
    assert not pool.given
    line.put(lambda: None)
    assert len(pool.given) == 1


def test_threads_that_cannot_be_started_do_not_count(monkeypatch, closings):
    pool, line, ran = Pool(False), database.QueryQueue(), []
    monkeypatch.setattr(database, "thread_pool", lambda name, threads: pool)
    for _ in range(2 * database.QUERY_THREADS):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            line.put(lambda: ran.append("nobody waits for it"))
    pool.starts = True
    line.put(lambda: ran.append(1))
    # Where a thread runs already, that is enough.
    pool.starts = False
    line.put(lambda: ran.append(2))
    [run] = pool.given
    run()
    assert ran == [1, 2] and not line.is_waiting


def test_a_forked_child_starts_threads_of_its_own(closings):
    """Those of its parent are not there, although a thread waits for a query."""

    async def ask():
        async with limited():
            return await run_query(lambda: 3), await blocking.run_blocking(lambda: 4)

    def fork():
        pid = os.fork()
        if pid == 0:
            status = 1
            with suppress(BaseException):
                status = 0 if asyncio.run(ask()) == (3, 4) else 2
            os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert asyncio.run(ask()) == (3, 4)
    assert fork() == 0
    assert asyncio.run(ask()) == (3, 4)


async def test_after_a_fork_no_thread_is_counted(closings):
    queue, pools = database._queries, blocking._pools
    assert await run_query(lambda: 3) == 3
    kept = dict(pools)
    blocking._forget()
    database._forget()
    try:
        assert not pools and database._queries._threads == 0
    finally:
        pools.update(kept)
        database._queries = queue
