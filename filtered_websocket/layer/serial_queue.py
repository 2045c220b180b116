"""Bounded queues whose items are handled one at a time, by a task while there are any."""

import asyncio
import queue
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..threads.tasks import Tasks

T = TypeVar("T")


class SerialQueue(Generic[T]):
    """
    Awaits ``handle(item)`` for each item, in order.

    An item whose ``handle`` raises is lost, the next one is handled after a pause (see
    :class:`~filtered_websocket.threads.tasks.Tasks`). Belongs to one event loop.
    """

    def __init__(
        self, tasks: Tasks, handle: Callable[[T], Awaitable[None]], bound: int, name: str
    ) -> None:
        self._tasks = tasks
        self._handle = handle
        self._bound = bound
        self._name = name
        self._items: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def busy(self) -> bool:
        """Whether any item is queued or being handled."""
        return self._task is not None

    def put(self, item: T) -> None:
        """Queue ``item``; :exc:`queue.Full` past the bound."""
        if len(self._items) >= self._bound:
            raise queue.Full
        self._items.append(item)
        if self._task is None:
            self._task = self._tasks.start(self._run, self._name)
            self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._items:
            await self._handle(self._items.popleft())
        # No await since the loop's condition: nothing was queued meanwhile.
        self._task = None

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if self._task is task:  # it was cancelled
            self._task = None

    async def settled(self) -> None:
        """Return when no item is queued or being handled."""
        while self._task is not None:
            await asyncio.wait([self._task])
