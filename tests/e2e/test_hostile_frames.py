"""
Hundreds of bad handshakes and frames, raw over TCP, while two well-behaved clients talk.

Whatever comes, the server ends the socket, keeps nothing of it, and serves the others.
"""

import asyncio
import contextlib
import os
import socket
import struct
from operator import le

import pytest
from websockets.exceptions import ConnectionClosed

from filtered_websocket.server.daphne_protocol import MAX_FRAGMENTS

from ..waiting import Watch, limited, look_again, measure, until, within
from .fws import OURS, Fws
from .hostile import CASES, LATE, REFUSED, SERVED, close, frame, request
from .processes import Daphne, resident
from .sockets import connect

pytestmark = pytest.mark.promise
#: What our own server waits for: ten seconds, looked at every two.
LATE_LEAST, LATE_MOST = 9, 14
AT_ONCE = 24
MB = 2**20
#: Of the requests to refuse: our own server has no keys here.
SERVED_BY_OURS = {
    "request: header 'Authorization: Token nosuch'",
    "request: header 'Sec-WebSocket-Protocol: fws, f'",
}
#: autobahn shows it as "/" to the application.
SERVED_BY_DAPHNE = {"request: target '//evil/'"}


@pytest.fixture(scope="module")
def ours():
    server = Fws(
        OURS, "-f", "tests.e2e.hostile_filters", "filtered_websocket.filters.broadcast_messages"
    )
    yield server
    server.stop()


@pytest.fixture
def daphne(database):
    server = Daphne(env=database | {"DJANGO_SETTINGS_MODULE": "tests.e2e.hostile_settings"})
    yield server
    server.stop()


class Peer:
    """
    One raw socket. Not asyncio's streams: they lose what has come where a reset, or a failed
    write, follows.
    """

    def __init__(self, connected):
        self.socket = connected
        self._loop = asyncio.get_running_loop()
        self._said = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, server):
        with socket.socket() as connecting:
            connecting.setblocking(False)
            peer = cls(connecting)
            await peer._loop.sock_connect(connecting, ("127.0.0.1", server.port))
            yield peer

    async def send(self, data):
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(self.socket, data)

    async def _read(self):
        """Whether more has come; False at the end."""
        try:
            some = await self._loop.sock_recv(self.socket, 65_536)
        except ConnectionError:
            return False
        self._said += some
        return bool(some)

    async def head(self):
        """Of the answer; empty where the server hung up without one."""
        while b"\r\n\r\n" not in self._said:
            if not await self._read():
                return b""
        head, _, self._said = self._said.partition(b"\r\n\r\n")
        return head

    async def status(self):
        """Of the answer; 0 where the server hung up without one."""
        head = await self.head()
        return int(head.split(b" ", 2)[1]) if head else 0

    async def ended(self):
        """All that came until the end of the connection."""
        while await self._read():
            pass
        return self._said

    async def heard(self, words):
        while words not in self._said:
            assert await self._read(), f"it hung up after {self._said!r:.200}"
        self._said = self._said.partition(words)[2]


async def try_one(server, outcome, handshake, frames, *, is_ours, pieces):
    async with Peer.of(server) as peer, limited():
        for piece in pieces(handshake):
            await peer.send(piece)
        if outcome == REFUSED:
            assert await peer.status() != 101
            return
        if frames is not None:
            assert await peer.status() == 101
            for piece in pieces(frames):
                await peer.send(piece)
        if outcome == SERVED:
            await peer.send(frame(b"alive?", 9))
            await peer.heard(b"alive?")
            await peer.send(close(1000))
        if outcome != LATE or is_ours:
            await peer.ended()


def whole(data):
    return [data]


def byte_by_byte(data):
    return [data[n : n + 1] for n in range(len(data))]


async def drip(server):
    """A request that never ends, a byte a second, until the server ends it."""
    async with within(LATE_MOST, least=LATE_LEAST), Peer.of(server) as peer:
        await peer.send(request(end=False) + b"\r\nX: ")
        end = asyncio.ensure_future(peer.ended())
        while not end.done():
            await peer.send(b"x")
            await look_again(end, 1)


class Talk:
    """Two clients of the same server, one message after the other; the longest wait."""

    def __init__(self, server):
        self.server = server
        self.worst = 0.0
        self.count = 0

    async def go_on(self):
        url = f"ws://127.0.0.1:{self.server.port}/"
        async with connect(url) as ann, connect(url) as bob:
            while True:
                self.count += 1
                words = f"talk {self.count}"
                watch = Watch()
                await ann.send(words)
                # What the others were able to send is broadcast too.
                async with limited():
                    while await bob.recv() != words:
                        pass
                self.worst = max(self.worst, watch.seconds)
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def talk(server):
    talk = Talk(server)
    task = asyncio.create_task(talk.go_on())
    try:
        yield talk
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), task.exception()


async def users(server):
    async with connect(f"ws://127.0.0.1:{server.port}/") as client:
        await client.send("count")
        async with limited():
            return int(await client.recv())


