"""Short frames are taken; what comes of any bytes is what autobahn alone makes of them."""

import asyncio
import random
import struct

import pytest
from autobahn.twisted.websocket import WebSocketAdapterProtocol
from daphne.ws_protocol import WebSocketProtocol

from filtered_websocket.codecs.frames import LONGEST_SHORT as LONGEST
from filtered_websocket.server.daphne_protocol import Protocol as OurProtocol
from filtered_websocket.transports import daphne_reading
from filtered_websocket.transports.daphne_reading import (
    data_received,
    read_short_frames,
    reading_attributes,
)

from .test_daphne import Serving

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\x01\xfe\x80\x7f"


def frame(payload=b"", opcode=TEXT, *, final=True, reserved=0, mask=MASK, form=None):
    """A frame of a client; ``form`` is that of its length: 7, 16 or 64 bits."""
    size = len(payload)
    form = form or (7 if size < 126 else 16 if size < 1 << 16 else 64)
    length = {
        7: (size, b""),
        16: (126, struct.pack("!H", size & 0xFFFF)),
        64: (127, struct.pack("!Q", size)),
    }
    short, extended = length[form]
    head = bytes((final << 7 | reserved << 4 | opcode, short | (0x80 if mask else 0))) + extended
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Reading(Serving):
    """A connection, what its application got, and what autobahn was left to do."""

    def __init__(self, max_size=1 << 20):
        super().__init__()
        self.max_size = max_size
        self.late = []
        self.reactor.callLater = lambda *call: self.late.append(call)

    async def accept(self, over=None):
        self.protocol.factory.setProtocolOptions(maxMessagePayloadSize=self.max_size)
        await super().accept(over)
        self.events()
        return self

    def events(self):
        queue = self.protocol.application_queue
        return [queue.get_nowait() for _ in range(queue.qsize())]

    def outcome(self):
        """All that anybody can see of what was received."""
        protocol = self.protocol
        ends = [repr(writer.doWrite()) for writer in tuple(self.reactor.writers)]
        return (
            self.events(),
            ends,
            self.got(),
            protocol.state,
            protocol.wasClean,
            protocol.localCloseCode,
            protocol.remoteCloseCode,
            [call[0] for call in self.late],
            vars(protocol.trafficStats),
            protocol.data,
            protocol.inside_message,
        )


@pytest.fixture
async def reading():
    made = []

    async def start(*args, taking=True, **kwargs):
        made.append(Reading(*args, **kwargs))
        await made[-1].accept()
        if not taking:
            made[-1].protocol.__class__ = WebSocketProtocol
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture
def left(monkeypatch):
    """The bytes that autobahn gets."""
    found = []
    received = WebSocketAdapterProtocol.dataReceived

    def note(self, data):
        if not data.startswith(b"GET"):
            found.append(data)
        received(self, data)

    monkeypatch.setattr(WebSocketAdapterProtocol, "dataReceived", note)
    return found


def received(payload):
    key = "text" if isinstance(payload, str) else "bytes"
    return {"type": "websocket.receive", key: payload}


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, LONGEST])
async def test_short_frames_never_reach_autobahn(reading, left, size):
    one = await reading()
    letters, octets = "x" * size, bytes(range(256)) * 5
    one.protocol.dataReceived(frame(letters.encode()) + frame(octets[:size], BINARY))
    one.protocol.dataReceived(frame("ü€𝄞".encode()))
    assert one.events() == [received(letters), received(octets[:size]), received("ü€𝄞")]
    assert left == []


