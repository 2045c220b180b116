"""
daphne's lane, on daphne's own protocol objects and Twisted's own transports, over a
socket pair and with a reactor that the test turns by hand.
"""

import asyncio
import socket
from functools import partial

import pytest
from autobahn.websocket.protocol import WebSocketProtocol as Autobahn
from daphne.server import Server
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from filtered_websocket.codecs.frames import Bundle, Frame
from filtered_websocket.server.daphne_protocol import Protocol as OurProtocol
from filtered_websocket.transports import AsgiTransport, asgi, daphne, open_transport
from filtered_websocket.transports.daphne import DaphneLane, DaphneTls

from ..e2e.certificates import write_pair

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Reactor:
    """Writes when it is told to."""

    def __init__(self):
        self.writers = set()
        self.readers = set()

    def addReader(self, reader):
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def addWriter(self, writer):
        self.writers.add(writer)

    def removeWriter(self, writer):
        self.writers.discard(writer)

    def turn(self):
        for writer in tuple(self.writers):
            assert writer.doWrite() is None


class Serving:
    """One accepted connection, as daphne has it."""

    def __init__(self, transport_class=tcp.Server, max_unsent=1000, buffer=None):
        self.ended = []
        self.reactor = Reactor()
        ours, self.peer = socket.socketpair()
        if buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.peer.setblocking(False)
        self.max_unsent = max_unsent
        self.server = Server(self.application, endpoints=["tcp:0"])
        self.server.connections = {}
        factory = WebSocketFactory(self.server)
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        self.protocol = factory.buildProtocol(None)
        self.protocol._raw_query_string = b""
        client = "" if transport_class is unix.Server else ("127.0.0.1", 1)
        self.socket = transport_class(ours, self.protocol, client, None, 0, self.reactor)
        self.socket.getHost = self.socket.getPeer = lambda: IPv4Address("TCP", "127.0.0.1", 1)
        self.transport = None

    async def application(self, scope, receive, send):
        self.send = send
        await receive()
        self.transport = open_transport(send, self.max_unsent, lambda *end: self.ended.append(end))
        await send({"type": "websocket.accept"})
        self.transport.open()

    async def accept(self, over=None):
        """The handshake, written and read."""
        self.protocol.makeConnection(over or self.socket)
        self.protocol.dataReceived(HANDSHAKE)
        (details,) = self.server.connections.values()
        await details["application_instance"]
        if over is None:
            self.reactor.turn()
            self.answer = self.got()
            assert self.answer.startswith(b"HTTP/1.1 101")
        return self

    def got(self):
        """All that is on the wire now."""
        found = b""
        try:
            while part := self.peer.recv(1 << 20):
                found += part
        except BlockingIOError:
            pass
        return found

    def end(self):
        if self.socket.connected:
            self.socket.connectionLost(Failure(ConnectionDone()))
        if self.transport is not None:
            self.transport.stop()
        self.peer.close()


@pytest.fixture
async def serving():
    made = []

    async def start(*args, **kwargs):
        made.append(Serving(*args, **kwargs))
        return await made[-1].accept()

    yield start
    for one in made:
        one.end()


def text(payload="a"):
    return Frame(payload.encode(), True)


def wire(*payloads):
    return b"".join(text(payload).encode() for payload in payloads)


@pytest.mark.parametrize("transport_class", [tcp.Server, unix.Server])
async def test_a_frame_is_on_the_wire_at_once(serving, transport_class):
    one = await serving(transport_class)
    assert type(one.transport) is DaphneLane
    one.transport.write(text("now"))
    assert one.got() == wire("now") and one.transport.unsent == 0
    one.transport.write(Bundle([(b"1", True), (b"2", True)]))
    assert one.got() == wire("1", "2")


async def test_what_was_written_before_accept_leaves_first(serving):
    one = Serving()

    async def application(scope, receive, send):
        await receive()
        one.transport = open_transport(send, 1000, print)
        one.transport.write(text("early"))
        await send({"type": "websocket.accept"})
        one.transport.open()
        one.transport.write(text("behind it"))

    one.server.application = application
    try:
        await one.accept()
        await one.transport.stopped()
        one.reactor.turn()
        assert (one.answer + one.got()).endswith(b"\r\n" + wire("early", "behind it"))
        one.transport.write(text("direct"))
        assert one.got() == wire("direct")
    finally:
        one.end()


async def test_the_rest_of_a_partial_write_follows_and_nothing_overtakes_it(serving):
    one = await serving(max_unsent=1 << 20, buffer=4096)
    big = text("x" * 100_000)
    one.transport.write(big)
    assert 0 < one.transport.unsent < len(big.wire)
    one.transport.write(text("second"))
    found = one.got()
    while one.transport.unsent:
        one.reactor.turn()
        found += one.got()
    assert found == big.wire + wire("second")
    one.transport.write(text("third"))
    assert one.got() == wire("third")


