"""
Plain ASGI, and what every transport has in common.

A transport never raises and never waits in :meth:`~AsgiTransport.write`; what is wrong
with a socket is told once, through ``on_over``, on the event loop's next turn.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from ..close_codes import SLOW_READER
from ..codecs.frames import Bundle, Frame
from ..conf import conf
from ..logs import get_logger
from ..types import Send
from .pace import call_in_turn

logger = get_logger(__name__)

#: RFC 6455 section 7.4.1: how a connection ends that was lost without a close frame.
ABNORMAL = 1006
#: Who awaits a write waits until the server holds no more unsent bytes than this.
HIGH_WATER = 65_536
#: Pause between two looks at a server that does not tell when it has sent, seconds.
LOOK_AGAIN = 0.01


class AsgiTransport:
    """
    Plain ASGI: one writer task per connection, alive while there is something to
    write, because ``send`` may wait and its coroutine cannot change hands half-way.

    Nothing leaves before :meth:`open`. Unsent bytes, the server's where it can be asked,
    are bounded by ``max_unsent``. Past it ``SLOW_READER`` decides: the rest is dropped and
    the connection closed with 4101, or the newest is dropped and told to ``on_drop``.
    """

    __slots__ = (
        "_idle",
        "_in_flight",
        "_is_open",
        "_max_unsent",
        "_on_over",
        "_over",
        "_queued",
        "_send",
        "_timer",
        "_waiting",
        "_writer",
        "closed",
        "on_drop",
    )

    #: How frames leave, for the log.
    lane: ClassVar[str] = "plain ASGI"
    #: How long a close frame may take to leave behind what was written before it, seconds.
    close_timeout: ClassVar[float] = 5.0

    def __init__(self, send: Send, max_unsent: int, on_over: Callable[[int, str], None]) -> None:
        self._send = send
        self._max_unsent = max_unsent
        self._on_over = on_over
        #: Frames, and None for the close.
        self._waiting: deque[tuple[Frame | None, asyncio.Future[None] | None]] = deque()
        self._queued = 0
        self._writer: asyncio.Task[None] | None = None
        self._in_flight: asyncio.Future[None] | None = None
        self._is_open = False
        #: Open, not closed, and nothing is on its way through ``send``: what a lane
        #: writes now overtakes nothing.
        self._idle = False
        #: Code and reason of the close that was asked for, or of the loss.
        self.closed: tuple[int, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        #: Called for every frame that ``SLOW_READER = "drop_newest"`` dropped.
        self.on_drop: Callable[[], None] | None = None

    @property
    def closing(self) -> bool:
        """True once a close was asked for or the socket was found dead."""
        return self.closed is not None

    @property
    def writing(self) -> bool:
        """Whether the writer runs."""
        return self._writer is not None

    @property
    def unsent(self) -> int:
        """Bytes that have not left the process, as far as the server can be asked."""
        return self._queued + self._buffered()

    @property
    def leaving(self) -> bool:
        """Whether something, be it a close frame, has not left, as far as can be known."""
        return self._buffered() > 0

    def open(self) -> None:
        """The handshake was answered: what waited may leave."""
        self._is_open = True
        self._idle = self.closed is None
        self._wake()

    def write(self, frame: Frame | Bundle, done: "asyncio.Future[None] | None" = None) -> None:
        """Queue a frame; ``done`` resolves when the server has taken it, or never can."""
        if self.closed is not None:
            settle(done)
            return
        if not self._is_open:
            # Who awaits is what the handshake waits for.
            settle(done)
        for part in frame.parts:
            self._waiting.append((part, done))
            self._queued += len(part)
        if self.unsent > self._max_unsent:
            self._overflow(queued=len(frame.parts))
        if self._writer is None:
            self._wake()

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then a close frame; once, later calls do nothing."""
        if self.closed is not None:
            return
        self._ended(code, reason)
        self._say_close()

    def _say_close(self) -> None:
        if self._over:
            return
        self._waiting.append((None, None))
        # A socket that takes nothing would hold the close frame back for ever.
        self._timer = asyncio.get_running_loop().call_later(self.close_timeout, self._give_up)
        self._wake()

    def lost(self, code: int, reason: str = "") -> None:
        """The peer has gone: nothing more is written."""
        if self.closed is None:
            self._ended(code, reason)
        self.stop()

    def stop(self) -> None:
        """Drop what is unsent and be over."""
        self._forget()
        if self.closed is None:
            self._ended(ABNORMAL, "")
        if self._writer is not None:
            self._writer.cancel()
        else:
            self._end()

    async def stopped(self) -> None:
        """Return when the writer has ended."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    # What a server's own transport does its own way

    def _buffered(self) -> int:
        """Unsent bytes that the server holds; 0 where nobody knows."""
        return 0

    async def _send_frame(self, frame: Frame) -> None:
        await self._send(frame.event())

    async def send_close(self, code: int, reason: str) -> None:
        """The close frame itself, before anything that waits; else see :meth:`close`."""
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def _give_up(self) -> None:
        """The close frame did not leave in time."""
        self.stop()

    # How it ends

    def _overflow(self, queued: int = 0) -> None:
        """
        The bound is passed. Of the frames that were ``queued`` just now, those that fit
        stay; without any, the one that does not fit was not queued.
        """
        if conf.SLOW_READER != "drop_newest":
            self._forget()
            self._ended(SLOW_READER, "too slow: unsent bytes passed their bound")
            call_in_turn(self._say_close)
            return
        if not queued:
            self._dropped()
        newest = [self._waiting.pop() for _ in range(queued)]
        self._queued -= sum(len(frame) for frame, _ in newest if frame is not None)
        room = self._max_unsent - self.unsent
        for frame, done in reversed(newest):
            if frame is None or len(frame) > room:
                settle(done)
                self._dropped()
            else:
                room -= len(frame)
                self._queued += len(frame)
                self._waiting.append((frame, done))

    def _dropped(self) -> None:
        if self.on_drop is not None:
            self.on_drop()

    def _fail(self, error: Exception) -> None:
        """The server refuses: the peer has gone, or the frame is over its limit."""
        logger.info("a connection ended: its server refused to send (%r)", error)
        self._ended(ABNORMAL, "")
        self._forget()

    def _ended(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self._idle = False

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._over and self.closed is not None:
            self._over = True
            self._on_over(*self.closed)

    def _forget(self) -> None:
        for _, done in self._waiting:
            settle(done)
        self._waiting.clear()
        self._queued = 0

    # The writer

    def _wake(self) -> None:
        if self._is_open and self._writer is None and self._waiting:
            self._idle = False
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write(), name="fws-writer")
            # Not a "finally" of the task: one cancelled before it began has none.
            self._writer.add_done_callback(self._written)

    async def _write(self) -> None:
        while self._waiting:
            frame, self._in_flight = self._waiting.popleft()
            try:
                if frame is None:
                    assert self.closed is not None
                    await self.send_close(*self.closed)
                    continue
                await self._send_frame(frame)
            except Exception as error:
                self._fail(error)
                return
            self._queued = max(0, self._queued - len(frame))
            if self._in_flight is not None:
                await self._drained()
                settle(self._in_flight)

    async def _drained(self) -> None:
        """Return when the server has sent most of what it took, or no more leaves."""
        while self.closed is None and self._buffered() > HIGH_WATER:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN)

    def _written(self, writer: "asyncio.Task[None]") -> None:
        self._writer = None
        settle(self._in_flight)
        if self.closed is not None:
            self._end()
        else:
            self._idle = not self._waiting
            # Written to between the writer's last look and now.
            self._wake()


def settle(done: "asyncio.Future[None] | None") -> None:
    """Resolve ``done``, unless its waiter has given up."""
    if done is not None and not done.done():
        done.set_result(None)
