"""uvicorn's lane, on uvicorn's own protocol object and a real asyncio transport."""

import asyncio
import contextlib
import socket
import ssl
import struct
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from filtered_websocket.codecs.frames import Bundle, Frame
from filtered_websocket.transports import AsgiTransport, asgi, open_transport
from filtered_websocket.transports import uvicorn as lanes
from filtered_websocket.transports.asgi import HIGH_WATER
from filtered_websocket.transports.lane import send_at_once
from filtered_websocket.transports.uvicorn import UvicornLane

from ..e2e.certificates import write_pair
from ..waiting import limited

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


class Serving:
    """One accepted connection, as uvicorn has it; the application ends when told to."""

    log_fields = {"connection_id": "7d0c", "client_address": "192.0.2.7"}

    def __init__(self, deflate=False, max_unsent=1000, tls=(None, None)):
        self.ended = []
        self.over = asyncio.Event()
        self.deflate = deflate
        self.max_unsent = max_unsent
        #: The server's context and the client's.
        self.tls = tls
        self.config = uvicorn.Config(
            self.application,
            ws="websockets-sansio",
            ws_per_message_deflate=deflate,
            log_config=None,
            lifespan="off",
            interface="asgi3",
        )
        self.config.load()
        self.state = ServerState()

    async def application(self, scope, receive, send):
        self.send = send
        await receive()
        self.transport = open_transport(send, self.max_unsent, self.is_over)
        await send({"type": "websocket.accept"})
        self.transport.open()
        await self.over.wait()

    def is_over(self, *end):
        self.ended.append(end)
        self.over.set()

    async def accept(self):
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.protocol = WebSocketsSansIOProtocol(self.config, self.state, {})
        #: The socket is closed, and what was unsent forgotten.
        self.lost = asyncio.Event()
        self.protocol.connection_lost = self.forget
        context, trusting = self.tls
        name = trusting and "localhost"
        (self.reader, self.peer), _ = await asyncio.gather(
            asyncio.open_connection(sock=theirs, ssl=trusting, server_hostname=name),
            loop.connect_accepted_socket(lambda: self.protocol, ours, ssl=context),
        )
        self.peer.write(HANDSHAKE + DEFLATE * self.deflate + b"\r\n")
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101")
        return self

    def forget(self, error):
        type(self.protocol).connection_lost(self.protocol, error)
        self.lost.set()

    async def end(self):
        self.transport.stop()
        self.over.set()
        await asyncio.gather(*self.state.tasks)
        if not self.lost.is_set():
            self.protocol.transport.abort()
        self.peer.close()
        with contextlib.suppress(ConnectionError):
            await self.peer.wait_closed()


@pytest.fixture
async def serving():
    made = []

    async def start(*args, **kwargs):
        made.append(Serving(*args, **kwargs))
        return await made[-1].accept()

    yield start
    for one in made:
        await one.end()


