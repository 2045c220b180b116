"""
uvicorn's lane: a frame is written to the asyncio transport directly; ``send`` would take a
coroutine and a copy per connection. Short frames are parsed here, as in ``daphne_reading``:
websockets' parser takes 6 microseconds for one, this a fourth of that. Other frames are
parsed by websockets, a slice at a time: the event loop reads up to 256 KiB at once, and
thousands of fragments or pings take 10 to 20 ms.

What a slow client has not read waits here past ``HIGH_WATER``, one frame for all members of a
group: asyncio of Python 3.11 copies what it keeps.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Collection, Set
from operator import attrgetter
from typing import Any, ClassVar

from ..codecs.frames import LONGEST_SHORT, Bundle, Frame, begins_short_frame, read_short_frame
from ..logs import get_logger
from ..types import Receive, Send
from .asgi import HIGH_WATER, AsgiTransport
from .inbox import MessageQueue, Received, make_small
from .lane import NOBODY, Lane, abort, abort_unsent, send_at_once, unsent_of
from .scheduling import TURN, is_between_frames, parse_in_turns, parse_rest, settle

logger = get_logger(__name__)

MODULE = "uvicorn.protocols.websockets.websockets_sansio_impl"
#: Attributes used of uvicorn's protocol object, and of the asyncio transport below it.
protocol_attributes = attrgetter("close_sent", "conn.extensions", "transport")
transport_attributes = attrgetter(
    "abort", "get_extra_info", "get_write_buffer_size", "is_closing", "write"
)

#: Most frames that are parsed before they are handled, and after how many each the clock is read.
MAX_AT_ONCE, LOOK_EVERY = 256, 16
#: Attributes used for reading.
reading_attributes = attrgetter(
    "close_sent",
    "config.ws_max_size",
    "conn.debug",
    "conn.parser_exc",
    "conn.parser.gi_yieldfrom",
    "conn.reader.buffer",
    "conn.state",
    "queue",
    "read_paused",
    "transport.pause_reading",
    "transport.resume_reading",
    "transport.set_protocol",
)

#: Where the client agreed to compression, payloads of this size and more are compressed.
#: Smaller ones are sent uncompressed, which RFC 7692 section 6 allows.
COMPRESS_FROM = 1024
#: No payload is this long: nothing is compressed.
NEVER = sys.maxsize


class UvicornLane(Lane):
    """uvicorn's sans-I/O protocol, also with TLS and compression."""

    __slots__ = ("_limit", "_protocol", "_transport")

    lane: ClassVar[str] = "uvicorn's lane, written straight to its transport"
    server: ClassVar[str] = "uvicorn"

    def __init__(
        self,
        protocol: Any,
        limit: int,
        send: Send,
        max_unsent: int,
        on_end: Callable[[int, str], None],
    ) -> None:
        super().__init__(send, max_unsent, on_end)
        self._protocol = protocol
        self._transport = protocol.transport
        self._limit = limit
        self._direct = True

    def write(self, frame: Frame | Bundle, done: "asyncio.Future[None] | None" = None) -> None:
        if self._protocol.close_sent or self._transport.is_closing():
            settle(done)  # the server reports the end of the connection itself
        else:
            # An awaited write waits for a slow reader, as ``send`` does.
            super().write(frame, done)

    @staticmethod
    def write_directly(
        transports: Collection[AsgiTransport],
        frame: Frame | Bundle,
        skipped: Set[AsgiTransport] = NOBODY,
    ) -> None:
        # In one function: of a message to many, calls would cost as much as the rest.
        wire = frame.wire or frame.encode()
        size, longest = len(wire), frame.longest
        for lane in transports:
            if lane in skipped:
                continue
            if not isinstance(lane, UvicornLane) or not lane._idle:
                lane.write(frame)
                continue
            if longest >= lane._limit:
                lane.write_in_order(frame)
                continue
            transport = lane._transport
            if lane._protocol.close_sent or transport.is_closing():
                continue
            try:
                unsent = transport.get_write_buffer_size()
                if unsent > HIGH_WATER:
                    lane.write_in_order(frame)
                elif unsent + size <= lane._max_unsent:
                    transport.write(wire)
                elif len(frame.parts) > 1:
                    for part in frame.parts:
                        lane.write(part)
                else:
                    lane.overflow(is_kept=frame.is_kept)
            except Exception as error:
                lane._fail_soon(error)

    def open(self) -> None:
        send_at_once(self._transport)
        make_small(getattr(self._protocol, "queue", None), Received)
        if read_short_frames(self._protocol):
            self._protocol.on_end = self._on_end
        super().open()

    def inbox_of(self, receive: Receive) -> MessageQueue | None:
        is_bare = getattr(receive, "__self__", None) is self._protocol
        queue = getattr(self._protocol, "queue", None)
        return queue if is_bare and isinstance(queue, Received) and queue.is_fed else None

    @property
    def disconnected(self) -> bool:
        closing: bool = self._transport.is_closing()
        return closing

    def _buffered(self) -> int:
        return unsent_of(self._transport)

    async def send_close(self, code: int, reason: str) -> None:
        await super().send_close(code, reason)
        if type(self._protocol) in _reading_classes.values():
            # The client's close frame may wait behind messages that nobody takes any more.
            self._protocol.data_received(b"")

    def _close_timed_out(self) -> None:
        # uvicorn would wait for a client that does not read, and keep what is unsent.
        abort(self._transport)
        super()._close_timed_out()

    def _report_end(self) -> None:
        was_over = self._has_ended
        queue = getattr(self._protocol, "queue", None)
        if isinstance(queue, Received):
            queue.forget_protocol()
            self._protocol.on_end = None
        super()._report_end()
        if not was_over and self._buffered():
            # Nor does uvicorn itself close the socket of a client that does not read.
            loop = asyncio.get_running_loop()
            loop.call_later(self.close_timeout, abort_unsent, self._transport)


