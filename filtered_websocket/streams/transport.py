"""The transport of a stream: frames leave as parts of the body of an HTTP response."""

from collections.abc import Callable
from typing import ClassVar, Protocol

from ..codecs.frames import Frame
from ..transports import AsgiTransport
from ..types import Event


class Stream(Protocol):
    """The part of :class:`.stream.Stream` that is used here."""

    @property
    def is_over(self) -> bool: ...
    async def __call__(self, event: Event) -> None: ...
    async def write(self, payload: bytes) -> None: ...
    async def end(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...


class StreamTransport(AsgiTransport):
    """
    As of plain ASGI. The server takes a part when it has room, so that what a slow client has
    not read waits here, where ``MAX_OUTBOX`` limits it.
    """

    __slots__ = ("_stream",)

    lane: ClassVar[str] = "HTTP responses"

    def __init__(self, stream: Stream, max_unsent: int, on_end: Callable[[int, str], None]) -> None:
        super().__init__(stream, max_unsent, on_end)
        self._stream = stream

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
