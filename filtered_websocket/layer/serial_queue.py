"""Bounded queues whose items are handled one at a time, by a task while there are any."""

import asyncio
import contextvars
import queue
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SerialQueue(Generic[T]):
    """
    Awaits ``handle(item)`` for each item, in order.

    ``handle`` must not raise. Belongs to one event loop; not thread-safe.
    """

    def __init__(self, handle: Callable[[T], Awaitable[None]], bound: int, name: str) -> None:
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
            # In an empty context, not in that of the first item's sender.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=self._name, context=contextvars.Context()
            )

    async def _run(self) -> None:
        try:
            while self._items:
                await self._handle(self._items.popleft())
        finally:
            self._task = None

    async def settled(self) -> None:
        """Return when no item is queued or being handled."""
        while self._task is not None:
            await asyncio.wait([self._task])