async def test_a_buffered_close_frame_is_not_overtaken(serving):
    one = await serving()
    one.protocol.sendClose(4000, "bye")
    one.transport.write(text("late"))
    one.reactor.turn()
    assert one.got() == b"\x88\x05\x0f\xa0bye"
    assert one.ended == [] and not one.transport.closing


async def test_what_daphne_wrote_itself_is_not_overtaken(serving):
    one = await serving()
    one.protocol.sendPing(b"ping")
    one.transport.write(text("1"))
    one.transport.write(text("2"))
    assert one.got() == b""
    one.reactor.turn()
    assert one.got() == b"\x89\x04ping" + wire("1", "2")


async def test_autobahns_own_queue_is_not_overtaken(serving, monkeypatch):
    monkeypatch.setattr(Autobahn, "_trigger", lambda self: None)
    one = await serving()
    one.protocol.sendMessage(b"queued", False, sync=True)
    one.transport.write(text("after"))
    assert [data for data, _ in one.protocol.send_queue] == [wire("queued"), wire("after")]
    assert one.transport.unsent == len(wire("queued", "after"))
    assert one.got() == b""


async def test_a_dead_socket_is_left_to_the_reactor(serving):
    one = await serving()
    one.peer.close()
    one.transport.write(text("1"))
    assert one.transport.unsent == len(wire("1"))
    assert one.ended == [] and not one.transport.closing
    assert one.socket.doWrite() is CONNECTION_LOST


@pytest.mark.parametrize("how", ["lost", "losing"])
async def test_a_socket_that_goes_is_not_written_to(serving, how):
    one = await serving()
    if how == "losing":
        one.socket.loseConnection()
    else:
        one.protocol.connectionLost = lambda reason: None  # state stays "open"
        one.socket.connectionLost(Failure(ConnectionDone()))
    one.transport.write(text("1"))
    assert one.got() == b"" and one.transport.unsent == 0
    assert one.ended == []


async def test_whatever_a_write_raises_ends_the_connection_on_the_next_turn(serving, caplog):
    one = await serving()
    one.transport._send_now = None
    with caplog.at_level("INFO"):
        one.transport.write(text("1"))
    assert one.ended == [] and one.transport.closing
    await asyncio.sleep(0)
    assert one.ended == [(1006, "")]
    assert "could not send" in caplog.text


async def test_unsent_bytes_are_bounded_daphnes_included(serving):
    one = await serving(max_unsent=10_000, buffer=4096)
    sent = []
    while not one.transport.closing:
        sent.append("x" * 1000)
        one.transport.write(text(sent[-1]))
        assert one.transport.unsent <= 10_000
    assert one.transport.closed[0] == 4101
    assert one.ended == []
    # When its turn has come.
    await asyncio.sleep(0)
    await one.transport.stopped()
    assert one.ended[0][0] == 4101
    assert one.protocol.closeHandshakeTimeout == AsgiTransport.close_timeout
    found = one.got()
    while one.transport.unsent:
        one.reactor.turn()
        found += one.got()
    assert found.startswith(wire(*sent[:-1]) + b"\x88")
    assert found.endswith(b"\x10\x05too slow: too many unsent bytes")


