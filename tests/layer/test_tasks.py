"""Ending tasks that may lose a cancellation: layer.tasks."""

import asyncio
import contextlib

from filtered_websocket.layer import tasks
from filtered_websocket.layer.tasks import end_tasks


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
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0)
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
    async with asyncio.timeout(60):
        await end_tasks([task])
    assert task.cancelled() and lost == 2