@pytest.mark.parametrize(
    "other",
    [
        frame(b"x" * (LONGEST + 1)),
        frame(b"x" * 70_000, BINARY),
        frame(b"ping", PING),
        frame(b"first ", final=False),
        frame(struct.pack("!H", 4321), CLOSE),
        frame(b"unmasked", mask=b""),
        frame(b"reserved", reserved=4),
        frame(b"unknown", 3),
        frame(b"short, in 16 bits", form=16),
        frame(b"short, in 64 bits", form=64),
        frame(b"\xff"),
        frame("ü".encode()[:1]),
        frame(b"\xed\xa0\x80"),
        frame(b"incomplete" * 4)[:-30],
        frame(b"x" * 200)[:7],
        b"\x81",
    ],
    ids=lambda data: f"{len(data)}-{data[:4].hex()}",
)
async def test_from_the_first_other_frame_on_all_is_autobahns(reading, left, other):
    one = await reading()
    one.protocol.dataReceived(frame(b"before") + other + frame(b"behind"))
    assert left == [other + frame(b"behind")]
    alone = await reading(taking=False)
    alone.protocol.dataReceived(frame(b"before") + other + frame(b"behind"))
    seen = one.outcome()
    assert seen == alone.outcome() and seen[0][0] == received("before")


def any_frame(chance):
    """Mostly what a client sends, now and then what none should."""
    payload = chance.choice(["", "a", "ü€𝄞" * 9, "x" * 125, "y" * 126, "z" * 2000]).encode()
    mask = bytes(chance.randrange(256) for _ in range(4))
    kind = chance.randrange(40)
    if kind == 0:
        return frame(payload, chance.randrange(16), mask=mask)
    if kind == 1:
        return frame(payload, reserved=chance.randrange(8), mask=mask)
    if kind == 2:
        return frame(payload, mask=b"")
    if kind == 3:
        return frame(payload[:90], chance.choice([TEXT, PING]), form=16, mask=mask)
    if kind == 4:
        return frame(payload[:-1], mask=mask)
    if kind == 5:
        return frame(struct.pack("!H", 1000), CLOSE, mask=mask)
    if kind < 10:
        return frame(payload[:125], chance.choice([PING, PONG]), mask=mask)
    if kind < 16:
        parts = [frame(payload[:7], final=False, mask=mask), frame(payload[7:], 0, mask=mask)]
        return frame(b"between", PING).join(parts) if kind < 13 else b"".join(parts)
    return frame(payload, chance.choice([TEXT, BINARY]), mask=mask)