def descriptors(server):
    """(all, sockets); those that are closed meanwhile count as neither."""
    found = []
    for entry in os.scandir(f"/proc/{server.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return len(found), sum(name.startswith("socket:") for name in found)


def choose(served):
    """(name, case, how it is sent); the short ones byte by byte too."""
    for name, (outcome, handshake, frames) in CASES.items():
        case = (SERVED, handshake, b"") if name in served else (outcome, handshake, frames)
        yield name, case, whole
        if outcome != LATE and len(handshake) + len(frames or b"") < 300:
            yield f"{name}, byte by byte", case, byte_by_byte


async def run(server, *, served, is_ours):
    """What went wrong; and the server's own state afterwards is as before."""
    _, sockets = descriptors(server)
    # Whatever is opened once is open now.
    assert await users(server) == 1
    # Fewer, where the first count saw one of an earlier test that was about to close.
    await until(lambda: descriptors(server)[1] <= sockets)
    before, memory = descriptors(server), resident(server)
    limit = asyncio.Semaphore(AT_ONCE)
    wrong = []

    async def one(name, case, pieces):
        # Those that take their time do not keep the others waiting.
        gate = contextlib.nullcontext() if case[0] == LATE else limit
        async with gate:
            try:
                await try_one(server, *case, is_ours=is_ours, pieces=pieces)
            except (AssertionError, TimeoutError) as error:
                wrong.append(f"{name}: {error!r}")

    cases = list(choose(served))
    async with talk(server) as conversation, asyncio.TaskGroup() as group:
        for _ in range(200 if is_ours else 0):
            group.create_task(drip(server))
        for case in cases:
            group.create_task(one(*case))
    await until(lambda: all(map(le, descriptors(server), before)))
    grown = (resident(server) - memory) / MB
    print(f"\n{len(cases)} cases; {conversation.count} messages meanwhile; {grown:+.1f} MB")
    assert await users(server) == 1
    assert grown < 32
    measure("a message among hostile peers, at most", conversation.worst, 1)
    return wrong


def errors(server):
    words = ("Traceback", "ERROR")
    return [line for line in server.output.splitlines() if any(word in line for word in words)]


async def test_our_own_server_outlives_all_of_them(ours):
    assert await run(ours, served=SERVED_BY_OURS, is_ours=True) == []
    assert errors(ours) == []


async def test_daphne_outlives_all_of_them(daphne):
    assert await run(daphne, served=SERVED_BY_DAPHNE, is_ours=False) == []
    # Of a subprotocol that is no ASCII, sent twice; when this fails daphne is mended.
    await until(lambda: daphne.output.count("'ascii' codec can't decode") == 2)
    assert len(errors(daphne)) == 2


@pytest.mark.parametrize("early", [0, 65_536], ids=["after", "together"])
async def test_a_flood_before_the_accept_is_cut_off(ours, early):
    async with Peer.of(ours) as peer, talk(ours), limited():
        # What comes with the request itself is taken for a next request by Twisted.
        await peer.send(request("GET /?wait HTTP/1.1") + b"x" * early)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                await peer._loop.sock_sendall(peer.socket, frame(b"x" * 65_536, 2))
        assert await peer.ended() == b""


async def test_a_flood_of_fragments_is_cut_off(ours):
    memory = resident(ours)
    async with Peer.of(ours) as peer, talk(ours), limited():
        await peer.send(request())
        assert await peer.status() == 101
        # What ends it and no more: with bytes left unread a reset may overtake the close frame.
        await peer.send(frame(b"", fin=False) + frame(b"", 0, fin=False) * MAX_FRAGMENTS)
        await peer.heard(struct.pack("!H", 4413))
        await peer.ended()
    assert resident(ours) - memory < 16 * MB


async def test_a_message_over_daphnes_limit_is_told_so_by_our_own_server(ours):
    async with connect(f"ws://127.0.0.1:{ours.port}/") as client:
        await client.send(bytes(MB + 1))
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
    assert caught.value.rcvd.code == 4413


async def test_pings_without_reading_cost_no_memory(ours):
    async with Peer.of(ours) as peer, talk(ours):
        await peer.send(request())
        assert await peer.status() == 101
        # It does not read: the kernels' buffers are full long before.
        flood = frame(b"x" * 125, 9) * 1000
        for number in range(200):
            if number == 50:
                # What such a flood takes in any case, and the allocator then keeps.
                memory = resident(ours)
            await peer.send(flood)
        await peer.send(frame(b"the last", 9))
        assert resident(ours) - memory < 8 * MB
        async with limited():
            await peer.heard(b"the last")


#: One of each kind that ends a connection without a close frame of the client's.
BROKEN = {
    "unmasked": frame(b"hi", mask=None),
    "RSV1": frame(b"hi", rsv=4),
    "RSV2": frame(b"hi", rsv=2),
    "opcode 3": frame(b"hi", 3),
    "opcode 11": frame(b"hi", 11),
    "bad UTF-8": frame(b"\xff"),
    "half a character": frame(b"\xe2\x82"),
    "a ping of 126 bytes": frame(b"x" * 126, 9),
    "a ping in fragments": frame(b"x", 9, fin=False),
    "a continuation of nothing": frame(b"x", 0),
}


@pytest.mark.parametrize("kind", ["ours", "daphne"])
async def test_each_broken_frame_ends_in_one_disconnect_chain_and_no_error(kind, database):
    if kind == "ours":
        server = await asyncio.to_thread(Fws, OURS, "-f", "tests.e2e.site_filters")
    else:
        env = database | {"DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings"}
        server = await asyncio.to_thread(Daphne, env=env)
    try:
        for number, data in enumerate(BROKEN.values(), 1):
            async with Peer.of(server) as peer, limited():
                await peer.send(request())
                assert await peer.status() == 101
                await peer.send(data)
                await peer.ended()
            await until(lambda n=number: server.output.count("GOODBYE") == n)
        assert server.output.count("GOODBYE 1006") == len(BROKEN)
        assert errors(server) == []
    finally:
        await asyncio.to_thread(server.stop)


async def test_compression_is_not_agreed_to(ours, server):
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    for asked in (ours, server):
        async with Peer.of(asked) as peer, limited():
            await peer.send(request("GET / HTTP/1.1", offer))
            head = await peer.head()
            assert b" 101 " in head and b"extensions" not in head.lower()
