"""Threads for blocking filters: blocking."""

import asyncio
import threading

import pytest

from filtered_websocket.threads import blocking

from ..waiting import until


async def test_idle_threads_end_and_busy_ones_are_told():
    assert blocking.shut_down(1)
    gate = threading.Event()
    busy = asyncio.ensure_future(blocking.run_blocking(gate.wait, 30))
    await asyncio.sleep(0)
    assert not blocking.shut_down(0.01)
    await until(lambda: len(blocking.busy) == 1)
    gate.set()
    assert await busy
    await until(lambda: not blocking.busy)
    assert await blocking.run_blocking(lambda: 3) == 3
    assert blocking.shut_down(10)


async def test_a_thread_that_nobody_waits_for_is_named_until_it_returns(caplog):
    caplog.set_level("INFO", "filtered_websocket")
    begun, go = threading.Event(), threading.Event()

    def slow():
        begun.set()
        go.wait(60)

    task = asyncio.create_task(blocking.run_blocking(slow))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(blocking.abandoned.values()) == [f"{__name__}.{slow.__qualname__}"]
    assert "thread fws-blocking_" in caplog.text and "(1 of BLOCKING_THREADS = 8" in caplog.text
    go.set()
    await until(lambda: "has returned from" in caplog.text)
    assert blocking.abandoned == {}


async def test_a_call_that_has_not_begun_is_not_left_behind(caplog, settings):
    settings.FILTERED_WEBSOCKET = {"BLOCKING_THREADS": 1}
    go = threading.Event()
    blocking.shut_down(60)
    first = asyncio.create_task(blocking.run_blocking(go.wait, 60))
    second = asyncio.create_task(blocking.run_blocking(go.wait, 60))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go.set()
    await first
    assert blocking.abandoned == {} and "still runs" not in caplog.text
    blocking.shut_down(60)


@pytest.mark.parametrize(
    "error", [SystemExit, GeneratorExit, asyncio.CancelledError, KeyboardInterrupt, StopIteration]
)
async def test_what_would_end_a_process_or_a_task_becomes_an_error_of_the_thread(error):
    def fail():
        raise error("on purpose")

    words = f"{error.__name__}: on purpose"
    with pytest.raises(RuntimeError, match=words) as caught:
        await blocking.run_blocking(fail)
    assert isinstance(caught.value.__cause__, error)


def test_ctrl_c_in_the_main_thread_is_passed_on():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blocking.call_safely(interrupt)