def pieces(chance, data):
    """``data`` as it may arrive."""
    cuts = sorted(chance.randrange(len(data)) for _ in range(chance.randrange(6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@pytest.mark.repeats
@pytest.mark.parametrize("seed", range(40))
async def test_what_comes_of_any_stream_is_what_autobahn_makes_of_it(reading, seed):
    chance = random.Random(seed)
    for _ in range(10):
        stream = b"".join(any_frame(chance) for _ in range(chance.randrange(1, 20)))
        arriving = pieces(chance, stream)
        closing = chance.randrange(-12, 6)
        one, alone = await reading(), await reading(taking=False)
        for at, piece in enumerate(arriving):
            for each in (one, alone):
                each.protocol.dataReceived(piece)
                if at == closing:
                    each.protocol.sendClose(4000)
        assert one.outcome() == alone.outcome(), stream.hex()


@pytest.mark.parametrize("size", [0, 1, 7, 125, 126, LONGEST + 1, 40_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_behind_a_frame_that_autobahn_ends_frames_are_taken_again(
    reading, left, size, opcode
):
    begun, behind = frame(b"x" * size, opcode), frame(b"1") + frame(b"2", BINARY)
    for at in {*range(1, 9), len(begun) // 2, len(begun) - 1} & set(range(1, len(begun))):
        one = await reading()
        one.protocol.dataReceived(begun[:at])
        one.protocol.dataReceived(begun[at:] + behind)
        assert left == [begun[:at], begun[at:]]
        payload = b"x" * size
        first = received(payload.decode() if opcode == TEXT else payload)
        assert one.events() == [first, received("1"), received(b"2")]
        left.clear()


@pytest.mark.parametrize(
    ("begun", "at"),
    [
        (frame(b"ping", PING), 1),
        (frame(b"ping", PING), 8),
        (frame(struct.pack("!H", 1000), CLOSE), 7),
        (frame(b"x" * 70_000), 5),
        (frame(b"first", final=False), 3),
        (frame(b"unmasked", mask=b""), 1),
        # Another piece is needed to know how long it is.
        (frame(b"x" * 200)[:7], 2),
    ],
    ids=lambda value: value.hex()[:8] if isinstance(value, bytes) else str(value),
)
async def test_behind_any_other_frame_that_has_begun_all_is_autobahns(reading, left, begun, at):
    arriving = [begun[:at], begun[at:] if at == 2 else begun[at:] + frame(b"behind")]
    one, alone = await reading(), await reading(taking=False)
    for piece in arriving:
        one.protocol.dataReceived(piece)
    assert left == arriving
    for piece in arriving:
        alone.protocol.dataReceived(piece)
    assert one.outcome() == alone.outcome()


@pytest.mark.parametrize("at", [1, 3, 6, 7])
@pytest.mark.parametrize(
    "wrong", [frame(b"\xff\xff"), frame(b"short, in 16 bits", form=16)], ids=["utf-8", "length"]
)
async def test_nothing_is_read_behind_a_frame_that_began_well_and_is_wrong(reading, wrong, at):
    one, alone = await reading(), await reading(taking=False)
    for piece in (wrong[:at], wrong[at:] + frame(b"behind"), frame(b"later")):
        for each in (one, alone):
            each.protocol.dataReceived(piece)
    seen = one.outcome()
    assert seen == alone.outcome() and seen[0] == [] and one.protocol.failedByMe


@pytest.mark.parametrize("closes", ["server", "failure"])
async def test_while_it_closes_no_read_is_cut(reading, left, closes):
    one = await reading()
    one.protocol.dataReceived(frame(b"begun")[:8])
    if closes == "server":
        one.protocol.sendClose(4000)
    else:
        one.protocol.failedByMe = True
    one.protocol.dataReceived(frame(b"begun")[8:] + frame(b"behind"))
    assert left == [frame(b"begun")[:8], frame(b"begun")[8:] + frame(b"behind")]


HIDDEN = frame(b"hidden")
LONG = frame(bytes(0x8186), BINARY)


@pytest.mark.parametrize(
    "arriving",
    [
        # The payload of a frame, and the length of another, look like frames.
        [frame(HIDDEN, BINARY, mask=bytes(4))[:6], HIDDEN],
        [frame(HIDDEN, PING, mask=bytes(4))[:6], HIDDEN],
        [LONG[:2], LONG[2:]],
        [frame(b"part", final=False), frame(b"no continuation")],
    ],
    ids=["payload", "ping", "length", "part"],
)
async def test_nothing_is_taken_in_the_middle_of_a_frame_or_message(reading, left, arriving):
    one, alone = await reading(), await reading(taking=False)
    for piece in arriving:
        one.protocol.dataReceived(piece)
    assert left == arriving
    for piece in arriving:
        alone.protocol.dataReceived(piece)
    assert one.outcome() == alone.outcome()


async def test_nothing_is_taken_once_the_server_closes(reading, left):
    one = await reading()
    closing = []

    def close(payload, binary):
        closing.append(payload)
        one.protocol.sendClose(4000)

    one.protocol.onMessage = close
    one.protocol.dataReceived(frame(b"1") + frame(b"2"))
    assert closing[0] == b"1" and left == [frame(b"2")]
    one.protocol.dataReceived(frame(b"3"))
    assert left == [frame(b"2"), frame(b"3")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_listeners", {"message": []}),
        ("failedByMe", True),
        ("maxFramePayloadSize", LONGEST - 1),
        ("maxMessagePayloadSize", LONGEST - 1),
    ],
)
async def test_while_autobahn_has_more_to_do_with_a_frame_all_is_its_own(
    reading, left, name, value
):
    one = await reading()
    setattr(one.protocol, name, value)
    one.protocol.dataReceived(frame(b"1"))
    assert left == [frame(b"1")]


async def test_any_traffic_calls_off_the_timeout_of_a_ping(reading, left):
    class Timeout:
        cancelled = False

        def cancel(self):
            self.cancelled = True

    one = await reading()
    one.protocol.autoPingTimeoutCall = timeout = Timeout()
    one.protocol.dataReceived(frame(b"1"))
    assert left == [frame(b"1")] and one.events() == [received("1")]
    assert timeout.cancelled == one.protocol.autoPingRestartOnAnyTraffic


async def test_the_servers_limit_holds(reading):
    one = await reading(max_size=10)
    one.protocol.dataReceived(frame(b"x" * 10) + frame(b"x" * 11))
    assert one.events() == [received("x" * 10)] and one.protocol.wasMaxMessagePayloadSizeExceeded


class Elsewhere(WebSocketProtocol):
    """Messages may come about in another way than is known."""

    def onFrameEnd(self):
        return super().onFrameEnd()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__class__", Elsewhere),
        ("_perMessageCompress", object()),
        ("applyMask", False),
        ("dataReceived", print),
        ("logFrames", True),
        ("logOctets", True),
        ("processData", print),
        ("trackedTimings", object()),
    ],
)
async def test_a_protocol_that_is_not_as_known_is_left_alone(reading, name, value):
    one = await reading(taking=False)
    setattr(one.protocol, name, value)
    assert not read_short_frames(one.protocol)
    assert type(one.protocol).dataReceived is not data_received


async def test_an_attribute_that_has_gone_is_told(reading, caplog):
    one = await reading(taking=False)
    del one.protocol.current_frame
    assert not read_short_frames(one.protocol)
    assert "frames are read by autobahn, whose release differs" in caplog.text


async def test_without_a_bound_on_what_waits_nothing_is_taken(reading):
    one = await reading(taking=False)
    one.protocol.application_queue = asyncio.Queue()
    assert not read_short_frames(one.protocol)


async def test_without_autobahns_module_nothing_is_taken(reading, monkeypatch):
    one = await reading(taking=False)
    monkeypatch.setattr(daphne_reading, "_reading_classes", {})
    monkeypatch.setitem(daphne_reading.sys.modules, "autobahn.twisted.websocket", None)
    assert not read_short_frames(one.protocol)


async def test_our_own_servers_protocol_which_looks_at_what_arrives_is_left_to_autobahn(reading):
    one = await reading(taking=False)
    one.protocol.__class__ = OurProtocol
    assert not read_short_frames(one.protocol) and type(one.protocol) is OurProtocol


class Sub(WebSocketProtocol):
    """Leaves alone how messages come about."""


async def test_a_subclass_of_daphnes_protocol_takes_them_too(reading):
    one = await reading(taking=False)
    one.protocol.__class__ = Sub
    assert read_short_frames(one.protocol) and isinstance(one.protocol, Sub)
    kind = type(one.protocol)
    assert read_short_frames(one.protocol) and type(one.protocol) is kind
    assert (kind.__name__, kind.__module__) == (Sub.__name__, Sub.__module__)


async def test_the_shape_is_that_of_the_installed_versions(reading):
    """What is gone, or means something else, shows here and not on a site."""
    one = await reading(taking=False)
    protocol = one.protocol
    reading_attributes(protocol)
    assert (protocol.data, protocol.current_frame, protocol.inside_message) == (b"", None, False)
    assert protocol._listeners is None and protocol.trackedTimings is None
    assert protocol.autoPingTimeoutCall is None and protocol.failedByMe is False
    protocol.dataReceived(frame(b"abc")[:-1])
    assert (protocol.current_frame.length, protocol.inside_message) == (3, True)
    assert (protocol.current_frame.opcode, protocol.current_frame_masker.pointer()) == (TEXT, 2)
    protocol.dataReceived(frame(b"abc")[-1:] + frame(b"d")[:1])
    assert (protocol.data, protocol.current_frame, protocol.inside_message) == (
        b"\x81",
        None,
        False,
    )
    protocol.dataReceived(frame(b"d")[1:] + frame(b"e", final=False))
    assert (protocol.current_frame, protocol.inside_message) == (None, True)
