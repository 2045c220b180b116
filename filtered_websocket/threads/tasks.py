"""
Long-lived tasks of an event loop: one that ends by an exception is started again.

asyncio itself would drop such a task and report nothing until it is garbage-collected.
"""

import asyncio
import contextvars
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeAlias

from ..exceptions import ends_the_task
from ..logs import LogThrottle, get_logger

logger = get_logger(__name__)

#: Called to start a task: what it runs, and its name.
Start: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]], str], object]

#: Pause before a task that did not end is cancelled again, seconds.
CANCEL_AGAIN = 0.5
#: Longest pause before another attempt, seconds.
MAX_PAUSE = 1.0
#: A task that was started again counts as failing until it has run for this long, seconds.
STABLE_AFTER = 5.0


class GuardedTask(asyncio.Task[Any]):
    """A task that the code running in it cannot cancel; a site's filter may try to."""

    def cancel(self, msg: Any = None) -> bool:
        """As of any task; RuntimeError if the task itself calls it."""
        if asyncio.current_task(self.get_loop()) is self:
            raise RuntimeError(
                "this code cancels the task that runs it, which serves others as well:"
                " raise Drop instead"
            )
        return super().cancel(msg)


def runs_a_loop() -> bool:
    """Whether this thread runs an event loop now, and so must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def pause(failures: int) -> float:
    """Exponential back-off with full jitter, seconds."""
    return random.uniform(0.02, min(MAX_PAUSE, 0.05 * 2.0 ** min(failures, 10)))


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


class Tasks:
    """
    Starts tasks that survive exceptions of any class, except for KeyboardInterrupt.

    Each exception is logged (at most one line in 10 s for each task name) and counted as
    ``task_failed``; then the task is started again after a pause. It ends when ``run()``
    returns, or when it is cancelled. Belongs to one event loop.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._throttle = LogThrottle()
        self._unstable: dict[asyncio.Task[Any] | None, asyncio.TimerHandle] = {}

    @property
    def failing(self) -> bool:
        """Whether any task has failed within the last ``STABLE_AFTER``. Any thread."""
        return bool(self._unstable)

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        """A task that awaits ``run()``; whoever starts it cancels and awaits it."""
        # In an empty context, not in that of the connection whose message started it.
        context = contextvars.Context()
        return GuardedTask(self._keep_running(run, name), name=name, context=context)

    async def _keep_running(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = asyncio.current_task()
        failures = 0
        try:
            while True:
                started = time.monotonic()
                try:
                    await run()
                    return
                except BaseException as error:
                    # A CancelledError of something that run() awaited is a failure, too.
                    if ends_the_task(error) or (task is not None and task.cancelling()):
                        raise
                    if time.monotonic() - started > STABLE_AFTER:
                        failures = 0
                    failures += 1
                    self._failed(task, name, error)
                await asyncio.sleep(pause(failures))
        finally:
            self._forget(task)

    def _failed(self, task: asyncio.Task[Any] | None, name: str, error: BaseException) -> None:
        self._counts["task_failed"] += 1
        if self._throttle.note(name):
            logger.error("task %s failed and is started again", name, exc_info=error)
        self._forget(task)
        loop = asyncio.get_running_loop()
        self._unstable[task] = loop.call_later(STABLE_AFTER, self._forget, task)

    def _forget(self, task: asyncio.Task[Any] | None) -> None:
        timer = self._unstable.pop(task, None)
        if timer is not None:
            timer.cancel()
