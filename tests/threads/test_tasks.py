"""Tasks that survive exceptions."""

import asyncio
import contextlib
import logging
from collections import Counter

import pytest

from filtered_websocket.threads import tasks as module
from filtered_websocket.threads.tasks import GuardedTask, Tasks, end_tasks, pause

from ..waiting import limited


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.setattr(module, "MAX_PAUSE", 0.02)
    return Tasks(Counter())


def failing(*errors):
    """What raises these, one each time that it is started; then it waits to be cancelled."""
    left = list(errors)
    runs = asyncio.Event()

    async def run():
        await asyncio.sleep(0)
        if left:
            raise left.pop(0)
        runs.set()
        await asyncio.Event().wait()

    return run, runs


async def end(task):
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_task_that_fails_is_started_again_counted_and_logged_once(tasks, caplog):
    errors = [
        ValueError("one"),
        SystemExit(3),
        asyncio.CancelledError(),
        ValueError("four"),
        GeneratorExit("five"),
    ]
    run, runs = failing(*errors)
    task = tasks.start(run, "fws-test")
    async with limited():
        await runs.wait()
    assert tasks._counts["task_failed"] == len(errors) and tasks.failing
    [record] = caplog.records
    assert record.levelno == logging.ERROR and "fws-test failed" in record.getMessage()
    assert "ValueError: one" in caplog.text
    await end(task)
    assert not tasks.failing


async def test_a_task_that_has_run_for_long_is_failing_no_more(tasks, monkeypatch):
    monkeypatch.setattr(module, "STABLE_AFTER", 0.0)
    run, runs = failing(ValueError(), ValueError())
    task = tasks.start(run, "fws-test")
    async with limited():
        await runs.wait()
        while tasks.failing:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await end(task)


async def test_a_task_ends_when_what_it_runs_returns(tasks):
    async def run():
        pass

    await tasks.start(run, "fws-test")
    assert not tasks._counts


async def test_a_task_cannot_be_cancelled_by_the_code_that_it_runs():
    refused = asyncio.Event()

    async def run():
        with pytest.raises(RuntimeError, match="cancels the task that runs it"):
            asyncio.current_task().cancel()
        refused.set()
        await asyncio.Event().wait()

    task = GuardedTask(run())
    async with limited():
        await refused.wait()
    await end(task)


async def test_a_task_that_is_cancelled_is_not_started_again_whatever_it_raises(tasks):
    begun = asyncio.Event()

    async def run():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    task = tasks.start(run, "fws-test")
    await begun.wait()
    task.cancel()
    with pytest.raises(ValueError):
        await task
    assert not tasks._counts


def test_ctrl_c_ends_the_program(tasks):
    async def run():
        raise KeyboardInterrupt

    async def main():
        await tasks.start(run, "fws-test")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


def test_pauses_grow_to_a_bound():
    assert all(0.02 <= pause(failures) <= 1.0 for failures in range(2000))


async def test_tasks_are_cancelled_and_have_ended():
    running = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(3)]
    await end_tasks(running)
    assert all(task.cancelled() for task in running)


async def test_without_a_task_that_runs_nothing_is_awaited():
    ended = asyncio.ensure_future(asyncio.sleep(0))
    await ended
    await end_tasks([])
    await end_tasks([ended])
    assert not ended.cancelled()


async def test_a_task_that_lost_a_cancellation_is_cancelled_again(monkeypatch):
    monkeypatch.setattr(module, "CANCEL_AGAIN", 0)
    lost = 0

    async def loses_two():
        nonlocal lost
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            lost += 1
        await asyncio.Event().wait()

    task = asyncio.ensure_future(loses_two())
    await asyncio.sleep(0)
    async with limited():
        await end_tasks([task])
    assert task.cancelled() and lost == 2
