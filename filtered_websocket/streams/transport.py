"""
The transport of a stream: frames leave as parts of the body of an HTTP response.

Where the server is known to take a part at once, its ``send`` is called without a task. Else
there is one writer task while there is something to write, as of plain ASGI.
"""

from collections.abc import Callable, Collection, Set
from typing import ClassVar, Protocol

from ..codecs.frames import Bundle, Frame
from ..transports import AsgiTransport, Lane
from ..types import Event
from .formats import Format

#: What has more bytes than this goes through the queue, which is limited.
LONG = 65_536


class Stream(Protocol):
    """The part of :class:`.stream.Stream` that is used here."""

    format: Format

    @property
    def is_over(self) -> bool: ...
    @property
    def takes_now(self) -> bool: ...
    def write_now(self, body: bytes) -> None: ...
    async def __call__(self, event: Event) -> None: ...
    async def write(self, payload: bytes) -> None: ...
    async def end(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...


class StreamTransport(Lane):
    """
    The server takes a part when it has room, so that what a slow client has not read waits
    here, where ``MAX_OUTBOX`` limits it.
    """

    __slots__ = ("_stream",)

    lane: ClassVar[str] = "HTTP responses"

    def __init__(self, stream: Stream, max_unsent: int, on_end: Callable[[int, str], None]) -> None:
        super().__init__(stream, max_unsent, on_end)
        self._stream = stream
        self._direct = True

    @staticmethod
    def write_directly(
        transports: Collection[AsgiTransport],
        frame: Frame | Bundle,
        skipped: Set[AsgiTransport] = frozenset(),
    ) -> None:
        bodies: dict[Format, bytes] = {}
        for transport in transports:
            if transport in skipped:
                continue
            if not isinstance(transport, StreamTransport) or not transport._idle:
                transport.write(frame)
                continue
            stream = transport._stream
            if frame.size > LONG or not stream.takes_now:
                transport.write_in_order(frame)
                continue
            form = stream.format
            body = bodies.get(form)
            if body is None:
                body = bodies[form] = b"".join([form.written(one.payload) for one in frame.parts])
            try:
                stream.write_now(body)
            except Exception as error:
                transport._fail_soon(error)

    @property
    def disconnected(self) -> bool:
        return self._stream.is_over

    async def _send_frame(self, frame: Frame) -> None:
        await self._stream.write(frame.payload)

    async def send_close(self, code: int, reason: str) -> None:
        await self._stream.end(code, reason)

    def _close_timed_out(self) -> None:
        # The client does not read: what is unsent would stay until it does.
        self._stream.abort()
        super()._close_timed_out()
