"""Bounded queues whose items are handled one at a time, by a task while there are any."""

import asyncio
import queue
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from .budget import Budget
from .tasks import Tasks

T = TypeVar("T")


class SerialQueue(Generic[T]):
    """
    Awaits ``handle(item)`` for each item, in order.

    Holds at most ``bound`` items, and as many bytes as ``budget`` admits, by ``size_of(item)``.
    An item whose ``handle`` raises is lost, the next one is handled after a pause (see
    :class:`~filtered_websocket.threads.tasks.Tasks`). Belongs to one event loop.
    """

    def __init__(
        self,
        tasks: Tasks,
        budget: Budget,
        handle: Callable[[T], Awaitable[None]],
        size_of: Callable[[T], int],
        *,
        bound: int,
        name: str,
    ) -> None:
        self._tasks = tasks
        self._budget = budget
        self._handle = handle
        self._size_of = size_of
        self._bound = bound
        self._name = name
        #: Each with its size, which may change while it is handled.
        self._items: deque[tuple[T, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def busy(self) -> bool:
        """Whether any item is queued or being handled."""
        return self._task is not None

    def put(self, item: T) -> None:
        """Queue ``item``; raises :exc:`queue.Full` as :meth:`admit` does."""
        self.put_admitted(item, self.admit(item))

    def admit(self, item: T) -> int:
        """
        Count ``item``, which :meth:`put_admitted` will queue; its size. From any thread.

        Raises :exc:`queue.Full` past the bound or the budget.
        """
        if len(self._items) >= self._bound:
            raise queue.Full
        size = self._size_of(item)
        self._budget.admit(size)
        return size

    def put_admitted(self, item: T, size: int) -> None:
        """Queue what :meth:`admit` has counted; on the event loop only."""
        self._items.append((item, size))
        if self._task is None:
            self._task = self._tasks.start(self._run, self._name)
            self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._items:
            item, size = self._items.popleft()
            try:
                await self._handle(item)
            finally:
                self._budget.release(size)
        # No await since the loop's condition: nothing was queued meanwhile.
        self._task = None

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if self._task is task:  # it was cancelled
            self._task = None

    async def settled(self) -> None:
        """Return when no item is queued or being handled."""
        while self._task is not None:
            await asyncio.wait([self._task])
