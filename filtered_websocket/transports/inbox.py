"""
What daphne has read of one connection and nobody has asked for yet, with a bound.

daphne itself queues frames without end. Here its queue tells a gate when it is full, and
the socket is not read until there is room, so that the client has to wait::

    socket -> Gate -> autobahn -> Inbox -> receive()
               ^                    |
               +---- full / room ---+
"""

import asyncio
import select
import time
from typing import Any

from ..types import Event

#: So many bytes are enough, whatever the number of frames.
MAX_BYTES = 1_048_576
#: How often it is looked whether the peer of a socket that is not read has gone, seconds.
LOOK_AGAIN = 1.0
#: Where the system tells it, also a peer that has left behind what is unread.
HANG_UP = getattr(select, "POLLRDHUP", 0)


class Gate:
    """Whether the socket is read."""

    def __init__(self, protocol: Any, socket: Any) -> None:
        self._protocol = protocol
        self._socket = socket
        self._timer: asyncio.TimerHandle | None = None
        #: Nothing that is read from here on is asked for.
        self.over = False

    @property
    def is_shut(self) -> bool:
        return self._timer is not None

    def shut(self) -> None:
        if not self.is_shut and not self.over and self._socket.connected:
            self._socket.pauseProducing()
            self._look_later()

    def open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
        self._look_later()


class Inbox(asyncio.Queue[Event]):
    """daphne's queue of one connection; :func:`bound` makes it one of these."""

    _gate: Gate
    _most: int
    _size: int

    def _put(self, event: Event) -> None:
        if self._gate.over and event["type"] == "websocket.receive":
            return
        super()._put(event)
        self._size += _weigh(event)
        self.look()

    def look(self) -> None:
        if self.qsize() >= self._most or self._size >= MAX_BYTES:
            self._gate.shut()

    def _get(self) -> Event:
        event: Event = super()._get()
        self._size -= _weigh(event)
        half = self.qsize() <= self._most // 2 and self._size <= MAX_BYTES // 2
        if half and self._gate.is_shut:
            self._gate.open()
        return event


def bound(queue: Any, gate: Gate, most: int) -> None:
    """Have ``queue`` shut ``gate`` at ``most`` frames, if it is as daphne makes it."""
    if type(queue) is asyncio.Queue:
        # What was sent before the handshake was answered is there already.
        waiting: Any = vars(queue)["_queue"]
        size = sum(map(_weigh, waiting))
        queue.__dict__.update(_gate=gate, _most=most, _size=size)
        # The application's ``receive`` is a method of this very object.
        queue.__class__ = Inbox
        queue.look()  # type: ignore[attr-defined]


def _weigh(event: Event) -> int:
    return len(event.get("text") or event.get("bytes") or b"")


def has_gone(descriptor: int) -> bool:
    """Whether the other end of a socket was closed, or reset."""
    poll = select.poll()
    poll.register(descriptor, HANG_UP)
    return bool(poll.poll(0))