async def test_of_a_slow_reader_the_newest_is_dropped_where_the_site_says_so(serving, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    one = await serving(max_unsent=10_000, buffer=4096)
    dropped = []
    one.transport.on_drop = lambda: dropped.append(len(sent) - 1)
    sent = []
    while len(dropped) < 3:
        sent.append(f"{len(sent)}".ljust(1000))
        one.transport.write(text(sent[-1]))
        assert one.transport.unsent <= 10_000
    assert dropped == [len(sent) - 3, len(sent) - 2, len(sent) - 1]
    found = one.got()
    while one.transport.unsent:
        one.reactor.turn()
        found += one.got()
    one.transport.write(text("again"))
    assert found + one.got() == wire(*sent[:-3], "again")
    assert one.ended == [] and not one.transport.closing


async def test_a_close_frame_is_leaving_until_the_socket_is_gone(serving):
    one = await serving()
    one.transport.close(4200, "")
    await one.transport.stopped()
    one.reactor.turn()
    assert one.got() and one.transport.leaving and not one.transport.disconnected
    one.end()
    assert not one.transport.leaving and one.transport.disconnected


async def test_who_does_not_answer_a_close_frame_is_not_leaving_for_longer_than_a_second(
    serving, monkeypatch
):
    one, now = await serving(), [100.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    one.transport.close(4200, "")
    await one.transport.stopped()
    now[0] = 100.9
    assert one.transport.leaving
    now[0] = 101.0
    # Not sent yet.
    assert one.transport.leaving
    one.reactor.turn()
    assert one.got() and not one.transport.leaving and not one.transport.disconnected


class Timers:
    """The event loop's timers, as long as a test holds its clock."""

    def __init__(self, monkeypatch):
        self.made = []
        self._loop = asyncio.get_running_loop()
        self._call_later = self._loop.call_later
        monkeypatch.setattr(self._loop, "call_later", self.call_later)

    def call_later(self, seconds, function, *args, **kwargs):
        timer = self._call_later(3600, function, *args, **kwargs)
        self.made.append((seconds, timer))
        return timer


@pytest.mark.parametrize(
    ("allowed", "earlier"), [(86_400, (10, 60)), (100, (10, 10)), (20, (2, 2)), (0, (0, 0))]
)
async def test_a_client_is_told_to_come_back_before_daphne_ends_its_connection(
    monkeypatch, allowed, earlier
):
    monkeypatch.setattr(WebSocketProtocol, "duration", lambda self: 0.25)
    one = Serving()
    one.server.websocket_timeout = allowed
    timers = Timers(monkeypatch)
    await one.accept()
    [(seconds, timer)] = timers.made
    assert max(0, allowed - earlier[1] - 0.25) <= seconds <= max(0, allowed - earlier[0] - 0.25)
    timer._run()
    await one.transport.stopped()
    assert one.ended == [(4200, "open for as long as this server allows: connect again")]
    assert timer.cancelled()
    one.reactor.turn()
    assert one.got().startswith(b"\x88")
    one.end()


@pytest.mark.parametrize("allowed", [-1, None])
async def test_a_connection_without_an_end_gets_no_timer(monkeypatch, allowed):
    one = Serving()
    one.server.websocket_timeout = allowed
    timers = Timers(monkeypatch)
    await one.accept()
    assert timers.made == []
    one.end()


async def test_a_protocol_without_a_duration_gets_no_timer(monkeypatch):
    monkeypatch.setattr(WebSocketProtocol, "duration", None)
    one = Serving()
    timers = Timers(monkeypatch)
    await one.accept()
    assert timers.made == []
    one.end()


async def test_a_bundle_over_the_bound_is_no_reason_to_close(serving):
    one = await serving(max_unsent=10)
    one.transport.write(Bundle([(b"12345", True), (b"67890", True)]))
    assert one.got() == wire("12345", "67890") and not one.transport.closing
    one.transport.write(text("12345678901"))
    assert one.transport.closed[0] == 4101


async def test_a_close_says_why(serving):
    one = await serving()
    one.transport.write(text("last"))
    one.transport.close(4321, "because")
    one.transport.write(text("late"))
    await one.transport.stopped()
    one.reactor.turn()
    assert one.got() == wire("last") + b"\x88\x09\x10\xe1because"
    assert one.ended == [(4321, "because")]
    # Autobahn drops the socket where the peer does not answer in that time.
    assert one.protocol.closeHandshakeTimeout == AsgiTransport.close_timeout


async def test_an_awaited_write_returns_when_most_is_sent(serving, monkeypatch):
    monkeypatch.setattr(asgi, "HIGH_WATER", 0)
    monkeypatch.setattr(asgi, "POLL_INTERVAL", 0)
    one = await serving()
    done = asyncio.get_running_loop().create_future()
    one.transport.write(text("1"), done)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not done.done() and one.transport.unsent == len(wire("1"))
    one.reactor.turn()
    await done
    assert one.got() == wire("1")


async def test_an_empty_message_arrives(serving):
    one = await serving()
    done = asyncio.get_running_loop().create_future()
    one.transport.write(text(""), done)
    await one.transport.stopped()
    one.reactor.turn()
    one.transport.write(Frame(b"", False))
    assert one.got() == b"\x81\x00\x82\x00"


async def test_while_the_server_closes_nothing_is_written_by_anybody(serving):
    one = await serving()
    one.transport.write(text("1"), asyncio.get_running_loop().create_future())
    one.protocol.sendClose(4000)
    await one.transport.stopped()
    one.transport.close(4001, "")
    await one.transport.stopped()
    one.reactor.turn()
    assert one.got() == b"\x88\x02\x0f\xa0"


@pytest.mark.parametrize("outcome", ["_perMessageCompress", "maskServerFrames"])
async def test_frames_that_are_not_as_ours_go_through_daphne(serving, outcome):
    one = await serving()
    setattr(one.protocol, outcome, True)
    one.transport.open()
    sent = []
    one.protocol.sendMessage = lambda payload, binary: sent.append((payload, binary))
    one.transport.write(text("1"))
    await one.transport.stopped()
    assert sent == [(b"1", False)] and one.got() == b""


async def test_a_tls_connection_is_written_to_through_daphne_only(tmp_path):
    one = Serving(max_unsent=1000)
    context = DefaultOpenSSLContextFactory(*write_pair(tmp_path))

    class Wrapped:
        """What TLS hands the protocol's bytes to."""

        def buildProtocol(self, address):
            return one.protocol

        def doStart(self):
            pass

    wrapper = TLSMemoryBIOFactory(context, False, Wrapped()).buildProtocol(None)
    one.protocol.makeConnection = lambda transport: None
    wrapper.makeConnection(one.socket)
    del one.protocol.makeConnection
    try:
        await one.accept(over=wrapper)
        assert type(one.transport) is DaphneTls
        written = []
        wrapper.write = written.append
        one.transport.write(text("secret"))
        assert written == [] and one.transport.unsent == 6
        await one.transport.stopped()
        assert written == [wire("secret")]
        wrapper._appSendBuffer.append(b"123")
        assert one.transport.unsent == 3
        wrapper._appSendBuffer.append(b"x" * 1000)
        one.transport.write(text("1"))
        assert one.transport.closed[0] == 4101
        await asyncio.sleep(0)
        await one.transport.stopped()
        assert written[-1].startswith(b"\x88")
    finally:
        one.end()


class Other(WebSocketProtocol):
    """Bytes may leave in another way than is known."""

    def sendData(self, *args, **kwargs):
        raise NotImplementedError


class OtherSocket(tcp.Server):
    pass


async def found(send):
    return type(open_transport(send, 1, print))


async def test_whatever_is_not_exactly_daphnes_is_plain_asgi(serving, monkeypatch, caplog):
    one = await serving()
    handle_reply = one.server.handle_reply
    assert await found(one.send) is DaphneLane
    other = Other.__new__(Other)
    for send in (
        partial(handle_reply, other),
        partial(handle_reply, one.protocol, 1),
        partial(handle_reply, one.protocol, message=1),
        partial(one.protocol.handle_reply, one.protocol),
        partial(print, one.protocol),
        partial(handle_reply, object()),
    ):
        assert await found(send) is AsgiTransport
    one.protocol.transport = OtherSocket.__new__(OtherSocket)
    assert await found(one.send) is AsgiTransport
    one.protocol.transport = one.socket
    one.socket.TLS = True
    assert await found(one.send) is AsgiTransport
    one.socket.TLS = False
    monkeypatch.delattr(one.protocol, "send_queue")
    assert await found(one.send) is AsgiTransport
    assert "has no attribute 'send_queue'" in caplog.text
    monkeypatch.undo()
    monkeypatch.setitem(daphne.sys.modules, "daphne.server", None)
    assert await found(one.send) is AsgiTransport


async def test_where_there_are_no_unix_sockets_tcp_has_the_lane(serving, monkeypatch):
    one = await serving()
    monkeypatch.setitem(daphne.sys.modules, "twisted.internet.unix", None)
    assert await found(one.send) is DaphneLane


async def test_our_own_servers_protocol_has_the_lane_too(serving):
    one = await serving()
    one.protocol.__class__ = OurProtocol
    assert await found(one.send) is DaphneLane


async def test_the_shape_is_that_of_the_installed_versions(serving):
    """What is gone, or means something else, shows here and not on a site."""
    one = await serving()
    protocol, transport = one.protocol, one.socket
    daphne.protocol_attributes(protocol)
    daphne.socket_attributes(transport)
    assert TLSMemoryBIOFactory.protocol is BufferingTLSTransport
    assert BufferingTLSTransport.__base__ is TLSMemoryBIOProtocol
    assert (protocol.state, protocol.STATE_OPEN) == (3, 3)
    assert len(protocol.send_queue) == 0 and protocol._perMessageCompress is None
    assert (transport.dataBuffer, transport.offset, transport._tempDataLen) == (b"", 0, 0)
    assert transport.connected == 1 and transport.disconnecting == 0 and not transport.TLS
    assert transport.socket.gettimeout() == 0 and transport.socket.send(b"") == 0
    transport.write(b"abc")
    assert transport._tempDataLen == 3
    transport.loseConnection()
    assert transport.disconnecting
    transport.connectionLost(Failure(ConnectionDone()))
    assert not transport.connected and protocol.state == protocol.STATE_CLOSED


async def test_a_slow_reader_is_closed_rather_than_miss_what_is_kept(serving, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    one = await serving(max_unsent=10_000, buffer=4096)
    kept = [Frame(b"a" * 1000, True, is_kept=True), Bundle([(b"a" * 500, True)] * 2, is_kept=True)]
    for number in range(1000):
        one.transport.write(kept[number % 2])
        assert one.transport.unsent <= 10_000
        if one.transport.closing:
            break
    assert one.transport.closed[0] == 4101
    await asyncio.sleep(0)
    await one.transport.stopped()
