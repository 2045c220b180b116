"""
How bytes leave a process for one socket.

A transport never raises and never waits in :meth:`~Transport.write`; what is wrong
with a socket is told once, through ``on_over``, on the event loop's next turn.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from .close_codes import SLOW_READER
from .codecs import Frame
from .types import Event, Send

logger = logging.getLogger(__name__)

#: RFC 6455 section 7.4.1: how a connection ends that was lost without a close frame.
ABNORMAL = 1006
#: How long a close frame may take to leave behind what was written before it, seconds.
CLOSE_TIMEOUT = 5.0


class AsgiTransport:
    """
    Plain ASGI: one writer task per connection, alive while there is something to
    write, because ``send`` may wait and its coroutine cannot change hands half-way.

    Nothing leaves before :meth:`open`. Unsent bytes are bounded by ``max_unsent``: past it
    the rest is dropped and the connection closed with 4101.
    """

    def __init__(self, send: Send, max_unsent: int, on_over: Callable[[int, str], None]) -> None:
        self._send = send
        self._max_unsent = max_unsent
        self._on_over = on_over
        self._waiting: deque[tuple[Event, int, asyncio.Future[None] | None]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._in_flight: asyncio.Future[None] | None = None
        self._is_open = False
        #: Code and reason of the close that was asked for, or of the loss.
        self.closed: tuple[int, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self.unsent = 0

    @property
    def closing(self) -> bool:
        """True once a close was asked for or the socket was found dead."""
        return self.closed is not None

    def open(self) -> None:
        """The handshake was answered: what waited may leave."""
        self._is_open = True
        self._wake()

    def write(self, frame: Frame, done: "asyncio.Future[None] | None" = None) -> None:
        """Queue a frame; ``done`` resolves when the server has taken it, or never can."""
        if self.closed is not None:
            settle(done)
            return
        if not self._is_open:
            # Who awaits is what the handshake waits for.
            settle(done)
        size = len(frame)
        self._waiting.append((frame.event(), size, done))
        self.unsent += size
        if self.unsent > self._max_unsent:
            self._forget()
            self.close(SLOW_READER, "too slow: unsent bytes passed their bound")
            return
        if self._writer is None:
            self._wake()

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then a close frame; once, later calls do nothing."""
        if self.closed is not None:
            return
        self.closed = (code, reason)
        event = {"type": "websocket.close", "code": code, "reason": reason}
        self._waiting.append((event, 0, None))
        # A socket that takes nothing would hold the close frame back for ever.
        self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.stop)
        self._wake()

    def lost(self, code: int, reason: str = "") -> None:
        """The peer has gone: nothing more is written."""
        if self.closed is None:
            self.closed = (code, reason)
        self.stop()

    def stop(self) -> None:
        """Drop what is unsent and be over."""
        self._forget()
        if self.closed is None:
            self.closed = (ABNORMAL, "")
        if self._writer is not None:
            self._writer.cancel()
        else:
            self._end(self.closed)

    async def stopped(self) -> None:
        """Return when the writer has ended."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def _end(self, closed: tuple[int, str]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._over:
            self._over = True
            self._on_over(*closed)

    def _forget(self) -> None:
        for _, _, done in self._waiting:
            settle(done)
        self._waiting.clear()
        self.unsent = 0

    def _wake(self) -> None:
        if self._is_open and self._writer is None and self._waiting:
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write(), name="fws-writer")
            # Not a "finally" of the task: one cancelled before it began has none.
            self._writer.add_done_callback(self._written)

    async def _write(self) -> None:
        while self._waiting:
            event, size, self._in_flight = self._waiting.popleft()
            try:
                await self._send(event)
            except Exception as error:
                # The server refuses: the peer has gone, or the frame is over its limit.
                logger.info("a connection ended: its server refused to send (%r)", error)
                self.closed = (ABNORMAL, "")
                self._forget()
                return
            self.unsent = max(0, self.unsent - size)
            settle(self._in_flight)

    def _written(self, writer: "asyncio.Task[None]") -> None:
        self._writer = None
        settle(self._in_flight)
        if self.closed is not None:
            self._end(self.closed)
        else:
            # Written to between the writer's last look and now.
            self._wake()


def settle(done: "asyncio.Future[None] | None") -> None:
    """Resolve ``done``, unless its waiter has given up."""
    if done is not None and not done.done():
        done.set_result(None)
