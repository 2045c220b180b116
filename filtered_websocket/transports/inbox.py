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
from collections.abc import Sequence
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
QUEUE_ATTRIBUTES = ("_finished", "_getters", "_putters", "_queue", "_wakeup_next")
#: A queue of more than this is a deque: the rest of a list moves up for each that is taken.
MANY = 64


class SocketReader:
    """Pauses and resumes reading of one socket; keeps bytes that were read before the pause."""

    __slots__ = (
        "_protocol",
        "_socket",
        "_timer",
        "discards",
        "is_paused",
        "max_frames",
        "size",
        "unparsed",
    )

    def __init__(self, protocol: Any, socket: Any, max_frames: int) -> None:
        self._protocol = protocol
        self._socket = socket
        self._timer: asyncio.TimerHandle | None = None
        self.is_paused = False
        #: The connection ends: messages that are read from here on are thrown away.
        self.discards = False
        #: Bytes that have been read and not been parsed.
        self.unparsed = b""
        #: Most frames that are queued, and the bytes of those that are.
        self.max_frames = max_frames
        self.size = 0

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


class SmallQueue(asyncio.Queue[Any]):
    """
    An unbounded queue that takes 0.2 KiB while it is empty, and not 3.2: asyncio's own has
    four deques, which have 0.6 KiB each before anything is in them.

    :func:`make_small` sets the class of a server's queue. Without what nobody uses:
    ``maxsize``, ``join``.
    """

    _queue: Any
    _getters: Any

    def put_nowait(self, item: Any) -> None:
        if len(self._queue) == MANY and type(self._queue) is list:
            self._queue = deque(self._queue)
        self._queue.append(item)
        if self._getters:
            self._wakeup_next(self._getters)

    def get_nowait(self) -> Any:
        items = self._queue
        if not items:
            raise asyncio.QueueEmpty
        if type(items) is list:
            return items.pop(0)
        item = items.popleft()
        if not items:
            self._queue = []
        return item

    def _wakeup_next(self, waiters: "list[asyncio.Future[None]]") -> None:
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return


class MessageQueue(SmallQueue):
    """A server's queue of one connection, in which a message is kept as its bytes."""

    @property
    def items(self) -> Sequence[Event | Message]:
        """What is queued, as :meth:`take` returns it."""
        items: Sequence[Event | Message] = self._queue
        return items

    def arrival(self) -> "asyncio.Future[None]":
        """Done when something is queued; for the only one who takes, where nothing is."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._getters.append(future)
        return future

    def put_nowait(self, event: Event) -> None:
        if event["type"] == "websocket.receive":
            self.put_message(*message_of(event))
        else:
            super().put_nowait(event)

    def put_message(self, payload: bytes, text: bool) -> None:
        """Queue a message; the bytes of a text are UTF-8."""
        super().put_nowait((payload, text))

    def take(self) -> Event | Message:
        """The next message as its bytes, or the next other event; QueueEmpty if there is none."""
        item: Event | Message = super().get_nowait()
        return item

    def get_nowait(self) -> Event:
        item = self.take()
        if not isinstance(item, tuple):
            return item
        payload, text = item
        if text:
            return {"type": "websocket.receive", "text": payload.decode()}
        return {"type": "websocket.receive", "bytes": payload}


class Inbox(MessageQueue):
    """daphne's queue of one connection; :func:`limit_queue` sets its class."""

    #: Its reader, in the place of something that a small queue does not use: with a new
    #: attribute Python would give each queue a dict of its own.
    _putters: Any

    @property
    def reader(self) -> SocketReader:
        reader: SocketReader = self._putters
        return reader

    # Called once per frame, and so without calls of ``super().take()`` and the like.

    def put_message(self, payload: bytes, text: bool) -> None:
        reader = self._putters
        if not reader.discards:
            reader.size += len(payload)
            SmallQueue.put_nowait(self, (payload, text))
            if len(self._queue) >= reader.max_frames or reader.size >= MAX_BYTES:
                reader.pause()

    def take(self) -> Event | Message:
        item: Event | Message = SmallQueue.get_nowait(self)
        reader = self._putters
        if type(item) is tuple:
            reader.size -= len(item[0])
        if reader.is_paused:
            few = len(self._queue) <= reader.max_frames // 2
            if few and reader.size <= MAX_BYTES // 2:
                reader.resume()
        return item


class Received(MessageQueue):
    """uvicorn's queue of one connection."""

    #: The protocol whose short frames are parsed by ``transports.uvicorn``, or None; in the
    #: place of something that a small queue does not use.
    _putters: Any

    @property
    def is_fed(self) -> bool:
        """Whether its protocol's frames are parsed by this package."""
        return self._putters is not None

    def feed_from(self, protocol: Any) -> None:
        """``protocol`` has paused after a read, where it says so: resume it once this is empty."""
        self._putters = protocol

    def forget_protocol(self) -> None:
        """The connection has ended: leave no cycle of references."""
        self._putters = None

    def take(self) -> Event | Message:
        item = super().take()
        protocol = self._putters
        if protocol is not None and protocol.read_paused and not self._queue:
            if protocol.conn.reader.buffer:
                protocol.data_received(b"")
            # While the rest is parsed in turns, the socket stays paused.
            if protocol.read_paused and not self._queue:
                # As uvicorn's ``receive`` does: it pauses after each read.
                protocol.read_paused = False
                if not protocol.transport.is_closing():  # under TLS it might raise
                    protocol.transport.resume_reading()
        return item


def make_small(queue: Any, kind: type[SmallQueue] = SmallQueue) -> bool:
    """Make a :class:`SmallQueue` of ``queue``, if it is asyncio's own. Returns whether it is."""
    is_known = type(queue) is asyncio.Queue and all(hasattr(queue, n) for n in QUEUE_ATTRIBUTES)
    if not is_known:
        return False
    queue._queue, queue._getters = list(queue._queue), list(queue._getters)
    queue._putters = queue._finished = None
    queue.__class__ = kind
    return True


def limit_queue(queue: Any, reader: SocketReader) -> None:
    """Have ``queue`` pause ``reader``, if it is daphne's kind of queue."""
    # The application's ``receive`` is a method of this very object.
    if make_small(queue, Inbox):
        queue._putters = reader
        # Frames that were sent before the handshake was answered.
        early, queue._queue = queue._queue, []
        for event in early:
            queue.put_nowait(event)


def message_of(event: Event) -> Message:
    """The message in an event of the type ``websocket.receive``."""
    text = event.get("text")
    return (event["bytes"], False) if text is None else (text.encode(), True)


def peer_has_closed(descriptor: int) -> bool:
    """Whether the other end of a socket was closed, or reset; False where nobody can be asked."""
    if not hasattr(select, "poll"):  # Windows: a ping that is answered by a reset tells
        return False
    poll = select.poll()
    poll.register(descriptor, HANG_UP)
    return bool(poll.poll(0))
