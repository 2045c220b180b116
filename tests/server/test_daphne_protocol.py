"""Our own server's protocol, on a transport of strings."""

import asyncio
import os
import struct
import time
from types import SimpleNamespace

import pytest
from daphne.ws_protocol import WebSocketFactory
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from filtered_websocket.close_codes import BAD_MESSAGE, NO_PONG, TOO_LARGE
from filtered_websocket.server import daphne_protocol as module
from filtered_websocket.server.daphne_protocol import Protocol, with_deadline

LIMIT = 1000
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PONG = 10
CLOSE = 8


class Server:
    """The part of daphne's that a protocol asks."""

    root_path = ""
    proxy_forwarded_address_header = None
    websocket_timeout = 86_400
    websocket_connect_timeout = 20
    ping_interval = 20

    def __init__(self):
        self.applications = 0
        self.queue = asyncio.Queue()

    def create_application(self, protocol, scope):
        self.applications += 1
        return self.queue

    def ignore(self, *arguments):
        pass

    protocol_connected = protocol_disconnected = log_action = ignore


class Peer:
    """A client of one protocol, and all that it was sent."""

    def __init__(self):
        self.server = Server()
        factory = WebSocketFactory(self.server, server="test")
        factory.setProtocolOptions(
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingTimeout=0,
            maxMessagePayloadSize=LIMIT,
            maxFramePayloadSize=LIMIT,
        )
        factory.protocol = Protocol
        self.protocol = factory.buildProtocol(None)
        self.protocol._raw_query_string = b""
        self.transport = StringTransport()
        # As the HTTP channel does, before it hands its transport on.
        self.transport.registerProducer(object(), True)
        self.protocol.makeConnection(self.transport)

    def ask(self):
        self.protocol.dataReceived(REQUEST)
        return self

    def open(self):
        self.ask()
        self.protocol.handle_reply({"type": "websocket.accept"})
        assert self.transport.value().startswith(b"HTTP/1.1 101 ")
        self.transport.clear()
        assert self.server.queue.get_nowait() == {"type": "websocket.connect"}
        return self

    def send(self, payload=b"", opcode=1, fin=True):
        self.protocol.dataReceived(frame(payload, opcode, fin))

    def lose(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def heard(self):
        """(opcode, payload) of every frame."""
        data, frames = self.transport.value(), []
        while data:
            size = data[1]
            frames.append((data[0] & 15, data[2 : 2 + size]))
            data = data[2 + size :]
        return frames

    @property
    def received(self):
        queue = self.server.queue
        return [queue.get_nowait() for _ in range(queue.qsize())]


def frame(payload, opcode=1, fin=True):
    mask = os.urandom(4)
    size = len(payload)
    length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0xFE, size)
    body = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return bytes([fin << 7 | opcode]) + length + mask + body


