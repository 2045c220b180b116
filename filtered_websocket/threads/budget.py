"""
Limits the memory of queues that clients can fill, in bytes and for a whole process.

Above half of a limit, connections that publish are not read; at the limit nothing more is
queued.
"""

import asyncio
import queue
import threading
from typing import Any

from ..conf import conf

#: About what a queued object takes besides its content, in bytes.
OVERHEAD = 400
#: Containers in an event are measured to this depth.
MAX_DEPTH = 4


def size_of_event(event: Any, depth: int = MAX_DEPTH) -> int:
    """The bytes that an event takes, about: texts, bytes, and builtin containers of such."""
    if isinstance(event, memoryview):
        return OVERHEAD + event.nbytes
    if isinstance(event, str | bytes | bytearray):
        return OVERHEAD + len(event)
    if isinstance(event, dict) and depth:
        content = [*event, *event.values()]
    elif isinstance(event, list | tuple | set | frozenset) and depth:
        content = list(event)
    else:
        return OVERHEAD
    return OVERHEAD + sum(size_of_event(part, depth - 1) for part in content)


class Budget:
    """
    Counts queued bytes against ``PUBLISH_QUEUE_BYTES``, and with ``limits_count`` also what
    is queued against ``PUBLISH_QUEUE``.

    From any thread, except for :meth:`release` and :meth:`wait_room`, which belong to the
    event loop.
    """

    def __init__(self, limits_count: bool = False) -> None:
        self._limits_count = limits_count
        #: What is queued, or admitted by another thread: how many, and how many bytes.
        self.count = self.bytes = 0
        self._lock = threading.Lock()
        self._room = asyncio.Event()
        #: Whether anybody waits for room.
        self._is_awaited = False

    @property
    def crowded(self) -> bool:
        """Whether more than half of a limit is in use."""
        if self.bytes > conf.PUBLISH_QUEUE_BYTES // 2:
            return True
        return self._limits_count and bool(self.count > conf.PUBLISH_QUEUE // 2)

    def check(self, size: int) -> None:
        """
        Raises :exc:`queue.Full` if ``size`` bytes more pass a limit.

        Something is admitted in any case if nothing else is queued.
        """
        if (self.bytes and self.bytes + size > conf.PUBLISH_QUEUE_BYTES) or (
            self._limits_count and self.count >= conf.PUBLISH_QUEUE
        ):
            raise queue.Full

    def admit(self, size: int) -> None:
        """
        Count ``size`` bytes; raises :exc:`queue.Full` as :meth:`check` does.

        Here and not on the event loop only, or many threads would be admitted to the last
        place.
        """
        with self._lock:
            self.check(size)
            self.count += 1
            self.bytes += size

    def add(self, size: int) -> None:
        """Count ``size`` bytes even if they pass a limit."""
        with self._lock:
            self.count += 1
            self.bytes += size

    def release(self, size: int, count: int = 1) -> None:
        """What was admitted is no longer queued."""
        with self._lock:
            self.count -= count
            self.bytes -= size
        if self._is_awaited and not self.crowded:
            self._is_awaited = False
            self._room.set()

    async def wait_room(self) -> None:
        """Return when at most half of each limit is in use."""
        while self.crowded:
            self._is_awaited = True
            self._room.clear()
            await self._room.wait()


async def wait_room(*budgets: Budget) -> None:
    """Return when at most half of each of them is in use."""
    while any(budget.crowded for budget in budgets):
        for budget in budgets:
            await budget.wait_room()
