"""Requests of HTTP to an application, without a server; and clients of streams made of them."""

import asyncio
import contextlib
import json
from urllib.parse import quote

from filtered_websocket.threads.blocking import in_the_thread_sensitive_thread

from ..waiting import limited

HOST = (b"host", b"testserver")


class Request:
    """One request, and its answer as it comes."""

    def __init__(self, app, method, path, body=b"", query=b"", headers=(), receive=None, **scope):
        self._app = app
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query,
            "headers": [HOST, *headers],
            "client": ["192.0.2.1", 9],
            "extensions": {},
            **scope,
        }
        self._input = asyncio.Queue()
        self._input.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self._output = asyncio.Queue()
        self._rest = b""
        #: Whether the server has room for what is sent.
        self.room = asyncio.Event()
        self.room.set()
        self.is_over = False

    def begin(self):
        self.task = asyncio.create_task(self._serve(), name="fws-test-request")

    async def _serve(self):
        with in_the_thread_sensitive_thread():
            await self._app(self.scope, self._input.get, self._send)

    async def _send(self, event):
        await self.room.wait()
        self._output.put_nowait(event)

    async def next(self):
        async with limited():
            getting = asyncio.ensure_future(self._output.get())
            await asyncio.wait({getting, self.task}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                self.task.result()
                raise AssertionError("nothing more comes")
            return getting.result()

    async def start(self):
        """Begin, and wait for the headers."""
        self.begin()
        event = await self.next()
        assert event["type"] == "http.response.start"
        self.status = event["status"]
        self.headers = dict(event["headers"])
        return self

    async def part(self):
        """The next part of the body; None at its end."""
        if self.is_over:
            return None
        event = await self.next()
        assert event["type"] == "http.response.body"
        self.is_over = not event.get("more_body", False)
        return event.get("body", b"")

    async def answer(self):
        """The whole answer: its status."""
        await self.start()
        self.body = b""
        while (part := await self.part()) is not None:
            self.body += part
        async with limited():
            await self.task
        return self.status

    async def leave(self):
        """The client goes away."""
        self._input.put_nowait({"type": "http.disconnect"})
        async with limited():
            await self.task

    # Messages of a stream

    async def message(self, end=b"\n"):
        """The next message, as bytes; None at the end."""
        while end not in self._rest:
            part = await self.part()
            if part is None:
                return None
            self._rest += part
        message, _, self._rest = self._rest.partition(end)
        return message


def lines(*commands):
    return "\n".join(map(json.dumps, commands)).encode()


class Streamed:
    """A client of a stream that speaks JSON, connected."""

    def __init__(self, app, headers=(), sse=False, connect=None, **options):
        first = lines({"id": 1, "connect": connect or {}})
        self._app, self._headers, self._number = app, headers, 1
        self._sse = sse
        if sse:
            query = b"cf_connect=" + quote(first).encode()
            self.request = Request(
                app, "GET", "/connection/sse", query=query, headers=headers, **options
            )
        else:
            path = "/connection/http_stream"
            self.request = Request(app, "POST", path, body=first, headers=headers, **options)

    async def __aenter__(self):
        await self.request.start()
        reply = await self.hear()
        assert reply["id"] == 1, reply
        self.connected = reply["connect"]
        self.id = self.connected["client"]
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(AssertionError):
            await self.request.leave()

    async def hear(self):
        """The next message; None at the end."""
        message = await self.request.message(b"\n\n" if self._sse else b"\n")
        if self._sse and message == b":":
            return await self.hear()
        if message is None:
            return None
        return json.loads(message.removeprefix(b"data: ") if self._sse else message)

    def emulation(self, *commands, headers=None, app=None, **fields):
        """The request that says this."""
        body = {
            "session": self.connected["session"],
            "node": self.connected["node"],
            "data": lines(*commands).decode(),
            **fields,
        }
        headers = self._headers if headers is None else headers
        return Request(
            app or self._app, "POST", "/emulation", json.dumps(body).encode(), headers=headers
        )

    async def say(self, *commands, **options):
        """The status of the answer to what is said."""
        return await self.emulation(*commands, **options).answer()

    async def ask(self, **asked):
        self._number += 1
        assert await self.say({"id": self._number, **asked}) == 204
        reply = await self.hear()
        assert reply.pop("id") == self._number, reply
        return reply
