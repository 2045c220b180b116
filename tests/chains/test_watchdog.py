"""The watchdog thread, which reports the filter that blocks the event loop."""

import asyncio
import logging
import threading
from collections import Counter

import pytest

from filtered_websocket.chains import watchdog
from filtered_websocket.chains.chain import Chain
from filtered_websocket.chains.watchdog import Watchdog, find_blocker
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter
from ..waiting import LIMIT, wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watchdog, "INTERVAL", 0.02)


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "fws-watchdog"]


class Told(logging.Handler):
    """A handler that tells a blocked event loop when the warning about it was logged."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.came = threading.Event()

    def emit(self, record):
        self.lines.append(record.getMessage())
        self.came.set()

    def block_until(self, words):
        """Block until a line with ``words`` came: a busy machine may stop the loop elsewhere."""
        while not any(words in line for line in self.lines):
            assert self.came.wait(LIMIT)
            self.came.clear()


@pytest.fixture
def told():
    handler = Told()
    watchdog.logger.addHandler(handler)
    yield handler
    watchdog.logger.removeHandler(handler)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_filter_that_blocks_the_loop_is_named(told, is_async):
    def block(web_socket_instance, data):
        told.block_until(f"blocked by tests.connections.test_connection.{function.__name__} (")

    async def block_in_async(web_socket_instance, data):
        block(web_socket_instance, data)

    function = block_in_async if is_async else block
    async with connect([message_filter(function)]) as ann:
        await ann.send("x")
        await ann.settle()
        assert get_hub().counts["blocked"]
    [line] = [line for line in told.lines if function.__name__ in line]
    assert line.startswith("the event loop is blocked by ") and "threading.py:" in line


async def test_other_code_that_blocks_is_reported_by_its_line(told):
    dog = Watchdog(asyncio.get_running_loop(), Counter())
    dog.start()
    told.block_until("threading.py:")
    dog.stop()
    assert not any("test_connection" in line for line in told.lines)


class Pauses:
    """The pauses of the thread that watches: in each the loop ticks, or not."""

    def __init__(self, dog, ticks):
        self.dog = dog
        self.ticks = iter(ticks)

    def wait(self, seconds):
        tick = next(self.ticks, None)
        self.dog._ticks += tick == "x"
        return tick is None


async def test_it_is_logged_once_and_counted_every_time(told):
    counts = Counter()
    dog = Watchdog(asyncio.get_running_loop(), counts)
    dog._watch(threading.get_ident(), Pauses(dog, "x.x......x....x"))
    assert counts["blocked"] == 2 and len(told.lines) == 1


async def test_a_loop_that_works_is_not_blocked(told):
    counts = Counter()
    dog = Watchdog(asyncio.get_running_loop(), counts)
    dog._watch(threading.get_ident(), Pauses(dog, "x.x.xx.xx.x.x.x.x"))
    assert not counts and told.lines == []


class Clock:
    """A loop that is as late as the test says."""

    now = 100.0

    def time(self):
        return self.now

    def call_later(self, seconds, tick):
        return threading.Timer(0, tick)  # has a cancel(), and is not started


def test_how_late_the_loop_is_can_be_read(monkeypatch):
    clock = Clock()
    made = Watchdog(clock, Counter())
    assert (made.lag, made.worst_lag) == (0.0, 0.0)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    made.start()
    assert made.lag == 0.0
    for late in (0.25, 0.0):
        clock.now += watchdog.INTERVAL + late
        made._tick()
        assert made.lag == pytest.approx(late)
    assert made.worst_lag == pytest.approx(0.25)
    for _ in range(watchdog.LAGS):
        clock.now += watchdog.INTERVAL
        made._tick()
    assert made.worst_lag == pytest.approx(0.0)
    made.stop()


async def test_it_ends_with_its_hub():
    before = watchers()
    async with connect([]):
        [mine] = set(watchers()) - set(before)
    mine.join(LIMIT)
    assert not mine.is_alive()


class AskedLoop(asyncio.SelectorEventLoop):
    """Counts how often it is asked whether it runs."""

    asked = 0

    def is_running(self):
        self.asked += 1
        return super().is_running()


def test_a_loop_that_is_not_run_blocks_nobody_and_one_that_is_closed_ends_it(told):
    loop = AskedLoop()

    async def start():
        Watchdog(loop, Counter()).start()

    before = watchers()
    loop.run_until_complete(start())
    [mine] = set(watchers()) - set(before)
    asked = loop.asked
    assert wait_until(lambda: loop.asked > asked + 5)
    assert mine.is_alive() and told.lines == []
    loop.close()
    mine.join(LIMIT)
    assert not mine.is_alive()


def test_a_watchdog_that_never_began_stops_too():
    Watchdog(None, Counter()).stop()


def test_a_thread_that_has_ended_is_reported_as_such():
    assert find_blocker(None) == "a thread that has ended"


def test_the_chain_knows_its_filter_by_the_name_that_is_looked_for():
    for run in (Chain.run, Chain.arun):
        assert "path" in run.__code__.co_varnames


async def test_a_watchdog_goes_on_when_it_cannot_read_the_stack(told, monkeypatch):
    find, calls = watchdog.find_blocker, []

    def fail(frame):
        calls.append(frame)
        monkeypatch.setattr(watchdog, "find_blocker", find)
        raise KeyError("path")

    monkeypatch.setattr(watchdog, "find_blocker", fail)

    def block(web_socket_instance, data):
        assert told.came.wait(LIMIT)
        told.came.clear()

    async with connect([message_filter(block)]) as ann:
        for _ in range(2):
            await ann.send("x")
            await ann.settle()
        assert get_hub().counts["task_failed"] == 1
    assert len(calls) == 1
    assert "cannot tell what blocks" in told.lines[0] and "is blocked by" in told.lines[1]
