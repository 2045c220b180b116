"""A site below /app/, behind a proxy: where its pages work, their sockets do."""

import asyncio
import contextlib
import json
import re
import urllib.request

import pytest

from ..waiting import LIMIT
from .sockets import connect
from .test_lanes import SERVERS, running
from .test_serving import hears


@contextlib.asynccontextmanager
async def proxy(upstream, strips):
    """A reverse proxy for /app/, which hands the path on without the prefix or as it is."""

    async def copy(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n")
        method, path, version = head.split(b" ", 2)
        assert path.startswith(b"/app/")
        path = path.removeprefix(b"/app") if strips else path
        behind, onward = await asyncio.open_connection("127.0.0.1", upstream)
        onward.write(b" ".join([method, path, version]))
        await asyncio.gather(copy(reader, onward), copy(behind, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def page(port, path):
    url = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize(
    ("name", "root_path", "strips"),
    [("/app", (), True), ("/app", (), False), ("", ("--root-path", "/app"), True)],
    ids=["forced-strips", "forced-keeps", "root-path-strips"],
)
async def test_the_page_names_the_path_of_its_socket_which_works(
    database, kind, name, root_path, strips
):
    start, options = SERVERS[kind]
    env = {**database, "TEST_SCRIPT_NAME": name}
    async with (
        running(start, env, *options, *root_path) as server,
        proxy(server.port, strips) as port,
    ):
        for path, socket in (("", ""), ("rooms/one/", "connection/websocket")):
            text = await asyncio.to_thread(page, port, f"/app/{path}")
            found = re.search('data-websocket-path="([^"]*)"', text)[1]
            assert found == f"/app/{socket}"
            url = f"ws://127.0.0.1:{port}{found}"
            async with connect(url) as ann, connect(url) as bob:
                if not path:
                    await ann.send("heard")
                    assert (await hears(bob, 1))[0].lower() == "heard"
                    continue
                # The page of a room speaks a protocol.
                for one in (ann, bob):
                    await one.send('{"id": 1, "connect": {}}')
                    assert json.loads(await one.recv())["connect"]["client"]
