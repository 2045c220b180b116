"""
The transport for plain ASGI, which is also the base class of all transports.

:meth:`~AsgiTransport.write` never raises and never waits. The end of the socket is reported
once, through ``on_end``, in a later iteration of the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from ..close_codes import SLOW_READER
from ..codecs.frames import Bundle, Frame
from ..conf import conf
from ..logs import get_logger
from ..types import Receive, Send
from .inbox import MessageQueue
from .scheduling import NONE_WAITING, call_in_batches, nothing, settle, told_of, untranslated

logger = get_logger(__name__)

#: RFC 6455 section 7.4.1: the code of a connection that ended without a close frame.
ABNORMAL = 1006
#: An awaited write returns when the server holds at most this many unsent bytes.
HIGH_WATER = 65_536
#: Most frames that wait for one connection: each takes memory besides its bytes.
MAX_FRAMES = 16_384
#: How often the server's unsent bytes are counted while a write is awaited, seconds.
POLL_INTERVAL = 0.01


class AsgiTransport:
    """
    Plain ASGI: one writer task per connection, which exists while there is something to
    write, because ``send`` may wait.

    Nothing is sent before :meth:`open`. Unsent bytes, including the server's where they can
    be counted, are limited to ``max_unsent``. Past it ``SLOW_READER`` decides: what is
    queued is dropped and the connection closed with 4101, or the newest frame is dropped
    and ``on_drop`` called.
    """

    __slots__ = (
        "_has_ended",
        "_idle",
        "_in_flight",
        "_is_open",
        "_is_stopped",
        "_max_unsent",
        "_on_end",
        "_queued",
        "_send",
        "_timer",
        "_waiting",
        "_writer",
        "closed",
        "on_drop",
        "on_write",
        "translate",
    )

    #: How frames are sent, for the log.
    lane: ClassVar[str] = "plain ASGI"
    #: How long a close frame may wait for the frames before it to be sent, seconds.
    close_timeout: ClassVar[float] = 5.0

    def __init__(self, send: Send, max_unsent: int, on_end: Callable[[int, str], None]) -> None:
        self._send = send
        self._max_unsent = max_unsent
        self._on_end = on_end
        self._waiting = NONE_WAITING  # frames to send
        self._queued = 0
        self._writer: asyncio.Task[None] | None = None
        self._in_flight: asyncio.Future[None] | None = None
        #: Idle: open, not closed, no writer task: a lane may write without changing the order.
        self._is_open = self._is_stopped = self._has_ended = self._idle = False
        #: Code and reason of the close that was requested, or of the lost connection.
        self.closed: tuple[int, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: Called for every frame that ``SLOW_READER = "drop_newest"`` dropped.
        self.on_drop: Callable[[], object] = nothing
        #: Called with each frame that is written; set by ``watch_writes``.
        self.on_write: Callable[[Frame | Bundle], object] | None = None
        #: Code and reason of a close -> those that the client is sent, by its protocol.
        self.translate = untranslated

    @property
    def closing(self) -> bool:
        """True once a close was requested or the connection was lost."""
        return self.closed is not None

    @property
    def is_open(self) -> bool:
        """Whether the handshake was accepted; true also after a close."""
        return self._is_open

    @property
    def writing(self) -> bool:
        """Whether the writer task runs."""
        return self._writer is not None

    def inbox_of(self, receive: Receive) -> MessageQueue | None:
        """What ``receive`` would return, if it is the server's own and its queue is known."""
        return None

    def hold(self, awaits: bool = False) -> None:
        """From now on, what is written may wait for :meth:`release`; see :class:`.lane.Lane`."""

    def release(self) -> None:
        """Send what is held back; before anything is awaited."""

    @property
    def unsent(self) -> int:
        """Bytes that have not been sent, including the server's where they can be counted."""
        return self._queued + self._buffered()

    @property
    def disconnected(self) -> bool:
        """Whether the server has lost the socket, as far as it can be asked."""
        return False

    @property
    def leaving(self) -> bool:
        """Whether the server has something left to send, as far as can be known."""
        return self._buffered() > 0

    def open(self) -> None:
        """The handshake was accepted: send what was queued."""
        self._is_open = True
        self._idle = self.closed is None and self.on_write is None
        self._start_writer()

    def write(self, frame: Frame | Bundle, done: "asyncio.Future[None] | None" = None) -> None:
        """Queue a frame. ``done`` is resolved when it is sent or dropped."""
        if self.closed is not None:
            settle(done)
            return
        if self.on_write is not None:
            self.on_write(frame)
        if not self._is_open:
            # Awaited in the connect chain, before the handshake is answered.
            settle(done)
        for part in frame.parts:
            self._queue(part, done)
            self._queued += len(part)
        if self.unsent > self._max_unsent or len(self._waiting) > MAX_FRAMES:
            self.overflow(queued=len(frame.parts), is_kept=frame.is_kept)
        self._start_writer()

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then a close frame. Later calls do nothing."""
        if self.closed is None:
            self._set_closed(code, reason)
            self._queue_close()

    def _queue_close(self) -> None:
        if self._has_ended or self._is_stopped:
            return
        self._queue(None, None)
        # A client that reads nothing would delay the close frame for ever.
        self._timer = asyncio.get_running_loop().call_later(
            self.close_timeout, self._close_timed_out
        )
        self._start_writer()

    def lost(self, code: int, reason: str = "") -> None:
        """The client has disconnected: write nothing more."""
        if self.closed is None:
            self._set_closed(code, reason)
        self.stop()

    def stop(self) -> None:
        """Drop what is unsent and report the end."""
        self._is_stopped = True
        self._drop_unsent()
        if self.closed is None:
            self._set_closed(ABNORMAL, "")
        if self._writer is not None:
            self._writer.cancel()
        else:
            self._report_end()

    async def stopped(self) -> None:
        """Return when the writer has ended."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    # Overridden for particular servers

    def _buffered(self) -> int:
        """Unsent bytes that the server holds; 0 where they cannot be counted."""
        return 0

    async def _send_frame(self, frame: Frame) -> None:
        await self._send(frame.event())

    async def send_close(self, code: int, reason: str) -> None:
        """Send a close frame before anything that is queued; :meth:`close` sends it after."""
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def _close_timed_out(self) -> None:
        """The close frame was not sent within ``close_timeout``."""
        self.stop()

    def _queue(self, frame: Frame | None, done: "asyncio.Future[None] | None") -> None:
        if self._waiting is NONE_WAITING:
            self._waiting = deque()
        self._waiting.append((frame, done))

    def overflow(self, queued: int = 0, is_kept: bool = False) -> None:
        """
        ``max_unsent`` is exceeded by the last ``queued`` frames; 0: by one that was not
        queued. With ``drop_newest`` those of them that fit stay, unless one ``is_kept``.
        """
        if is_kept or conf.SLOW_READER != "drop_newest":
            self._drop_unsent()
            self._set_closed(SLOW_READER, "too slow: too many unsent bytes")
            call_in_batches(self._queue_close)
            return
        if not queued:
            self.on_drop()
        newest = [self._waiting.pop() for _ in range(queued)]
        self._queued -= sum(len(frame) for frame, _ in newest if frame is not None)
        room = self._max_unsent - self.unsent
        for frame, done in reversed(newest):
            if frame is None or len(frame) > room or len(self._waiting) >= MAX_FRAMES:
                settle(done)
                self.on_drop()
            else:
                room -= len(frame)
                self._queued += len(frame)
                self._queue(frame, done)

    def _fail(self, error: Exception) -> None:
        """``send`` raised: the client has disconnected, or the frame is over a limit."""
        told = told_of(self._on_end)
        logger.info("closed a connection: the server could not send (%r)", error, extra=told)
        self._set_closed(ABNORMAL, "")
        self._drop_unsent()

    def _set_closed(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self._idle = False

    def _report_end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._has_ended and self.closed is not None:
            on_end, self._on_end, self._has_ended = self._on_end, nothing, True
            on_end(*self.closed)

    def _drop_unsent(self) -> None:
        for _, done in self._waiting:
            settle(done)
        self._waiting = NONE_WAITING
        self._queued = 0

    # The writer

    def _start_writer(self) -> None:
        if self._is_open and self._writer is None and self._waiting:
            self._idle = False
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write(), name="fws-writer")
            # Not a "finally" of the task: one cancelled before it began has none.
            self._writer.add_done_callback(self._writer_done)

    async def _write(self) -> None:
        while self._waiting:
            frame, self._in_flight = self._waiting.popleft()
            try:
                if frame is None:
                    assert self.closed is not None
                    await self.send_close(*self.translate(*self.closed))
                    continue
                await self._send_frame(frame)
            except Exception as error:
                self._fail(error)
                return
            self._queued = max(0, self._queued - len(frame))
            if self._in_flight is not None:
                await self._wait_until_sent()
                settle(self._in_flight)

    async def _wait_until_sent(self) -> None:
        """Return when the server holds at most ``HIGH_WATER`` unsent bytes, or on close."""
        while self.closed is None and self._buffered() > HIGH_WATER:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL)

    def _writer_done(self, writer: "asyncio.Task[None]") -> None:
        self._writer = None
        self._waiting = self._waiting or NONE_WAITING
        settle(self._in_flight)
        if self._waiting:
            self._start_writer()  # queued since the task ended, maybe the close frame
        elif self.closed is not None:
            self._report_end()
        else:
            self._idle = self.on_write is None
