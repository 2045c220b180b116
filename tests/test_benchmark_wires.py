"""How the load speaks protocols, and comes back to socket.io; no server, no clock."""

import json
import socket

import pytest

from benchmarks import centrifuge, pusher, spoken
from benchmarks.clients import UNKNOWN, Client, LoadError, Place, Stream
from benchmarks.contenders import BY_NAME, PAYLOAD, RECOVERING
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers.site_settings import PUSHER_APP
from benchmarks.wire import BINARY, MASK, TEXT, ReturningWire, build_frame, take_frames
from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF, Publication
from filtered_websocket.codecs.data import Data
from filtered_websocket.pusher.apps import App

from .test_benchmarks import Ends
from .waiting import LIMIT

FORMATS = {"json": JSON, "protobuf": PROTOBUF}
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


@pytest.fixture
def client_of():
    """A client of a wire, and the other end of its socket."""
    ends = []

    def make(wire):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            place = Place(listener.getsockname()[1], "/", Stream(), True, True, wire)
            client = Client(place, wire)
            server, _ = listener.accept()
        server.settimeout(LIMIT)
        ends.extend((client.socket, server))
        return client, server

    yield make
    for one in ends:
        one.close()


def frame_of(form, **reply):
    frame = FORMATS[form].reply(reply)
    return build_frame(frame.payload, TEXT if frame.text else BINARY)


def said(server, form):
    """The commands in the next frames of a client."""
    frames = bytearray(server.recv(65_536))
    commands = []
    while frames:
        opcode, size = frames[0] & 0x0F, frames[1] & 0x7F
        wide = 2 if size == 126 else 0
        if wide:
            size = int.from_bytes(frames[2:4], "big")
        start = 6 + wide
        masked = frames[start : start + size]
        payload = bytes(byte ^ MASK[at % 4] for at, byte in enumerate(masked))
        assert frames[start - 4 : start] == MASK and opcode == (TEXT if form == "json" else BINARY)
        commands += FORMATS[form].decode(payload, form == "json")
        del frames[: start + size]
    return commands


def test_a_client_of_the_protocol_connects_and_subscribes(form, client_of):
    client, server = client_of(centrifuge.wire_of(form, "room"))
    assert not client.greet(UPGRADED)
    assert said(server, form) == [{"id": 1, "connect": {}}]
    assert not client.greet(frame_of(form, id=1, connect={"client": "x" * 200}))
    assert said(server, form) == [{"id": 2, "subscribe": {"channel": "room"}}]
    assert client.greet(frame_of(form, id=2, subscribe={}))


def test_a_subscription_that_is_refused_is_an_error(form, client_of):
    client, _ = client_of(centrifuge.wire_of(form, "room"))
    client.greet(UPGRADED)
    client.greet(frame_of(form, id=1, connect={}))
    with pytest.raises(LoadError, match="greeted with"):
        client.greet(frame_of(form, id=2, error={"code": 103}))


def test_who_comes_back_subscribes_with_its_message(form, client_of):
    client, server = client_of(centrifuge.wire_of(form, "room", returns=True))
    client.greet(UPGRADED)
    said(server, form)
    assert client.greet(frame_of(form, id=1, connect={}))
    client.socket.sendall(client.wire.outgoing)
    [command] = said(server, form)
    assert command["subscribe"]["channel"] == "room" and command["subscribe"]["recover"]
    assert not client.wire.is_steady


def test_a_message_of_the_protocol_is_published(form, client_of):
    client, server = client_of(centrifuge.wire_of(form, "room"))
    client.socket.sendall(client.wire.outgoing)
    data = Data(json.dumps(PAYLOAD.decode()).encode())
    assert said(server, form) == [{"id": 3, "publish": {"channel": "room", "data": data}}]


def publication(form, offset=0):
    """The frame of a message that arrives."""
    data = Data(json.dumps(PAYLOAD.decode()).encode())
    told = Publication(data, offset, '{"client":"a"}')
    frame = FORMATS[form].publication(FORMATS[form].head("room", 0), told)
    return build_frame(frame.payload, TEXT if frame.text else BINARY)


def test_a_publication_is_counted_and_its_length_is_learned(form):
    pair = Ends(1, wire=centrifuge.wire_of(form, "room"))
    receiver = next(one for one in pair.load.clients.values() if one.left is pair.stream.left)
    assert receiver.size == UNKNOWN
    pair.load.send(pair.stream, 3)
    pair.servers[1].sendall(publication(form))
    assert pair.load.pump(LIMIT) == [pair.stream]
    assert receiver.size == len(publication(form))
    pair.servers[1].sendall(publication(form) * 2)
    pair.load.receive(2)
    pair.close()


def test_publications_with_offsets_have_no_known_length(form):
    pair = Ends(1, wire=centrifuge.wire_of(form, "room", keeps=True))
    pair.load.send(pair.stream, 2)
    pair.servers[1].sendall(publication(form, 9) + publication(form, 10))
    pair.load.receive(2)
    assert {one.size for one in pair.load.clients.values()} == {UNKNOWN}
    pair.close()


