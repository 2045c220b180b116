"""Ending tasks that call Redis, which may lose a cancellation."""

import asyncio
from collections.abc import Iterable
from typing import Any

#: Pause before a task that did not end is cancelled again, seconds.
CANCEL_AGAIN = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """
    Cancel ``tasks`` and return when all have ended.

    A task is cancelled more than once if need be: before Python 3.12, ``asyncio.wait_for``,
    which redis-py uses, ignores a cancellation that arrives just when it is done. The task
    would then go on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN)
