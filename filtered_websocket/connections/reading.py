"""
Reads what one client sends, until either side closes.

A client that sends without a pause does not delay the others: after ``TURN`` seconds of
work for one connection, the other connections of the process are served.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..transports.scheduling import YIELD_ITERATIONS
from ..types import Event, Receive
from .connection import Connection

#: RFC 6455 section 7.1.5: the code of a close frame that had none.
NO_STATUS = 1005
#: How long the messages of one connection are handled before others are served, seconds.
TURN = 0.0003


class Reader:
    """
    ``handle`` is awaited for every message event and must not raise. ``room`` returns when
    the publish queue is at most half full.
    """

    def __init__(
        self,
        connection: Connection,
        handle: Callable[[Event], Awaitable[None]],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._handle = handle
        self._room = room
        self._over = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._reading = False
        self._woken = False
        self._ahead: Event | None = None

    def end(self, code: int, reason: str) -> None:
        """The transport has ended: note code and reason, and stop reading."""
        self._connection.close_code = code
        self._connection.close_reason = reason
        self._over.set()
        if self._reading and self._task is not None:
            self._woken = True
            self._task.cancel()

    async def run(self, receive: Receive) -> None:
        """Read until either side closes."""
        connection, transport = self._connection, self._connection.transport
        task: Any = asyncio.current_task()
        self._task = task
        worked = ended = 0.0
        while transport.closed is None:
            # In one function: another coroutine per message would cost too much.
            self._reading = True
            try:
                event, self._ahead = self._ahead or await receive(), None
            except asyncio.CancelledError:
                if self._woken and task.uncancel() == 0:
                    break  # by ``end``: the close frame has been sent
                raise
            finally:
                self._reading = False
            if event["type"] == "websocket.disconnect":
                transport.lost(event.get("code") or NO_STATUS, event.get("reason") or "")
                break
            began = time.perf_counter()
            # While this connection waited, others were served.
            worked = max(0.0, worked - (began - ended))
            await self._handle(event)
            ended = time.perf_counter()
            worked += ended - began
            if connection.crowding:
                connection.crowding = False
                await self._wait_for_room(receive)
            if worked >= TURN:
                # ``receive`` does not yield to the loop while messages are queued.
                worked = 0.0
                for _ in range(YIELD_ITERATIONS):
                    await asyncio.sleep(0)
        await self._over.wait()

    async def _wait_for_room(self, receive: Receive) -> None:
        """Pause while the publish queue is more than half full, but notice a disconnect."""
        room = asyncio.ensure_future(self._room())
        over = asyncio.ensure_future(self._over.wait())
        ahead = asyncio.ensure_future(receive())
        enough: set[asyncio.Future[Any]] = {room, over}
        try:
            await asyncio.wait({ahead, *enough}, return_when=asyncio.FIRST_COMPLETED)
            if not ahead.done():
                ahead.cancel()
                await asyncio.wait({ahead})
            if not ahead.cancelled():
                self._ahead = ahead.result()
                if self._ahead["type"] != "websocket.disconnect":
                    await asyncio.wait(enough, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (room, over, ahead):
                waiting.cancel()
            await asyncio.wait({room, over, ahead})