@pytest.fixture
def tls(tmp_path):
    """Contexts of a server and of a client that trusts it."""
    key, certificate = write_pair(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, ssl.create_default_context(cafile=certificate)


def text(payload="a"):
    return Frame(payload.encode(), True)


def wire(*payloads):
    return b"".join(text(payload).encode() for payload in payloads)


async def test_a_frame_is_with_the_transport_at_once(serving):
    one = await serving()
    assert type(one.transport) is UvicornLane
    one.transport.write(text("1"))
    one.transport.write(Bundle([(b"2", True), (b"3", True)]))
    assert not one.transport.writing
    expected = wire("1", "2", "3")
    assert await one.reader.readexactly(len(expected)) == expected


async def test_where_websockets_reads_the_frames_the_lane_writes_all_the_same(serving, monkeypatch):
    monkeypatch.setattr(lanes, "read_short_frames", lambda protocol: False)
    one = await serving()
    one.transport.write(text("a"))
    assert await one.reader.readexactly(3) == wire("a")


async def test_what_was_written_before_accept_leaves_first(serving, monkeypatch):
    opened = AsgiTransport.open

    def late(self):
        self.write(text("early"))
        opened(self)
        self.write(text("behind it"))

    monkeypatch.setattr(AsgiTransport, "open", late)
    one = await serving()
    expected = wire("early", "behind it")
    assert await one.reader.readexactly(len(expected)) == expected


async def test_an_awaited_write_uses_send_and_keeps_the_order(serving):
    one = await serving()
    done = asyncio.get_running_loop().create_future()
    one.transport.write(text("1"), done)
    one.transport.write(text("2"))
    assert one.transport.writing
    await done
    expected = wire("1", "2")
    assert await one.reader.readexactly(len(expected)) == expected


async def test_long_frames_are_compressed_where_the_client_asked_for_it(serving):
    one = await serving(deflate=True, max_unsent=1 << 20)
    one.transport.write(text("short"))
    one.transport.write(text("x" * 1024))
    one.transport.write(text("behind it"))
    assert await one.reader.readexactly(len(wire("short"))) == wire("short")
    for _ in range(2):
        # Final, compressed, text; what waits behind a long one goes the same way.
        head = await one.reader.readexactly(2)
        assert head[0] == 0xC1
        await one.reader.readexactly(head[1])
    await one.transport.stopped()
    one.transport.write(text("short"))
    assert await one.reader.readexactly(len(wire("short"))) == wire("short")


async def test_a_slow_reader_is_closed_with_4101_when_it_reads_on(serving):
    one = await serving(max_unsent=100_000)
    sent = []
    while not one.transport.closing:
        sent.append("x" * 5000)
        one.transport.write(text(sent[-1]))
        assert one.transport.unsent <= 100_000
    assert one.transport.closed[0] == 4101 and one.ended == []
    # What waited behind the server's own bytes is dropped, whole frames of it.
    received = b""
    while b"\x10\x05" not in received:
        received += await one.reader.read(65_536)
    messages, _, _ = received.partition(b"\x10\x05")
    messages, close = messages[:-2], messages[-2:]
    assert wire(*sent).startswith(messages) and len(messages) % len(wire(sent[0])) == 0
    assert HIGH_WATER < len(messages) < 90_000 and close[:1] == b"\x88"
    await one.transport.stopped()
    assert one.ended[0][0] == 4101


async def test_a_slow_reader_has_few_bytes_in_its_transport_and_gets_all_in_order(serving):
    one = await serving(max_unsent=1 << 20)
    sent = [f"{number}".ljust(20_000) for number in range(40)]
    for content in sent:
        one.transport.write(text(content))
    # One frame for all members of a group, not a copy for each, is what waits.
    assert one.protocol.transport.get_write_buffer_size() <= HIGH_WATER + len(wire(sent[0]))
    assert one.transport.unsent > len(sent[0]) * (len(sent) - 1)
    expected = wire(*sent)
    assert await one.reader.readexactly(len(expected)) == expected
    await one.transport.stopped()
    one.transport.write(text("after it"))
    assert not one.transport.writing
    assert await one.reader.readexactly(len(wire("after it"))) == wire("after it")


async def test_one_frame_over_the_bound_closes_the_connection(serving):
    one = await serving(max_unsent=1000)
    one.transport.write(text("x" * 1001))
    assert one.transport.closed[0] == 4101
    await one.transport.stopped()
    assert (await one.reader.readexactly(4))[2:] == b"\x10\x05"


async def test_of_a_slow_reader_the_newest_is_dropped_where_the_site_says_so(serving, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    one = await serving(max_unsent=100_000)
    dropped = []
    one.transport.on_drop = lambda: dropped.append(len(sent) - 1)
    sent = []
    while len(dropped) < 3:
        sent.append(f"{len(sent)}".ljust(5000))
        one.transport.write(text(sent[-1]))
        assert one.transport.unsent <= 100_000
    expected = wire(*sent[:-3])
    assert await one.reader.readexactly(len(expected)) == expected
    one.transport.write(text("again"))
    assert await one.reader.readexactly(len(wire("again"))) == wire("again")
    assert dropped == [len(sent) - 3, len(sent) - 2, len(sent) - 1]
    assert one.ended == [] and not one.transport.closing


async def test_a_reader_that_never_reads_is_aborted_and_its_bytes_forgotten(serving, monkeypatch):
    monkeypatch.setattr(AsgiTransport, "close_timeout", 0.01)
    one = await serving(max_unsent=100_000)
    one.peer.transport.pause_reading()
    while not one.transport.closing:
        one.transport.write(text("x" * 5000))
    async with limited():
        await one.over.wait()
        # Where uvicorn does not wait for the reader, the close frame is given its time.
        await one.lost.wait()
    assert one.ended[0][0] == 4101
    assert one.protocol.transport.is_closing() and one.transport.unsent == 0


async def test_a_close_frame_that_nobody_reads_is_aborted_too(serving, monkeypatch):
    monkeypatch.setattr(AsgiTransport, "close_timeout", 0.01)
    one = await serving(max_unsent=100_000)
    one.peer.transport.pause_reading()
    while not one.transport.unsent:
        one.transport.write(text("x" * 5000))
    one.transport.close(4000, "")
    await one.over.wait()
    async with limited():
        await one.lost.wait()
    assert one.transport.unsent == 0


def test_a_close_frame_that_is_read_in_time_is_not_aborted():
    transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
    lanes.abort_unsent(transport)


#: Of a client, masked with zeros.
HELLO = b"\x81\x85\0\0\0\0hello"
CLOSE = b"\x88\x82\0\0\0\0" + struct.pack("!H", 4000)


async def test_the_end_of_a_connection_under_tls_raises_nothing(serving, tls):
    """asyncio's transport for TLS has no methods left once it is closed twice."""
    one = await serving(tls=tls)
    one.peer.write(HELLO + CLOSE)
    async with limited():
        await one.lost.wait()
    queue = one.protocol.queue
    assert queue.take() == (b"hello", True)
    assert queue.take()["code"] == 4000
    assert queue.take()["code"] == 1005
    with pytest.raises(AttributeError):
        one.protocol.transport.get_write_buffer_size()
    assert not one.transport.leaving
    lanes.abort(one.protocol.transport)
    one.transport.lost(4000)
    assert one.ended == [(4000, "")]


async def test_a_bundle_over_the_bound_is_no_reason_to_close(serving):
    one = await serving(max_unsent=10)
    one.transport.write(Bundle([(b"12345", True), (b"67890", True)]))
    expected = wire("12345", "67890")
    assert await one.reader.readexactly(len(expected)) == expected
    assert not one.transport.closing


async def test_a_lane_knows_that_its_socket_is_gone(serving):
    one = await serving()
    assert not one.transport.disconnected
    one.peer.transport.abort()
    await one.lost.wait()
    assert one.transport.disconnected


async def test_while_the_server_closes_nothing_is_written(serving):
    one = await serving()
    done = asyncio.get_running_loop().create_future()
    one.protocol.shutdown()
    one.transport.write(text("late"))
    one.transport.write(text("late"), done)
    await done
    assert await one.reader.read() == b"\x88\x02\x03\xf4"
    assert one.ended == [] and not one.transport.closing


async def test_whatever_a_write_raises_ends_the_connection_on_the_next_turn(serving, caplog):
    one = await serving()

    class Broken:
        def is_closing(self):
            return False

        def get_write_buffer_size(self):
            return 0

    one.transport._transport = Broken()
    with caplog.at_level("INFO"):
        one.transport.write(text("1"))
    assert one.ended == [] and one.transport.closing
    await one.over.wait()
    assert one.ended == [(1006, "")]
    assert "could not send" in caplog.text


async def test_an_awaited_write_waits_for_a_slow_reader(serving, monkeypatch):
    monkeypatch.setattr(asgi, "HIGH_WATER", 1000)
    monkeypatch.setattr(asgi, "POLL_INTERVAL", 0)
    one = await serving(max_unsent=100_000)
    one.peer.transport.pause_reading()
    done = asyncio.get_running_loop().create_future()
    while one.transport.unsent <= 1000:
        one.transport.write(text("x" * 5000))
    one.transport.write(text("1"), done)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not done.done()
    one.peer.transport.resume_reading()
    reading = asyncio.ensure_future(one.reader.readuntil(wire("1")))
    await done
    await reading


async def test_whatever_is_not_exactly_uvicorns_is_plain_asgi(serving, monkeypatch, caplog):
    one = await serving(deflate=True)

    def found(send):
        return type(open_transport(send, 1, print))

    class Other(WebSocketsSansIOProtocol):
        pass

    assert found(one.send) is UvicornLane
    assert found(Other.send.__get__(Other.__new__(Other))) is AsgiTransport
    assert found(one.protocol.receive) is AsgiTransport
    one.protocol.conn.extensions.append(object())
    assert found(one.send) is AsgiTransport
    one.protocol.conn.extensions.pop()
    transport = one.protocol.transport
    one.protocol.transport = None
    assert found(one.send) is AsgiTransport
    assert "has no attribute 'abort'" in caplog.text
    one.protocol.transport = transport
    monkeypatch.setitem(lanes.sys.modules, lanes.MODULE, None)
    assert found(one.send) is AsgiTransport


async def test_the_shape_is_that_of_the_installed_version(serving):
    """What is gone, or means something else, shows here and not on a site."""
    plain, deflating = await serving(), await serving(deflate=True)
    for one in (plain, deflating):
        assert lanes.protocol_attributes(one.protocol)[0] is False
        lanes.transport_attributes(one.protocol.transport)
    assert plain.protocol.conn.extensions == []
    (extension,) = deflating.protocol.conn.extensions
    assert type(extension).__name__ == "PerMessageDeflate"
    await plain.send({"type": "websocket.close"})
    assert plain.protocol.close_sent


async def test_a_slow_reader_is_closed_rather_than_miss_what_is_kept(serving, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    one = await serving(max_unsent=100_000)
    kept = [Frame(b"a" * 5000, True, is_kept=True), Bundle([(b"a" * 500, True)] * 9, is_kept=True)]
    for number in range(10_000):
        one.transport.write(kept[number % 2])
        assert one.transport.unsent <= 100_000
        if one.transport.closing:
            break
    assert one.transport.closed[0] == 4101
    while await one.reader.read(65_536):
        if one.ended:
            break
    await one.transport.stopped()


@contextlib.asynccontextmanager
async def given(listening):
    """What uvicorn has made of a socket that it was given, as by ``--fd``, and of one client."""
    opened = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        transport = open_transport(send, 1000, lambda *end: None)
        await send({"type": "websocket.accept"})
        transport.open()
        opened.set_result(transport)
        await over.wait()
        transport.stop()

    config = uvicorn.Config(
        application,
        fd=listening.fileno(),
        ws="websockets-sansio",
        loop="asyncio",
        log_config=None,
        lifespan="off",
        interface="asgi3",
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    async with limited():
        if listening.family == socket.AF_UNIX:
            reader, writer = await asyncio.open_unix_connection(listening.getsockname())
        else:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(HANDSHAKE + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        transport = await opened
        try:
            yield transport, reader
        finally:
            over.set()
            writer.close()
            await server.shutdown()


async def test_a_socket_that_uvicorn_was_given_sends_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with given(listening) as (transport, reader):
            endpoint = transport._transport.get_extra_info("socket")
            assert endpoint.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.write(text())
            await reader.readuntil(wire("a"))


def test_a_transport_of_uvloop_which_sends_at_once_by_itself_is_not_asked_for_its_socket():
    asked = []
    send_at_once(SimpleNamespace(get_extra_info=asked.append))
    assert not asked


async def test_a_socket_that_is_none_of_tcp_is_served_as_it_is(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        async with given(listening) as (transport, reader):
            transport.write(text())
            await reader.readuntil(wire("a"))


@pytest.mark.parametrize("found", [None, object()])
async def test_a_transport_without_a_socket_is_served_as_it_is(serving, found):
    one = await serving()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.protocol.transport, "get_extra_info", lambda name: found)
        one.transport.open()
    one.transport.write(text())
    await one.reader.readuntil(wire("a"))
