"""What a client has sent to its stream by requests, and its session has not read yet: bounded."""

import asyncio
from collections import deque

from ..conf import conf
from ..transports.inbox import MAX_BYTES
from ..transports.scheduling import settle
from ..types import Event

#: Past ``MAX_INBOX`` commands, or ``MAX_BYTES``, requests are not answered until there is room.
#: A client that goes on, past so many times as many, has its stream closed.
MOST = 16
#: The same in bytes; more where ``MAX_MESSAGE_SIZE`` is more.
MOST_BYTES = 2 * MAX_BYTES
#: What a text takes besides its bytes.
OVERHEAD = 256


class Inbox:
    """The events of one stream. Belongs to its event loop."""

    __slots__ = ("_events", "_held", "_reader", "_size")

    def __init__(self) -> None:
        # An empty deque takes 0.6 KiB.
        self._events: deque[tuple[Event, int]] | None = None
        self._size = 0
        self._reader: asyncio.Future[None] | None = None
        self._held: asyncio.Future[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether requests are held back."""
        count = len(self._events or ())
        return count > conf.MAX_INBOX or self._size > MAX_BYTES

    def put(self, event: Event, size: int) -> bool:
        """Take an event with so many bytes; False if there is too much already."""
        events = self._events = self._events or deque()
        most_bytes = max(MOST_BYTES, conf.MAX_MESSAGE_SIZE)
        if len(events) >= MOST * conf.MAX_INBOX or self._size + size > most_bytes:
            return False
        self.add(event, size + OVERHEAD)
        return True

    def add(self, event: Event, size: int = 0) -> None:
        """Take an event in any case."""
        events = self._events = self._events or deque()
        events.append((event, size))
        self._size += size
        settle(self._reader)

    async def take(self) -> Event:
        """The next event, once there is one; for one reader at a time."""
        while not self._events:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event, size = self._events.popleft()
        self._size -= size
        self._events = self._events or None
        if not self.is_full:
            settle(self._held)
        return event

    async def room(self) -> None:
        """Return when requests are not held back any more."""
        while self.is_full:
            if self._held is None or self._held.done():
                self._held = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._held])

    def close(self) -> None:
        """Nobody reads it any more: forget what waits, and hold no request back."""
        self._events = None
        self._size = 0
        settle(self._held)