def test_replies_are_no_deliveries_and_pings_are_answered(form):
    pair = Ends(0, wire=centrifuge.wire_of(form, "room"))
    pair.load.send(pair.stream)
    pair.servers[0].recv(65_536)
    ping = FORMATS[form].ping
    kind = TEXT if ping.text else BINARY
    reply = frame_of(form, id=3, publish={})
    pair.servers[0].sendall(reply + build_frame(ping.payload, kind))
    assert pair.load.pump(LIMIT) == []
    assert pair.servers[0].recv(100) == build_frame(ping.payload, kind, MASK)
    assert pair.load.deliveries == 0
    pair.close()


def test_protobuf_is_asked_for_in_the_handshake():
    asked = {form: centrifuge.wire_of(form, "room").request("/", 9000, "") for form in FORMATS}
    assert b"\r\nSec-WebSocket-Protocol: centrifuge-protobuf\r\n\r\n" in asked["protobuf"]
    assert b"Sec-WebSocket-Protocol" not in asked["json"]


def test_without_its_runtime_protobuf_is_not_measured(monkeypatch):
    monkeypatch.setattr(centrifuge, "has_protobuf", lambda: False)
    assert [*centrifuge.formats()] == ["json"]


# The Pusher protocol


def told(event, **data):
    return build_frame(json.dumps({"event": event, "data": json.dumps(data)}).encode())


def test_a_client_of_pusher_signs_for_the_socket_that_it_has_got(client_of):
    app = App(id="1", key=PUSHER_APP["KEY"], secret=PUSHER_APP["SECRET"])
    client, server = client_of(pusher.pusher_wire("room"))
    assert not client.greet(UPGRADED)
    frame = b'{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"1.2\\"}"}'
    assert not client.greet(build_frame(frame))
    masked = server.recv(65_536)
    start = 8 if masked[1] & 0x7F == 126 else 6
    said = json.loads(unmasked(masked[start:]))
    assert said["event"] == "pusher:subscribe" and said["data"]["channel"] == "private-room"
    assert app.has_authorized(said["data"]["auth"], "1.2:private-room")
    frame = b'{"event":"pusher_internal:subscription_succeeded","data":"{}"}'
    assert client.greet(build_frame(frame))


def test_a_subscription_of_pusher_that_is_refused_is_an_error(client_of):
    client, _ = client_of(pusher.pusher_wire("room"))
    client.greet(UPGRADED)
    with pytest.raises(LoadError, match="greeted with"):
        client.greet(told("pusher:error", code=4001))


def test_what_pusher_sends_is_a_message_or_a_ping():
    wire = pusher.pusher_wire("room")
    said = json.loads(unmasked(wire.outgoing[8:]))
    assert said["event"] == "client-message" and said["channel"] == "private-room"
    assert said["data"] == PAYLOAD.decode()
    assert wire.delivers(json.dumps(said, separators=(",", ":")).encode())
    assert not wire.delivers(b'{"event":"pusher:pong","data":"{}"}')
    assert json.loads(wire.answer(b'{"event":"pusher:ping","data":"{}"}'))["event"] == "pusher:pong"
    assert wire.answer(b'{"event":"pusher:error"}') is None and wire.incoming == b""


def unmasked(payload):
    return bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


# socket.io that recovers connections


def test_its_place_follows_each_message():
    first = RECOVERING.delivery[:-1]
    assert RECOVERING.delivers(first + b',"1-0"]')
    assert not RECOVERING.delivers(b'42["n","1-0"]')


def test_who_comes_back_says_who_it_was_and_what_it_had():
    wire = ReturningWire(PAYLOAD, "who", "7-0")
    masked = wire.outgoing[6:]
    assert (
        bytes(byte ^ MASK[at % 4] for at, byte in enumerate(masked))
        == b'40{"pid":"who","offset":"7-0"}'
    )
    assert wire.greetings == ((b"0{", None),)
    assert wire.answer(b'40{"sid":"x"}') == b"" and wire.answer(b"41") is None
    assert take_frames(bytearray(build_frame(wire.delivery))) == [(TEXT, wire.delivery)]


# What is compared


def test_each_way_is_compared_with_the_plain_one():
    turn = spoken.with_ratios({"plain_us": 2.0, "json_us": 3.0})
    assert turn == {"plain_us": 2.0, "json_us": 3.0, "json_ratio": 1.5}
    turn = spoken.with_ratios({"plain_us": 2.0, "pusher_us": 5.0})
    assert turn["pusher_ratio"] == 2.5
    assert spoken.medians([{"a": 1.0}, {"a": 9.0}, {"a": 2.0}]) == {"a": 2.0}


def test_peers_speak_in_one_way():
    assert spoken.ways_of(BY_NAME["node-socketio-recovery"]) == ["plain"]
    assert spoken.ways_of(BY_NAME["ours-daphne-redis"]) == ["plain", "json", "protobuf"]
    assert spoken.ways_of_pusher(BY_NAME["node-socketio"]) == ["plain"]
    assert spoken.ways_of_pusher(BY_NAME["ours-daphne-redis"]) == ["plain", "pusher"]


def test_who_stands_apart_takes_part_where_it_is_named():
    named = {one.name for one in SCENARIOS if "node-socketio-recovery" in one.names}
    assert named == {"spoken-200", "spoken-groups", "spoken-history", "spoken-recovery"}
