"""
What daphne has read of one connection and nobody has asked for yet, with a bound.

daphne itself queues frames without end. Here its queue tells a gate when it is full, and
the socket is not read until there is room, so that the client has to wait::

    socket -> Gate -> autobahn -> Inbox -> receive()
               ^                    |
               +---- full / room ---+

Of what was read at once, what is past the bound waits at the gate as it came: to take it
apart takes its time, and all others would wait.
"""

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..types import Event
from .pace import REST

#: So many bytes are enough, whatever the number of frames.
MAX_BYTES = 1_048_576
#: How often it is looked whether the peer of a socket that is not read has gone, seconds.
LOOK_AGAIN = 1.0
#: Where the system tells it, also a peer that has left behind what is unread.
HANG_UP = getattr(select, "POLLRDHUP", 0)

#: What is used of asyncio's queue, and a Python to come may name otherwise.
USED_OF_QUEUE = ("_getters", "_queue", "_wakeup_next")


class Gate:
    """Whether the socket is read, and what was read of it since it should not be."""

    __slots__ = ("_protocol", "_socket", "_timer", "is_shut", "over", "rest")

    def __init__(self, protocol: Any, socket: Any) -> None:
        self._protocol = protocol
        self._socket = socket
        self._timer: asyncio.TimerHandle | None = None
        self.is_shut = False
        #: Nothing that is read from here on is asked for.
        self.over = False
        #: Bytes that have been read and not been taken apart.
        self.rest = b""

    @property
    def keeps(self) -> bool:
        """Whether what arrives now is to be added to the ``rest``."""
        return self.is_shut or bool(self.rest)

    def shut(self) -> None:
        if not self.is_shut and not self.over and self._socket.connected:
            self.is_shut = True
            self._socket.pauseProducing()
            self._look_later()

    def open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.is_shut = False
            self._go_on(REST)

    def _go_on(self, turns: int) -> None:
        """Take in more, ``turns`` of the event loop later: they are everybody else's."""
        if turns:
            asyncio.get_running_loop().call_soon(self._go_on, turns - 1)
            return
        rest, self.rest = self.rest, b""
        if rest:
            self._protocol.dataReceived(rest)
        if not self.is_shut:
            self._socket.resumeProducing()

    def finish(self) -> None:
        """The connection ends: what is left is read to its end, and thrown away."""
        self.over = True
        self.open()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look)

    def _look(self) -> None:
        """Who is not read must not be taken for dead, and who is dead must be found out."""
        protocol = self._protocol
        if not self._socket.connected or has_gone(self._socket.fileno()):
            # The reactor finds it out, and the application hears of it from daphne.
            self.finish()
            return
        if protocol.state == protocol.STATE_OPEN:
            # Not daphne's own ping, whose answer would have to be read in time. The system
            # of a peer that has left answers this one by a reset.
            protocol.last_ping = time.time()
            protocol.sendPing()
            # As if it had answered, for a server that waits for that.
            protocol.onPong(b"")
        self._look_later()


class Inbox(asyncio.Queue[Event]):
    """daphne's queue of one connection; :func:`bound` makes it one of these."""

    _queue: deque[Event]
    _getters: deque[asyncio.Future[None]]
    _wakeup_next: Callable[[deque[asyncio.Future[None]]], None]
    gate: Gate
    _most: int
    _size: int

    # Once per frame, and therefore without what nobody uses: ``maxsize``, ``join``.

    def put_nowait(self, event: Event) -> None:
        gate = self.gate
        if gate.over and event["type"] == "websocket.receive":
            return
        self._queue.append(event)
        self._size += len(event.get("text") or event.get("bytes") or b"")
        if len(self._queue) >= self._most or self._size >= MAX_BYTES:
            gate.shut()
        if self._getters:
            self._wakeup_next(self._getters)

    def get_nowait(self) -> Event:
        if not self._queue:
            raise asyncio.QueueEmpty
        event = self._queue.popleft()
        self._size -= len(event.get("text") or event.get("bytes") or b"")
        if self.gate.is_shut:
            few = len(self._queue) <= self._most // 2
            if few and self._size <= MAX_BYTES // 2:
                self.gate.open()
        return event


def bound(queue: Any, gate: Gate, most: int) -> None:
    """Have ``queue`` shut ``gate`` at ``most`` frames, if it is as daphne makes it."""
    if type(queue) is asyncio.Queue and all(hasattr(queue, name) for name in USED_OF_QUEUE):
        early = [queue.get_nowait() for _ in range(queue.qsize())]
        # One by one, and first: a dictionary of its own is five times as large.
        inbox: Any = queue
        inbox.gate = gate
        inbox._most = most
        inbox._size = 0
        # The application's ``receive`` is a method of this very object.
        queue.__class__ = Inbox
        # What was sent before the handshake was answered is there already.
        for event in early:
            queue.put_nowait(event)


def has_gone(descriptor: int) -> bool:
    """Whether the other end of a socket was closed, or reset."""
    poll = select.poll()
    poll.register(descriptor, HANG_UP)
    return bool(poll.poll(0))