# In one function: it runs for every read of every socket.
def data_received(self: Any, data: bytes) -> None:
    """
    ``data_received`` of a protocol whose short frames are parsed here: for a turn, and
    ``MAX_AT_ONCE`` at most.

    The rest, and the begin of a short frame, wait in the buffer of websockets' parser. From
    the first other frame on, and in any other state, it gets all.
    """
    if self.unparsed:
        self.unparsed += data  # under TLS, some was decrypted before the pause
        return
    conn = self.conn
    kept = conn.reader.buffer
    is_between = self.is_between_frames()
    if (
        conn.state is not self.open_state
        or getattr(conn, self.begun_size) is not None
        or self.close_sent
        or not is_between
    ):
        if kept and is_between:
            data = bytes(kept) + data
            kept.clear()
        parse_in_turns(self, data)
        return
    # Not copied: it may be a read of 256 KiB, of which each turn takes a part.
    source: Any = kept or data
    if kept:
        kept += data
    put = self.queue.put_message
    at = count = 0
    began = time.perf_counter()
    is_over = False
    while not is_over and (found := read_short_frame(source, at)) is not None:
        payload, text, at = found
        count += 1
        put(payload, text)
        if not count % LOOK_EVERY:
            is_over = count == MAX_AT_ONCE or time.perf_counter() - began >= TURN
    if count and not self.read_paused:
        self.read_paused = True
        self.transport.pause_reading()
    if source is kept:
        del kept[:at]
    else:
        kept += data[at:]
    if not (is_over or begins_short_frame(kept)):
        data = bytes(kept)
        kept.clear()
        parse_in_turns(self, data)


#: Class of a protocol -> its subclass that parses short frames.
_reading_classes: dict[type, type] = {}


def read_short_frames(protocol: Any) -> bool:
    """Parse short frames of ``protocol`` here from now on. Returns whether that is possible."""
    kind, queue = type(protocol), getattr(protocol, "queue", None)
    try:
        reading_attributes(protocol)
        if kind not in _reading_classes:
            _reading_classes[kind] = _make_reading_class(kind, protocol.conn)
    except AttributeError as error:
        logger.warning(
            "frames are read by websockets, whose release differs from those that this package"
            " supports (%s)",
            error,
        )
        return False
    if (
        type(queue) is not Received
        or protocol.conn.debug
        or 0 < (protocol.config.ws_max_size or 0) < LONGEST_SHORT
    ):
        return False
    queue.feed_from(protocol)
    protocol.__class__ = _reading_classes[kind]
    # uvloop keeps the method that it calls.
    protocol.transport.set_protocol(protocol)
    return True


def _make_reading_class(kind: type, conn: Any) -> type:
    """A subclass of ``kind``; AttributeError for a release of websockets that is not known."""
    names = {
        "__module__": kind.__module__,
        "unparsed": b"",
        "on_end": None,
        "data_received": data_received,
        "connection_lost": parse_rest,
        "is_between_frames": is_between_frames,
        "open_state": sys.modules["websockets.protocol"].State.OPEN,
        "waits_for_more": type(conn.reader).at_eof.__code__,
        # As websockets 15 and 17 name it.
        "begun_size": "current_size" if hasattr(conn, "current_size") else "cur_size",
    }
    getattr(conn, str(names["begun_size"]))
    return type(kind.__name__, (kind,), names)


def find_uvicorn(
    bare: Any, send: Send, max_unsent: int, on_end: Callable[[int, str], None]
) -> AsgiTransport | None:
    """
    A transport where ``bare`` is the ``send`` of uvicorn's sans-I/O protocol; its two
    others, "websockets" and "wsproto", are served by plain ASGI.
    """
    known = getattr(sys.modules.get(MODULE), "WebSocketsSansIOProtocol", None)
    protocol: Any = getattr(bare, "__self__", None)
    if known is None or type(protocol) not in (known, _reading_classes.get(known)):
        return None
    if bare.__func__ is not known.send:
        return None
    try:
        _, extensions, transport = protocol_attributes(protocol)
        transport_attributes(transport)
    except AttributeError as error:
        logger.warning(
            "frames are sent by plain ASGI: this release of uvicorn differs from those that this"
            " package supports (%s)",
            error,
        )
        return None
    if extensions and {type(one).__name__ for one in extensions} != {"PerMessageDeflate"}:
        return None
    limit = COMPRESS_FROM if extensions else NEVER
    return UvicornLane(protocol, limit, send, max_unsent, on_end)
