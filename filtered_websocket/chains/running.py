"""
What runs for one connection and is not cancelled as soon as its socket is gone: calls, and
the leave chain. Like the filter that handles a message, each has ``FILTER_GRACE`` to return.
"""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Protocol

from ..exceptions import FilteredWebSocketError
from ..threads.tasks import GuardedTask
from .stalls import Grace


class Owner(Protocol):
    """The part of a connection that is used here."""

    id: str
    context: Context


class Pipeline(Protocol):
    """The part of a pipeline that is used here."""

    def failed(self, error: BaseException, where: Any, who: str = ...) -> None: ...


class Running:
    """The tasks of one connection. Belongs to the hub's event loop."""

    def __init__(self, connection: Owner, pipeline: Pipeline) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Once the socket is gone: cancel what has not returned.
        self._graces: dict[asyncio.Task[Any], Grace] = {}
        #: Set once the socket is gone.
        self.over = asyncio.Event()

    def begin(self, steps: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """A task of ``steps``, in the context of the connection's handshake."""
        task = GuardedTask(steps, name=name, context=self._connection.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self.over.is_set():
            self._graces[task] = Grace(task, self._connection)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        grace = self._graces.pop(task, None)
        if grace is not None:
            grace.stop()
        error = None if task.cancelled() else task.exception()
        # Ours have been told to the client, or logged.
        if error is not None and not isinstance(error, FilteredWebSocketError):
            self._pipeline.failed(error, self._connection, task.get_name())

    def stop(self) -> None:
        """The socket is gone: what runs is cancelled after FILTER_GRACE."""
        if not self.over.is_set():
            self.over.set()
            for task in self._tasks:
                self._graces[task] = Grace(task, self._connection)

    async def settled(self) -> None:
        """Return when nothing runs; nothing is cancelled."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stopped(self) -> None:
        """Return when nothing runs. A cancellation of the caller cancels it at once."""
        self.stop()
        while self._tasks:
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError:
                for task in self._tasks:
                    task.cancel()
