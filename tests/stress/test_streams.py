"""
Thousands of idle HTTP streams, and as many of server-sent events: each takes as much as an idle
WebSocket, and hears the others.
"""

import asyncio
import contextlib
import json
from urllib.parse import quote

import jwt
import pytest

from ..e2e.processes import Daphne, Uvicorn, resident
from ..e2e.protocol_processes import APPLICATION, SETTINGS
from ..waiting import MEASURED, limited
from .conftest import MIB

KINDS = {"uvicorn": Uvicorn}
if MEASURED:
    KINDS["daphne"] = Daphne
KEY = "a secret of 32 characters or more"
#: So many connect at a time.
AT_ONCE = 50


def request(path, body="", method="POST"):
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


class Stream:
    """One client."""

    @classmethod
    async def open(cls, port, user, way):
        self = cls()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        token = jwt.encode({"sub": user, "channels": ["open"]}, KEY, "HS256")
        body = json.dumps({"id": 1, "connect": {"token": token}})
        if way == "sse":
            path = f"/connection/sse?cf_connect={quote(body)}"
            self._writer.write(request(path, method="GET"))
        else:
            self._writer.write(request("/connection/http_stream", body))
        line = await self.line('"session"')
        self.connected = json.loads(line.removeprefix("data: "))["connect"]
        return self

    async def line(self, part):
        """The next line with this in it."""
        async with limited():
            while part not in (line := (await self._reader.readline()).decode()):
                assert line, "the end"
            return line

    def leave(self):
        self._writer.transport.abort()


async def publish(port, client, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    command = {"id": 2, "publish": {"channel": "open", "data": data}}
    own = {key: client.connected[key] for key in ("session", "node")}
    writer.write(request("/emulation", json.dumps({**own, "data": json.dumps(command)})))
    assert b" 204 " in await reader.readline()
    writer.transport.abort()


@pytest.mark.parametrize("kind", KINDS)
async def test_idle_streams_take_as_much_as_sockets_and_hear(kind, sizes, database, show):
    env = {**database, "DJANGO_SETTINGS_MODULE": SETTINGS}
    server = await asyncio.to_thread(KINDS[kind], APPLICATION, env=env)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, server.stop)
        clients = [await Stream.open(server.port, "first", "http_stream")]
        stack.callback(clients[0].leave)
        half = sizes.idle // 2
        for way in ("http_stream", "sse"):
            before, first = resident(server), len(clients)
            for begin in range(first, first + half, AT_ONCE):
                users = map(str, range(begin, begin + AT_ONCE))
                opening = [Stream.open(server.port, user, way) for user in users]
                more = await asyncio.gather(*opening)
                for client in more:
                    stack.callback(client.leave)
                clients += more
            taken = resident(server) - before
            show(f"{kind}: {half} idle streams by {way}, {taken / half / 1024:.1f} KiB each")
            assert taken < half * 49_152 + 8 * MIB
        await publish(server.port, clients[0], "heard by all")
        for client in clients:
            await client.line("heard by all")
        assert "Traceback" not in server.output
