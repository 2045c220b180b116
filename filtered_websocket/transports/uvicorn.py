"""
uvicorn's lane: a frame is written to the asyncio transport directly; ``send`` would take a
coroutine and a copy per connection.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Collection, Set
from operator import attrgetter
from typing import Any, ClassVar

from ..codecs.frames import Bundle, Frame
from ..logs import get_logger
from ..types import Send
from .asgi import AsgiTransport
from .inbox import make_small
from .lane import NOBODY, Lane
from .scheduling import settle

logger = get_logger(__name__)

MODULE = "uvicorn.protocols.websockets.websockets_sansio_impl"
#: Attributes used of uvicorn's protocol object, and of the asyncio transport below it.
protocol_attributes = attrgetter("close_sent", "conn.extensions", "transport")
transport_attributes = attrgetter(
    "abort", "get_extra_info", "get_write_buffer_size", "is_closing", "write"
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
                if transport.get_write_buffer_size() + size <= lane._max_unsent:
                    transport.write(wire)
                elif len(frame.parts) > 1:
                    for part in frame.parts:
                        lane.write(part)
                else:
                    lane._overflow()
            except Exception as error:
                lane._fail_soon(error)

    def open(self) -> None:
        make_small(getattr(self._protocol, "queue", None))
        super().open()

    @property
    def disconnected(self) -> bool:
        closing: bool = self._transport.is_closing()
        return closing

    def _buffered(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        return size

    def _close_timed_out(self) -> None:
        # uvicorn would wait for a client that does not read, and keep what is unsent.
        _abort(self._transport)
        super()._close_timed_out()

    def _report_end(self) -> None:
        was_over = self._has_ended
        super()._report_end()
        if not was_over and self._buffered():
            # Nor does uvicorn itself close the socket of a client that does not read.
            loop = asyncio.get_running_loop()
            loop.call_later(self.close_timeout, _abort_unsent, self._transport)


def _abort_unsent(transport: Any) -> None:
    if transport.get_write_buffer_size():
        _abort(transport)


def _abort(transport: Any) -> None:
    """Reset the connection, so that the system, too, forgets what nobody will read."""
    with contextlib.suppress(OSError):
        at_once = struct.pack("ii", 1, 0)
        endpoint = transport.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    transport.abort()


def find_uvicorn(
    bare: Any, send: Send, max_unsent: int, on_end: Callable[[int, str], None]
) -> AsgiTransport | None:
    """
    A transport where ``bare`` is the ``send`` of uvicorn's sans-I/O protocol; its two
    others, "websockets" and "wsproto", are served by plain ASGI.
    """
    known = getattr(sys.modules.get(MODULE), "WebSocketsSansIOProtocol", None)
    protocol: Any = getattr(bare, "__self__", None)
    if known is None or type(protocol) is not known or bare.__func__ is not known.send:
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
    if {type(extension).__name__ for extension in extensions} - {"PerMessageDeflate"}:
        return None
    limit = COMPRESS_FROM if extensions else NEVER
    return UvicornLane(protocol, limit, send, max_unsent, on_end)
