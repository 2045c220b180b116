"""
A limit for the frames that daphne has read from one connection and no filter has seen.

daphne itself queues frames without a limit. Here, once its queue is full, the socket is
not read until there is room, so that the client has to wait::

    socket -> SocketReader -> autobahn -> Inbox -> receive()
                   ^                        |
                   +----- full / room ------+

Bytes that were read together with the frame that filled the queue are kept unparsed:
parsing them takes time, during which all other connections would wait.
"""

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..types import Event, Message
from .scheduling import YIELD_ITERATIONS

#: The queue is also full with this many bytes, whatever the number of frames.
MAX_BYTES = 1_048_576
#: How often a socket that is not read is checked for a client that has gone, seconds.
PEER_CHECK_INTERVAL = 1.0
#: Where the system has it: reports a closed connection although there are unread bytes.
HANG_UP = getattr(select, "POLLRDHUP", 0)

#: Attributes used of asyncio's queue; a future Python may rename them.
QUEUE_ATTRIBUTES = ("_getters", "_queue", "_wakeup_next")


class SocketReader:
    """Pauses and resumes reading of one socket; keeps bytes that were read before the pause."""

    __slots__ = ("_protocol", "_socket", "_timer", "discards", "is_paused", "unparsed")

    def __init__(self, protocol: Any, socket: Any) -> None:
        self._protocol = protocol
        self._socket = socket
        self._timer: asyncio.TimerHandle | None = None
        self.is_paused = False
        #: The connection ends: messages that are read from here on are thrown away.
        self.discards = False
        #: Bytes that have been read and not been parsed.
        self.unparsed = b""

    @property
    def keeps_bytes(self) -> bool:
        """Whether what arrives now is to be added to ``unparsed``."""
        return self.is_paused or bool(self.unparsed)

    def pause(self) -> None:
        if not self.is_paused and not self.discards and self._socket.connected:
            self.is_paused = True
            self._socket.pauseProducing()
            self._schedule_check()

    def resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.is_paused = False
            self._continue(YIELD_ITERATIONS)

    def _continue(self, iterations: int) -> None:
        """Parse and read more, ``iterations`` of the event loop later: others come first."""
        if iterations:
            asyncio.get_running_loop().call_soon(self._continue, iterations - 1)
            return
        unparsed, self.unparsed = self.unparsed, b""
        if unparsed:
            self._protocol.dataReceived(unparsed)
        if not self.is_paused:
            self._socket.resumeProducing()

    def finish(self) -> None:
        """The connection ends: read the rest, for the close frame, and throw messages away."""
        self.discards = True
        self.resume()

    def _schedule_check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PEER_CHECK_INTERVAL, self._check_peer)

    def _check_peer(self) -> None:
        """Notice a client that has gone, and keep daphne's timeouts from closing others."""
        protocol = self._protocol
        if not self._socket.connected or peer_has_closed(self._socket.fileno()):
            # Reading again, the reactor finds out, and daphne tells the application.
            self.finish()
            return
        if protocol.state == protocol.STATE_OPEN:
            # Not daphne's own ping, whose answer would have to be read in time. To this
            # one, the system of a client whose program has ended answers with a reset.
            protocol.last_ping = time.time()
            protocol.sendPing()
            # As if the client had answered, for a server that waits for that.
            protocol.onPong(b"")
        self._schedule_check()


class Inbox(asyncio.Queue[Event]):
    """daphne's queue of one connection; :func:`limit_queue` sets its class."""

    _queue: deque[Event | Message]
    _getters: deque[asyncio.Future[None]]
    _wakeup_next: Callable[[deque[asyncio.Future[None]]], None]
    reader: SocketReader
    _max_frames: int
    _size: int

    @property
    def items(self) -> deque[Event | Message]:
        """What is queued, as :meth:`take` returns it."""
        return self._queue

    # Called once per frame, and so without what nobody uses: ``maxsize``, ``join``.

    def put_nowait(self, event: Event) -> None:
        if event["type"] == "websocket.receive":
            self.put_message(*message_of(event))
        else:
            self._append(event, 0)

    def put_message(self, payload: bytes, text: bool) -> None:
        """Queue a message, which is kept as its bytes; those of a text are UTF-8."""
        if not self.reader.discards:
            self._append((payload, text), len(payload))

    def _append(self, item: Event | Message, size: int) -> None:
        self._queue.append(item)
        self._size += size
        if len(self._queue) >= self._max_frames or self._size >= MAX_BYTES:
            self.reader.pause()
        if self._getters:
            self._wakeup_next(self._getters)

    def take(self) -> Event | Message:
        """The next message as its bytes, or the next other event; only if there is one."""
        item = self._queue.popleft()
        if type(item) is tuple:
            self._size -= len(item[0])
        if self.reader.is_paused:
            few = len(self._queue) <= self._max_frames // 2
            if few and self._size <= MAX_BYTES // 2:
                self.reader.resume()
        return item

    def get_nowait(self) -> Event:
        if not self._queue:
            raise asyncio.QueueEmpty
        item = self.take()
        if not isinstance(item, tuple):
            return item
        payload, text = item
        if text:
            return {"type": "websocket.receive", "text": payload.decode()}
        return {"type": "websocket.receive", "bytes": payload}


def message_of(event: Event) -> Message:
    """The message in an event of the type ``websocket.receive``."""
    text = event.get("text")
    return (event["bytes"], False) if text is None else (text.encode(), True)


def limit_queue(queue: Any, reader: SocketReader, most: int) -> None:
    """Have ``queue`` pause ``reader`` at ``most`` frames, if it is daphne's kind of queue."""
    if type(queue) is asyncio.Queue and all(hasattr(queue, name) for name in QUEUE_ATTRIBUTES):
        early = [queue.get_nowait() for _ in range(queue.qsize())]
        # Set one by one, before the class: an update of __dict__ takes five times the memory.
        inbox: Any = queue
        inbox.reader = reader
        inbox._max_frames = most
        inbox._size = 0
        # The application's ``receive`` is a method of this very object.
        queue.__class__ = Inbox
        # Frames that were sent before the handshake was answered.
        for event in early:
            queue.put_nowait(event)


def peer_has_closed(descriptor: int) -> bool:
    """Whether the other end of a socket was closed, or reset; False where nobody can be asked."""
    if not hasattr(select, "poll"):  # Windows: a ping that is answered by a reset tells
        return False
    poll = select.poll()
    poll.register(descriptor, HANG_UP)
    return bool(poll.poll(0))
