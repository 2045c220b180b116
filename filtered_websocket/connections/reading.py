"""
Reads what one client sends, until either side closes.

A client that sends without a pause does not delay the others: after ``TURN`` seconds of
work for one connection, or a few times that where no other one sends anything, the other
connections of the process are served. A client that leaves while a filter runs is noticed,
see ``stalls``.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..chains.stalls import Grace, Stalls, check_interval
from ..conf import conf
from ..logs import fields_of, get_logger
from ..observe import traffic
from ..transports.asgi import ABNORMAL
from ..transports.inbox import MAX_BYTES, message_of
from ..transports.scheduling import TURN, YIELD_ITERATIONS, serve_others, served, settle
from ..types import Event, Message, Receive
from .connection import Connection

logger = get_logger(__name__)

#: RFC 6455 section 7.1.5: the code of a close frame that had none.
NO_STATUS = 1005


class Queues(Protocol):
    """What filters fill: nothing more is read while it is crowded."""

    @property
    def is_crowded(self) -> bool: ...
    async def wait_room(self) -> None: ...


class Reader:
    """
    ``handle`` is called for every message, with its bytes and whether it is text. It returns
    what has to be awaited, or None if the message is handled; neither may raise. ``awaits`` is
    False if that never waits.
    """

    __slots__ = (
        "_ahead",
        "_awaits",
        "_connection",
        "_grace",
        "_handling",
        "_is_over",
        "_looking",
        "_over",
        "_queues",
        "_reading",
        "_receive",
        "_stalls",
        "_task",
        "_woken",
        "handle",
        "lost",
    )

    def __init__(
        self,
        connection: Connection,
        receive: Receive,
        handle: Callable[[bytes, bool], Awaitable[object] | None],
        queues: Queues,
        stalls: Stalls,
        awaits: bool,
    ) -> None:
        self._connection = connection
        self._receive = receive
        #: What is called; what watches a connection may stand before it.
        self.handle = handle
        self._queues = queues
        self._stalls = stalls
        self._awaits = awaits
        #: Whether the client has left.
        self.lost = False
        self._is_over = False
        #: Waits until it is over; not an Event, which takes 0.8 KiB.
        self._over: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._reading = False
        self._woken = False
        #: What was received while a handler ran.
        self._ahead: deque[Event] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._handling = False
        #: Will cancel the handler that runs now.
        self._grace: Grace | None = None

    def end(self, code: int, reason: str) -> None:
        """The transport has ended: note code and reason, and stop reading."""
        self._connection.close_code = code
        self._connection.close_reason = reason
        self._is_over = True
        settle(self._over)
        if self._connection.running is not None:
            self._connection.running.stop()
        if self._reading and self._task is not None:
            self._woken = True
            self._task.cancel()
        elif self._handling and self._task is not None:
            self._grace = Grace(self._task, self._connection)

    # In one function: a coroutine takes 0.2 KiB for as long as the connection lasts, and time
    # for each message.
    async def run(self) -> None:
        """Read until either side closes."""
        connection, transport = self._connection, self._connection.transport
        awaits, receive = self._awaits, self._receive
        task: Any = asyncio.current_task()
        self._task = task
        own_id = connection.id
        inbox = transport.inbox_of(receive)
        event: Event | Message
        worked, ended = 0.0, time.perf_counter()
        while transport.closed is None:
            if self._ahead:
                event = self._ahead.popleft()
            elif inbox is not None and inbox.items:
                event = inbox.take()
            else:
                transport.release()
                self._reading = True
                try:
                    if inbox is None:
                        event = await receive()
                    else:
                        await inbox.arrival()
                        event = inbox.take()
                except asyncio.CancelledError:
                    if self._woken and task.uncancel() == 0:
                        break  # by ``end``: the close frame has been sent
                    raise
                finally:
                    self._reading = False
                # While this connection waited, others were served.
                began = time.perf_counter()
                worked, ended = max(0.0, worked - (began - ended)), began
            if served.last is not own_id:
                served.last, served.since = own_id, ended
            if not isinstance(event, tuple):
                if event["type"] == "websocket.disconnect":
                    self._lose(event)
                    break
                event = message_of(event)
            traffic.frames_in += 1
            traffic.bytes_in += len(event[0])
            steps = self.handle(*event)
            if steps is not None:
                if inbox is not None and inbox.items:
                    # Often nothing is awaited before the next message is handled.
                    transport.hold(awaits)
                await (self._handle_watched(steps) if awaits else steps)
            # With what it took to parse the next ones, where that was done meanwhile.
            began, ended = ended, time.perf_counter()
            worked += ended - began
            if connection.has_queued:
                connection.has_queued = False
                if self._queues.is_crowded:
                    transport.release()
                    await self._wait_for_room()
                    ended = time.perf_counter()
            if worked >= TURN and worked >= served.turn_of(own_id, ended):
                # Nothing yields to the loop while messages are queued.
                worked = 0.0
                transport.release()
                await serve_others()
                ended = time.perf_counter()
        await self._wait_until_over()

    async def _wait_until_over(self) -> None:
        """Return when the transport has ended."""
        if not self._is_over:
            self._over = asyncio.get_running_loop().create_future()
            await self._over

    async def _handle_watched(self, steps: Awaitable[object]) -> None:
        """Handle a message by a chain that may await."""
        self._begin()
        try:
            await steps
        except asyncio.CancelledError:
            if not self._end():
                raise
        else:
            self._end()
        finally:
            if self._looking is not None:
                await self._stop_looking()

    async def guard(self, steps: Awaitable[Any]) -> Any:
        """
        Await ``steps``, which are part of the handshake, and cancel them ``FILTER_GRACE``
        after the client has left. Returns their result, or None if they were cancelled.
        """
        self._task = asyncio.current_task()
        self._begin()
        try:
            return await steps
        except asyncio.CancelledError:
            if self._end():
                return None
            raise
        finally:
            if self._handling:
                self._end()
            if self._looking is not None:
                await self._stop_looking()

    def _begin(self) -> None:
        self._handling = True
        self._stalls.begin(self)

    def _end(self) -> bool:
        """A handler has ended; whether it was cancelled because the socket is gone."""
        self._handling = False
        self._stalls.end(self)
        grace, self._grace = self._grace, None
        return grace is not None and grace.stop()

    # While a handler runs

    def look_ahead(self) -> None:
        """A handler takes long: receive, to notice that the client leaves."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(
                self._look(), name="fws-look-ahead", context=contextvars.Context()
            )

    async def _look(self) -> None:
        transport = self._connection.transport
        if self._ahead is None:
            self._ahead = deque()
        size = 0
        try:
            while len(self._ahead) < conf.MAX_INBOX and size < MAX_BYTES:
                event = await self._receive()
                if event["type"] == "websocket.disconnect":
                    self._lose(event)
                    return
                self._ahead.append(event)
                size += len(event.get("text") or event.get("bytes") or b"")
            while not transport.disconnected:  # noqa: ASYNC110 - no server tells
                await asyncio.sleep(check_interval())
            self._lose({"code": ABNORMAL})
        except Exception as error:
            id, told = self._connection.id, fields_of(self._connection)
            logger.info("connection %s: receive() failed: %r", id, error, extra=told)
            self._lose({"code": ABNORMAL})

    async def _stop_looking(self) -> None:
        assert self._looking is not None
        looking, self._looking = self._looking, None
        looking.cancel()
        await asyncio.wait({looking})

    def _lose(self, event: Event) -> None:
        self.lost = True
        self._connection.transport.lost(event.get("code") or NO_STATUS, event.get("reason") or "")

    # While the publish queue is crowded

    async def _wait_for_room(self) -> None:
        """Pause while the publish queue is more than half full, but notice a disconnect."""
        for _ in range(YIELD_ITERATIONS):
            # It is often sent within a few turns of the event loop, and to wait costs more.
            await asyncio.sleep(0)
            if not self._queues.is_crowded:
                return
        room = asyncio.ensure_future(self._queues.wait_room())
        over = asyncio.ensure_future(self._wait_until_over())
        ahead: asyncio.Future[Any] = asyncio.ensure_future(self._receive())
        enough: set[asyncio.Future[Any]] = {room, over}
        try:
            await asyncio.wait({ahead, *enough}, return_when=asyncio.FIRST_COMPLETED)
            if not ahead.done():
                ahead.cancel()
                await asyncio.wait({ahead})
            if not ahead.cancelled():
                event = ahead.result()
                self._ahead = self._ahead or deque()
                self._ahead.append(event)
                if event["type"] != "websocket.disconnect":
                    await asyncio.wait(enough, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (room, over, ahead):
                waiting.cancel()
            await asyncio.wait({room, over, ahead})