def closed(code, reason):
    return (CLOSE, struct.pack("!H", code) + reason.encode())


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, which a test sets."""
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.value)
    return now


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"text": ""}, (1, b"")),
        ({"bytes": b""}, (2, b"")),
        ({"bytes": None, "text": ""}, (1, b"")),
        ({"text": "grün"}, (1, "grün".encode())),
        ({"bytes": b"\xff", "text": None}, (2, b"\xff")),
    ],
)
def test_every_message_leaves_even_an_empty_one(event, expected):
    peer = Peer().open()
    peer.protocol.handle_reply({"type": "websocket.send", **event})
    assert peer.heard == [expected]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"code": 4200, "reason": "the server ends"}, closed(4200, "the server ends")),
        ({"code": 4200}, closed(4200, "")),
        ({"code": None, "reason": None}, closed(1000, "")),
        ({}, closed(1000, "")),
    ],
)
def test_a_close_says_why(event, expected):
    peer = Peer().open()
    peer.protocol.handle_reply({"type": "websocket.close", **event})
    assert peer.heard == [expected]


def test_a_close_before_accept_is_a_refusal():
    peer = Peer().ask()
    peer.protocol.handle_reply({"type": "websocket.close", "code": 4403, "reason": "no"})
    assert peer.transport.value().startswith(b"HTTP/1.1 403 ")


def test_what_daphne_refuses_to_send_is_refused_still():
    with pytest.raises(ValueError, match="type"):
        Peer().open().protocol.handle_reply({"text": "x"})
    with pytest.raises(ValueError, match="accepted"):
        Peer().ask().protocol.handle_reply({"type": "websocket.send", "text": "x"})


def test_a_failed_handshake_is_told_in_words_of_http():
    peer = Peer()
    peer.protocol.dataReceived(REQUEST.replace(b"Version: 13", b"Version: x"))
    assert peer.transport.value().startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    "odd", ["Host: localhost,localhost", "Host: localhost\r\nSec-WebSocket-Protocol: gr\u00fcn"]
)
def test_a_header_that_daphne_stumbles_over_fails_the_handshake(odd):
    peer = Peer()
    peer.protocol.dataReceived(REQUEST.replace(b"Host: localhost", odd.encode("latin-1")))
    assert peer.transport.value().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert peer.server.applications == 0
    peer.lose()


def test_the_application_hears_the_end_of_what_it_accepted():
    peer = Peer().open()
    peer.lose()
    assert peer.received == [{"type": "websocket.disconnect", "code": 1006}]


def test_what_comes_before_the_accept_waits_for_it():
    peer = Peer().ask()
    peer.send(b"early")
    # Looks like the end of a request, and would be taken for a second one.
    peer.protocol.dataReceived(b"\x81\x84\0\0\0\0\r\n\r\n")
    assert peer.server.applications == 1
    assert peer.received == [{"type": "websocket.connect"}]
    peer.protocol.handle_reply({"type": "websocket.accept"})
    assert [event["text"] for event in peer.received] == ["early", "\r\n\r\n"]


def test_too_much_before_the_accept_ends_the_connection():
    peer = Peer().ask()
    for _ in range(module.MAX_EARLY // 1024):
        peer.protocol.dataReceived(bytes(1024))
    assert not peer.transport.disconnecting
    peer.protocol.dataReceived(b"x")
    assert peer.transport.disconnecting


@pytest.mark.parametrize("sizes", [[LIMIT + 1], [LIMIT, 1], [LIMIT // 2] * 3])
def test_a_message_over_the_limit_is_told_so(sizes):
    peer = Peer().open()
    for number, size in enumerate(sizes):
        peer.send(b"x" * size, opcode=0 if number else 2, fin=number == len(sizes) - 1)
    assert peer.heard == [closed(TOO_LARGE, f"a message has at most {LIMIT} bytes")]
    # Nor does what follows reach the application, until the client has answered.
    peer.send(b"more")
    assert peer.received == []
    peer.send(struct.pack("!H", TOO_LARGE), opcode=CLOSE)
    assert peer.transport.disconnecting


def test_a_message_at_the_limit_is_received():
    peer = Peer().open()
    peer.send(b"x" * (LIMIT - 1), fin=False)
    peer.send(b"x", opcode=0)
    assert [len(event["text"]) for event in peer.received] == [LIMIT]
    assert peer.heard == []


def test_a_message_has_a_bounded_number_of_fragments():
    peer = Peer().open()
    peer.send(fin=False)
    for _ in range(module.MAX_FRAGMENTS - 1):
        peer.send(opcode=0, fin=False)
    assert peer.heard == []
    peer.send(opcode=0, fin=False)
    assert peer.heard == [
        closed(TOO_LARGE, f"a message has at most {module.MAX_FRAGMENTS} fragments")
    ]


def test_a_message_that_does_not_end_in_time_ends_the_connection(clock):
    peer = Peer().open()
    peer.send(b"a", fin=False)
    peer.protocol.check_timeouts()
    clock.value += module.MESSAGE_TIMEOUT - 0.1
    peer.send(b"b", opcode=0, fin=False)
    peer.protocol.check_timeouts()
    assert peer.heard == []
    clock.value += 0.1
    peer.protocol.check_timeouts()
    peer.protocol.check_timeouts()
    assert peer.heard == [closed(BAD_MESSAGE, "a message arrives within 10 seconds")]


def test_many_messages_may_take_longer_than_one(clock):
    peer = Peer().open()
    for _ in range(5):
        peer.send(b"a", fin=False)
        peer.protocol.check_timeouts()
        clock.value += module.MESSAGE_TIMEOUT - 1
        peer.send(b"b", opcode=0)
        peer.protocol.check_timeouts()
    assert [event["text"] for event in peer.received] == ["ab"] * 5
    assert CLOSE not in [opcode for opcode, _ in peer.heard]


def test_pings_of_a_client_that_does_not_read_get_one_pong():
    peer = Peer().open()
    peer.send(b"1", opcode=9)
    producer = peer.transport.producer
    producer.pauseProducing()
    for number in range(1000):
        peer.send(b"%d" % number, opcode=9)
    assert peer.heard == [(PONG, b"1")]
    producer.resumeProducing()
    producer.resumeProducing()
    peer.send(b"2", opcode=9)
    assert peer.heard == [(PONG, b"1"), (PONG, b"999"), (PONG, b"2")]
    producer.stopProducing()


def looks(peer, clock, seconds):
    """As daphne does, every two seconds."""
    for _ in range(seconds // 2):
        clock.value += 2
        peer.protocol.check_timeouts()


def test_a_client_that_answers_no_ping_is_closed_whatever_it_sends(clock):
    peer = Peer().open()
    for _ in range(19):
        peer.send(b"I live")
        looks(peer, clock, 2)
    assert peer.heard == [(9, b"fws")]
    looks(peer, clock, 2)
    expected = closed(NO_PONG, "a ping is answered within 20 seconds")
    assert peer.heard == [(9, b"fws"), expected]
    looks(peer, clock, 60)
    assert peer.heard == [(9, b"fws"), expected]


def test_a_client_that_answers_is_asked_again(clock):
    peer = Peer().open()
    for _ in range(5):
        looks(peer, clock, 20)
        assert peer.heard == [(9, b"fws")]
        looks(peer, clock, 18)
        peer.send(b"fws", opcode=PONG)
        peer.transport.clear()
    looks(peer, clock, 18)
    assert peer.heard == []


def test_a_wall_clock_that_jumps_closes_nothing_and_stops_no_ping(monkeypatch):
    peer = Peer().open()
    now = time.time()
    for jump in (25 * 3600, -25 * 3600):
        monkeypatch.setattr(module.time, "time", lambda jump=jump: now + jump)
        peer.protocol.check_timeouts()
        assert CLOSE not in [opcode for opcode, _ in peer.heard]
    peer.transport.clear()
    monkeypatch.setattr(module.time, "time", lambda: now - 25 * 3600 + 21)
    peer.protocol.check_timeouts()
    assert [opcode for opcode, _ in peer.heard] == [9]


def test_a_connection_lasts_as_long_as_daphne_lets_it(clock):
    peer = Peer().open()
    clock.value += Server.websocket_timeout + 1
    peer.protocol.check_timeouts()
    assert peer.heard == [closed(1000, "")]


class Channel:
    """Twisted's HTTP channel, as far as its timeouts go."""

    callLater = None


def test_bytes_of_a_slow_request_do_not_extend_its_time():
    clock = Clock()
    channel = with_deadline(lambda address: Channel(), clock)("peer")
    over = []
    idle = channel.callLater(60, over.append, "idle")
    clock.advance(module.REQUEST_TIMEOUT - 0.1)
    idle.reset(60)
    assert over == [] and idle.active()
    clock.advance(0.1)
    assert over == ["idle"]
    # What Twisted waits for then is over at once.
    channel.callLater(15, over.append, "abort")
    clock.advance(0)
    assert over == ["idle", "abort"]


def test_a_request_that_came_in_time_has_no_deadline():
    clock = Clock()
    channel = with_deadline(lambda address: Channel(), clock)("peer")
    channel.callLater(60, pytest.fail, "timed out").cancel()
    clock.advance(100)
    assert clock.getDelayedCalls() == []
