"""
One stream: an HTTP request that a consumer serves as if it were a WebSocket.

::

    HTTP request       -> a scope of the type "websocket", websocket.connect
    its first command, -> websocket.receive
    and POST /emulation
    websocket.accept   -> 200 and the headers
    websocket.send     -> a part of the body
    websocket.close    -> the last message, which tells the code; the end of the body
                          before the accept: 403, or 503 where another try may help
    http.disconnect    -> websocket.disconnect

So routes, filters, limits, rights, drain and close codes are those of a WebSocket.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ..close_codes import OVER_CAPACITY, RESTART, TOO_MANY
from ..connections.reading import NO_STATUS
from ..protocols.codes import translate
from ..protocols.session import STREAM
from ..threads.tasks import end_tasks
from ..transports import find_response
from ..types import ASGIApplication, Event, Receive, Scope, Send
from . import sessions
from .formats import Format
from .inbox import Inbox
from .transport import StreamTransport

#: Of every stream: no proxy keeps, changes or collects what is sent.
HEADERS = [(b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no")]
#: Codes of a refusal after which another try, or another process, may help.
LATER = (OVER_CAPACITY, RESTART, TOO_MANY)
#: How long a server may take for the end of a body, or to see that it was cut off, seconds.
END_TIMEOUT = 5.0


class Stream:
    """What is called as the ``send`` of a WebSocket. Belongs to its event loop."""

    def __init__(
        self,
        scope: Scope,
        send: Send,
        format: Format,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        #: As the consumer gets it.
        self.scope = {**scope, STREAM: self}
        self.loop = asyncio.get_running_loop()
        #: Set when its client is connected: the connection, and the id of the session.
        self.connection: Any = None
        self.session = ""
        #: How its messages are written.
        self.format = format
        self._headers = headers
        self._server = find_response(send)
        self._http = send
        self._inbox = Inbox()
        self._begins = self._is_started = self._is_ended = self._is_gone = False
        self.room = self._inbox.room

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._is_gone or self._is_ended

    async def serve(self, websocket: ASGIApplication, receive: Receive) -> None:
        """Have a WebSocket application serve it; ``receive`` is that of the request."""
        watching = self.loop.create_task(self._watch(receive), name="fws-stream")
        try:
            await websocket(self.scope, self.receive, self)
        finally:
            sessions.forget(self)
            self._inbox.close()
            try:
                await self._finish(watching)
            finally:
                self._server.release()
                await end_tasks([watching])
                # Leave no cycle of references: what waits, and its connection, are freed at once.
                self.connection, self.scope = None, {}

    async def _watch(self, receive: Receive) -> None:
        """Notice that the client has gone."""
        with contextlib.suppress(Exception):  # of a server whose connection is broken
            while (await receive())["type"] != "http.disconnect":
                pass
        self._is_gone = True
        self._server.release()
        self._inbox.add({"type": "websocket.disconnect", "code": NO_STATUS})

    async def _finish(self, watching: "asyncio.Task[None]") -> None:
        """The application has returned: end the response, if that has not happened."""
        if self._is_gone:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_TIMEOUT):
                if self._is_ended:
                    # A server that has cut it off says so, and then expects no more of it.
                    if self._server.is_aborted:
                        await asyncio.wait([watching])
                elif self._is_started:
                    await self._send_body(b"", is_last=True)
                else:
                    await self._refuse(500)

    # As an application sees it

    async def receive(self) -> Event:
        """The next event of the WebSocket."""
        if not self._begins:
            self._begins = True
            return {"type": "websocket.connect"}
        return await self._inbox.take()

    def put(self, command: bytes | str) -> bool:
        """Take what the client has sent; False if too much waits already: it is closed then."""
        key = "text" if isinstance(command, str) else "bytes"
        taken = self._inbox.put({"type": "websocket.receive", key: command}, len(command))
        if not taken and self.connection is not None:
            self.connection.close(TOO_MANY, "too many commands wait")
        return taken

    def connected(self, connection: Any) -> dict[str, str]:
        """Its client is connected: what tells it where to send its commands."""
        self.connection = connection
        return sessions.note(self)

    def open_transport(
        self, max_unsent: int, on_end: Callable[[int, str], None]
    ) -> StreamTransport:
        """What sends the frames of its connection."""
        return StreamTransport(self, max_unsent, on_end)

    async def __call__(self, event: Event) -> None:
        """Send an event of the WebSocket."""
        if event["type"] == "websocket.accept":
            await self._start()
        elif event["type"] == "websocket.send":
            text = event.get("text")
            await self.write(event["bytes"] if text is None else text.encode())
        elif self._is_started:
            await self.end(event.get("code", 1000), event.get("reason", ""))
        else:
            await self._refuse(503 if event.get("code") in LATER else 403)

    async def _start(self) -> None:
        self._is_started = True
        headers = [(b"content-type", self.format.content_type), *HEADERS, *self._headers]
        await self._http({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send_body(self.format.start)

    async def _refuse(self, status: int) -> None:
        self._is_started = True
        later = [(b"retry-after", b"1")] if status == 503 else []
        headers = [(b"content-length", b"0"), *HEADERS, *self._headers, *later]
        await self._http({"type": "http.response.start", "status": status, "headers": headers})
        await self._send_body(b"", is_last=True)

    async def write(self, payload: bytes) -> None:
        """Send a message, when the server has room for it."""
        await self._server.room()
        await self._send_body(self.format.written(payload))

    async def end(self, code: int, reason: str) -> None:
        """Send the last message, which says why the stream ends, and end it."""
        code, reason = translate(code, reason)
        push = {"push": {"disconnect": {"code": code, "reason": reason}}}
        frame = self.format.codec.reply(push)
        await self._server.room()
        await self._send_body(self.format.written(frame.payload), is_last=True)

    @property
    def takes_now(self) -> bool:
        """Whether :meth:`write_now` may be called."""
        return self._server.takes_now

    def write_now(self, body: bytes) -> None:
        """Send a part of the body, written already, where the server takes it at once."""
        if self.is_over:
            return
        sending: Any = self._http({"type": "http.response.body", "body": body, "more_body": True})
        try:
            sending.send(None)
        except StopIteration:
            return
        sending.close()
        raise RuntimeError("the server's send waits where it should not")

    async def _send_body(self, body: bytes, is_last: bool = False) -> None:
        if self.is_over:
            return
        if is_last:
            self._is_ended = True
            self._server.release()
        await self._http({"type": "http.response.body", "body": body, "more_body": not is_last})

    def abort(self) -> None:
        """Cut the connection off: its client does not read."""
        self._is_ended = True
        self._server.abort()
