"""How frames leave real servers: in order, in time, never in clear under TLS."""

import asyncio
import base64
import contextlib
import os
import select
import socket
import ssl
import struct
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from ..waiting import LIMIT, limited, until
from .certificates import write_pair
from .fws import OURS, Fws
from .processes import ROOT, TAKES_ITS_TIME, Process, free_port
from .sockets import connect
from .test_serving import hears

SITE = {"DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings", "TEST_REFUSE_WITH": "close"}
APPLICATION = "fws_project.asgi:application"
DAPHNE, UVICORN, PLAIN_ASGI = "daphne's lane", "uvicorn's lane", "plain ASGI"
AUTO = Path(find_spec("uvicorn.protocols.websockets.auto").origin)
#: What uvicorn serves where nothing else is asked for; older releases have another one.
BY_ITSELF = UVICORN if "SansIO" in AUTO.read_text() else PLAIN_ASGI
BLOCK = 65_536


class Site(Process):
    """The example on the server of a command line, with ``{port}`` in it."""

    def __init__(self, env, *command, port=None):
        self.port = port or free_port()
        line = [part.format(port=self.port) for part in command]
        super().__init__([sys.executable, "-m", *line], env=env | SITE)
        self.listens_on(self.port)

    def ws(self, path="/"):
        return f"ws://127.0.0.1:{self.port}{path}"

    @property
    def memory(self):
        """Resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def daphne(env, *options, port=None):
    endpoint = "tcp:port={port}:interface=127.0.0.1"
    command = "daphne", *TAKES_ITS_TIME, *options, "-e", endpoint, APPLICATION
    return Site(env, *command, port=port)


def uvicorn(env, *options, port=None):
    return Site(env, "uvicorn", "--port", "{port}", *options, APPLICATION, port=port)


SANS_IO = ("--ws", "websockets-sansio")
PLAIN = ("--ws-per-message-deflate", "false")
SERVERS = {
    "daphne": (daphne, ()),
    "uvicorn": (uvicorn, (*SANS_IO, *PLAIN)),
    "uvicorn-deflate": (uvicorn, SANS_IO),
    "uvicorn-asyncio": (uvicorn, (*SANS_IO, *PLAIN, "--loop", "asyncio")),
}


@contextlib.asynccontextmanager
async def running(start, *arguments):
    server = await asyncio.to_thread(start, *arguments)
    try:
        # For all that a test does with it.
        async with limited(4 * LIMIT):
            yield server
    finally:
        await asyncio.to_thread(server.stop)


@pytest.fixture(scope="module", params=SERVERS)
def site(request, database):
    start, options = SERVERS[request.param]
    server = start(database | {"TEST_CLOSE_TIMEOUT": str(4 * LIMIT)}, *options)
    yield server
    server.stop()


class Raw:
    """A client that reads when it is told to, into a small buffer."""

    def __init__(self, port, path="/", *headers):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n".encode()
            + b"".join(line.encode() + b"\r\n" for line in headers)
            + b"\r\n"
        )
        self.stream = self.socket.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline() != b"\r\n":
            pass

    def frame(self):
        """Opcode and payload of the next frame; None at the end."""
        head = self.stream.read(2)
        if len(head) < 2:
            return None
        assert head[0] & 0xF0 == 0x80, "final, with no extension"
        size = head[1]
        if size == 126:
            (size,) = struct.unpack("!H", self.stream.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.stream.read(8))
        return head[0] & 0x0F, self.stream.read(size)

    def frames(self):
        """All frames up to the close frame, or the end."""
        found = []
        while (frame := self.frame()) is not None:
            found.append(frame)
            if frame[0] == 8:
                break
        return found

    def close(self):
        self.stream.close()
        self.socket.close()


@contextlib.asynccontextmanager
async def raw(port):
    client = await asyncio.to_thread(Raw, port)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize(
    ("start", "options", "lane"),
    [
        (daphne, (), DAPHNE),
        (uvicorn, SANS_IO, UVICORN),
        (uvicorn, (), BY_ITSELF),
        (uvicorn, ("--ws", "websockets"), PLAIN_ASGI),
    ],
)
async def test_which_lane_a_server_takes_is_said_once(database, start, options, lane):
    async with running(start, database, *options) as server:
        async with connect(server.ws()) as ann, connect(server.ws()) as bob:
            await ann.send("heard")
            assert await hears(bob, 1) == ["heard"]
        # Said after what is counted.
        await until(lambda: server.output.count("GOODBYE") == 2)
        said = [line for line in server.output.splitlines() if "frames leave by" in line]
        assert len(said) == 1 and lane in said[0]


async def test_short_long_and_binary_messages_keep_their_order(site):
    messages = ["short", "x" * 5000, b"\x00\xff", "", "y" * 1024, "z" * 200_000, "end"] * 20
    async with connect(site.ws()) as ann, connect(site.ws()) as bob:
        for message in messages:
            await ann.send(message)
        assert await hears(bob, len(messages)) == messages


async def test_a_close_says_why(site):
    async with connect(site.ws()) as ann:
        await ann.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await ann.recv()
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4321, "on demand")
    await asyncio.to_thread(site.said, "GOODBYE 4321")


async def test_a_refusal_by_close_says_why(site):
    # A group name that is too long.
    async with connect(site.ws(f"/rooms/{'x' * 1024}/")) as ann:
        with pytest.raises(ConnectionClosed) as caught:
            await ann.recv()
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4403, "no such group")


async def flood(sender, reader, count):
    """
    Messages from one to the other, who reads them all; a few at a time, as on a busy machine
    this reader would be too slow itself.
    """
    unread = asyncio.Semaphore(8)

    async def talk():
        for n in range(count):
            await unread.acquire()
            await sender.send(f"{n:08}".ljust(BLOCK, "x"))

    async with asyncio.TaskGroup() as group, limited():
        group.create_task(talk())
        for n in range(count):
            assert int((await reader.recv())[:8]) == n
            unread.release()


async def test_a_slow_reader_is_closed_with_4101_and_nobody_else_notices(site):
    # What is sent in clear takes as many bytes on its way in as on its way out: of
    # compressed messages a server reads hundreds at once.
    sending = partial(connect, site.ws(), compression=None)
    async with sending() as ann, connect(site.ws()) as bob:
        # What such a flood takes in any case, and the allocator then keeps.
        await flood(ann, bob, 400)
    async with raw(site.port) as slow, sending() as ann, connect(site.ws()) as bob:
        await flood(ann, bob, 10)
        before = site.memory
        await flood(ann, bob, 1200)
        frames = await asyncio.to_thread(slow.frames)
        assert frames[-1] == (8, b"\x10\x05too slow: too many unsent bytes")
        numbers = [int(payload[:8]) for opcode, payload in frames if opcode == 1]
        # What it got, it got in order: of the first flood all.
        assert numbers[10:] == list(range(len(numbers) - 10)) and len(numbers) < 1210
        await asyncio.to_thread(site.said, "GOODBYE 4101")
        grown = site.memory - before
        print(f"{grown / 2**20:.1f} MiB more, of {1200 * BLOCK / 2**20:.0f} sent")
        assert grown < 16 * 1024 * 1024
        await ann.send("still here")
        assert await hears(bob, 1) == ["still here"]


async def test_who_never_reads_is_dropped(database):
    # Side by side, as each takes the five seconds that a close frame has to leave.
    async with asyncio.TaskGroup() as group:
        for kind in ("daphne", "uvicorn", "uvicorn-asyncio"):
            group.create_task(drops_who_never_reads(database, *SERVERS[kind]))


async def drops_who_never_reads(database, start, options):
    async with (
        running(start, database, *options) as server,
        raw(server.port) as slow,
        connect(server.ws()) as ann,
        connect(server.ws()) as bob,
    ):
        await flood(ann, bob, 400)
        poll = select.poll()
        poll.register(slow.socket, 0)
        ((_, event),) = await asyncio.to_thread(poll.poll, 1000 * LIMIT)
        assert event & (select.POLLHUP | select.POLLERR)


def is_near(heard, sent):
    return len(heard) > sent - 20


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (daphne, ("--ping-interval", "1")),
        (uvicorn, (*SANS_IO, *PLAIN, "--ws-ping-interval", "0.1", "--ws-ping-timeout", "60")),
    ],
)
async def test_pings_of_the_server_stand_between_frames(database, start, options):
    async with (
        running(start, database, *options) as server,
        raw(server.port) as slow,
        connect(server.ws()) as ann,
    ):
        heard = []

        def read():
            while (1, b"end") not in heard[-1:]:
                heard.append(slow.frame())

        reading = asyncio.ensure_future(asyncio.to_thread(read))
        sent = 0
        while not any(opcode == 9 for opcode, _ in tuple(heard)):
            await ann.send(f"{sent:08}".ljust(20_000, "x"))
            sent += 1
            # Its buffer is small, so that of the server is rarely empty.
            await until(partial(is_near, heard, sent))
        await ann.send("end")
        await reading
    numbers = [int(payload[:8]) for opcode, payload in heard[:-1] if opcode == 1]
    assert numbers == list(range(sent))
    assert {opcode for opcode, _ in heard} == {1, 9}


async def test_nothing_leaves_in_clear_under_tls(tmp_path):
    """Twisted's TLS transport hands unknown names on to the raw socket: this is its wire."""
    key, certificate = write_pair(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate)
    wire = bytearray()

    async def copy(reader, writer):
        while data := await reader.read(65_536):
            wire.extend(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.to_thread(Fws, OURS, "-key", key, "-cert", certificate, cwd=ROOT)

    async def pass_on(reader, writer):
        back, forth = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(reader, forth))
            group.create_task(copy(back, writer))

    try:
        proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        url = f"wss://127.0.0.1:{port}/"
        async with (
            proxy,
            limited(),
            connect(url, ssl=trusting, compression=None) as ann,
            connect(url, ssl=trusting, compression=None) as bob,
        ):
            for message in ("a secret", "a secret " * 20_000, "a last secret"):
                await ann.send(message)
                assert await bob.recv() == message
        assert len(wire) > 300_000 and b"secret" not in wire
    finally:
        await asyncio.to_thread(server.stop)
