"""Short frames are taken; what comes of any bytes is what websockets alone makes of them."""

import asyncio
import itertools
import math
import random
import struct
from types import SimpleNamespace

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from filtered_websocket.codecs.frames import LONGEST_SHORT as LONGEST
from filtered_websocket.codecs.frames import begins_short_frame, read_short_frame
from filtered_websocket.transports import scheduling
from filtered_websocket.transports import uvicorn as lanes
from filtered_websocket.transports.inbox import Received
from filtered_websocket.transports.uvicorn import LOOK_EVERY, MAX_AT_ONCE, read_short_frames

from ..waiting import limited
from .test_daphne_reading import BINARY, CLOSE, PING, TEXT, any_frame, frame, pieces, received
from .test_uvicorn import Serving


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Of a machine that parses any number of short frames in no time; set it to change that."""
    clock = SimpleNamespace(perf_counter=lambda: 0.0)
    monkeypatch.setattr(lanes, "time", clock)
    return clock


class Reading(Serving):
    """A connection, what its application would get, and what its client does."""

    async def accept(self, taking=True):
        await super().accept()
        self.written = []
        self.paused = False
        self.protocol.transport.write = self.written.append
        self.protocol.transport.pause_reading = lambda: self.note(True)
        self.protocol.transport.resume_reading = lambda: self.note(False)
        if not taking:
            self.protocol.queue.forget_protocol()
            self.protocol.__class__ = WebSocketsSansIOProtocol
        return self

    def note(self, paused):
        assert self.paused is not paused
        self.paused = paused

    def receive(self, data):
        if not self.protocol.transport.is_closing():
            self.protocol.data_received(data)

    def events(self):
        queue, found = self.protocol.queue, []
        while queue.qsize():
            found.append(queue.get_nowait())
        return found

    def outcome(self):
        """All that anybody can see of what was received."""
        protocol = self.protocol
        return (
            self.events(),
            b"".join(self.written),
            protocol.conn.state,
            protocol.close_sent,
            repr(protocol.conn.parser_exc),
            protocol.transport.is_closing(),
        )


@pytest.fixture
async def reading(monkeypatch):
    """Starts connections; a machine that is slow does not parse in turns."""
    monkeypatch.setattr(scheduling, "TURN", math.inf)
    made = []

    async def start(*, deflate=False, **kwargs):
        made.append(await Reading(deflate).accept(**kwargs))
        return made[-1]

    yield start
    for one in made:
        del one.protocol.transport.write
        one.protocol.transport.abort()
        await one.end()


@pytest.fixture
def left(monkeypatch):
    """The bytes that websockets gets."""
    found = []
    receive = ServerProtocol.receive_data

    def note(self, data):
        if not data.startswith(b"GET"):
            found.append(bytes(data))
        receive(self, data)

    monkeypatch.setattr(ServerProtocol, "receive_data", note)
    return found


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, LONGEST])
async def test_short_frames_never_reach_websockets(reading, left, size):
    one = await reading()
    letters, octets = "x" * size, bytes(range(256)) * 5
    one.protocol.data_received(frame(letters.encode()) + frame(octets[:size], BINARY))
    one.protocol.data_received(frame("ü€𝄞".encode()))
    assert one.events() == [received(letters), received(octets[:size]), received("ü€𝄞")]
    assert left == []


@pytest.mark.parametrize("size", [0, 5, 126, LONGEST])
async def test_a_short_frame_that_arrives_in_pieces_is_taken(reading, left, size):
    one = await reading()
    whole = frame(b"first") + frame(b"x" * size) + frame(b"last")
    for at in range(1, len(whole)):
        one.protocol.data_received(whole[:at])
        one.protocol.data_received(whole[at:])
        assert one.events() == [received("first"), received("x" * size), received("last")]
    for octet in whole:
        one.protocol.data_received(bytes([octet]))
    assert len(one.events()) == 3 and left == []


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
        frame(b"x" * 2000)[:4],
        b"\x89",
    ],
    ids=lambda data: f"{len(data)}-{data[:4].hex()}",
)
async def test_from_the_first_other_frame_on_all_is_websockets(reading, left, other):
    one, alone = await reading(), await reading(taking=False)
    one.protocol.data_received(frame(b"before") + other + frame(b"behind"))
    assert b"".join(left) == other + frame(b"behind")
    # Of what arrives together with a wrong frame, uvicorn forgets all.
    alone.protocol.data_received(frame(b"before"))
    alone.protocol.data_received(other + frame(b"behind"))
    assert one.outcome() == alone.outcome()


@pytest.mark.repeats
@pytest.mark.parametrize("seed", range(40))
async def test_what_comes_of_any_stream_is_what_websockets_makes_of_it(reading, seed):
    chance = random.Random(seed)
    for _ in range(4):
        one, alone = await reading(), await reading(taking=False)
        frames = [any_frame(chance) for _ in range(chance.randrange(1, 20))]
        closing = chance.randrange(-12, 6)
        for at, piece in enumerate(pieces(chance, b"".join(frames))):
            for each in (one, alone):
                each.receive(piece)
                if at == closing and not each.protocol.close_sent:
                    await each.send({"type": "websocket.close", "code": 4000})
        (events, *seen), (expected, *others) = one.outcome(), alone.outcome()
        assert seen == others
        if alone.protocol.conn.parser_exc is not None:
            # Of what arrives together with a wrong frame, uvicorn forgets all.
            assert events.pop() == expected.pop()
            events = events[: len(expected)]
        is_same = events == expected
        assert is_same, seed


async def test_no_more_than_a_few_are_taken_before_they_are_handled(reading, left):
    one = await reading()
    count = 2 * MAX_AT_ONCE + 10
    one.protocol.data_received(b"".join(frame(b"%d" % n) for n in range(count)))
    queue = one.protocol.queue
    assert queue.qsize() == MAX_AT_ONCE and one.paused and one.protocol.read_paused
    for number in range(count):
        assert one.paused
        assert await one.protocol.receive() == received(str(number))
        assert queue.qsize() <= MAX_AT_ONCE
    assert not one.paused and not one.protocol.read_paused and left == []


async def test_they_are_taken_for_one_turn_at_a_time(reading, clock):
    one = await reading()
    reads = itertools.count()
    clock.perf_counter = lambda: next(reads) * lanes.TURN * 2
    count = 5 * LOOK_EVERY + 1
    one.protocol.data_received(b"".join(frame(b"%d" % n) for n in range(count)) + frame(b"")[:3])
    queue, waiting = one.protocol.queue, []
    for number in range(count):
        waiting.append(queue.qsize())
        assert await one.protocol.receive() == received(str(number))
    assert waiting[::LOOK_EVERY] == [*[LOOK_EVERY] * 5, 1]
    assert not queue.qsize() and not one.paused
    one.protocol.data_received(frame(b"")[3:])
    assert one.events() == [received("")]


async def test_what_waits_is_taken_before_what_arrives(reading):
    one = await reading()
    one.protocol.data_received(b"".join(frame(b"%d" % n) for n in range(MAX_AT_ONCE + 1)))
    one.protocol.data_received(frame(b"later"))
    assert [event["text"] for event in one.events()][-2:] == [str(MAX_AT_ONCE), "later"]


async def test_reading_goes_on_once_all_that_was_read_is_handled(reading):
    one = await reading()
    one.protocol.data_received(frame(b"1") + frame(b"2"))
    queue = one.protocol.queue
    assert queue.take() == (b"1", True) and one.paused
    assert queue.take() == (b"2", True) and not one.paused and not one.protocol.read_paused


async def test_where_the_client_compresses_short_frames_in_clear_are_taken(reading, left):
    one = await reading(deflate=True)
    one.protocol.data_received(frame(b"clear"))
    assert one.events() == [received("clear")] and left == []


async def test_a_queue_refers_to_its_protocol_until_the_connection_has_ended(reading):
    one = await reading()
    queue = one.protocol.queue
    assert type(queue) is Received and queue.is_fed
    assert one.transport.inbox_of(one.protocol.receive) is queue
    assert one.transport.inbox_of(print) is None
    one.transport.lost(1001)
    assert not queue.is_fed and one.transport.inbox_of(one.protocol.receive) is None


@pytest.mark.parametrize("what", ["debug", "size", "queue", "attribute"])
async def test_where_it_cannot_be_done_websockets_reads(reading, monkeypatch, caplog, left, what):
    one = await reading(taking=False)
    if what == "debug":
        one.protocol.conn.debug = True
    elif what == "size":
        one.protocol.config.ws_max_size = LONGEST - 1
    elif what == "queue":
        del one.protocol.queue
    else:
        del one.protocol.conn.reader
    assert not read_short_frames(one.protocol)
    assert ("differs from those" in caplog.text) == (what in ("queue", "attribute"))
    assert type(one.protocol) is WebSocketsSansIOProtocol


async def test_the_shape_is_that_of_the_installed_versions(reading):
    """What is gone, or means something else, shows here and not on a site."""
    one = await reading()
    lanes.reading_attributes(one.protocol)
    conn = one.protocol.conn
    assert one.protocol.is_between_frames()
    conn.receive_data(frame(b"x" * 9)[:7])
    assert not one.protocol.is_between_frames()
    conn.receive_data(frame(b"x" * 9)[7:])
    assert one.protocol.is_between_frames()
    assert getattr(conn, one.protocol.begun_size) is None
    conn.receive_data(frame(b"first", final=False))
    assert one.protocol.is_between_frames()
    assert getattr(conn, one.protocol.begun_size) == 5


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, LONGEST])
def test_every_part_of_a_short_frame_begins_one(opcode, size):
    whole = frame(b"x" * size, opcode)
    for at in range(len(whole)):
        assert begins_short_frame(whole[:at]) and read_short_frame(whole[:at], 0) is None
    assert not begins_short_frame(whole)
    assert read_short_frame(b"?" + whole, 1) == (b"x" * size, opcode == TEXT, len(whole) + 1)


@pytest.mark.parametrize(
    "data", [b"\x88", b"\x81\x05", b"\x81\xff", b"\x01\x85", frame(b"x" * (LONGEST + 1))[:4]]
)
def test_other_frames_begin_no_short_one(data):
    assert not begins_short_frame(data)


LONG = [f"{number:02000d}" for number in range(100)]


class Flooded(Reading):
    """It has received 100 long messages and ``end`` at once."""

    async def accept(self, end=b""):
        await super().accept()
        self.receive(b"".join(frame(text.encode()) for text in LONG) + end)
        return self

    def note(self, paused):
        self.paused = paused

    async def turn(self):
        for _ in range(scheduling.YIELD_ITERATIONS + 1):
            await asyncio.sleep(0)

    def texts(self):
        return [event.get("text", event["type"]) for event in self.events()]


@pytest.fixture
async def flooded(monkeypatch):
    """On a machine that takes a whole turn for each slice."""
    clock, made = itertools.count(), []
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    async def start(end=b""):
        made.append(await Flooded().accept(end))
        return made[-1]

    yield start
    for one in made:
        del one.protocol.transport.write
        one.protocol.transport.abort()
        await one.end()


async def test_long_frames_are_parsed_a_slice_at_a_time_while_others_are_served(flooded):
    one = await flooded()
    assert one.texts() == LONG[:2] and one.paused
    # It is not read before the rest is parsed, though the queue is empty.
    one.protocol.queue.put_nowait(received("x"))
    one.protocol.queue.take()
    assert one.paused
    await asyncio.sleep(0)
    assert one.texts() == []
    got = LONG[:2]
    while one.protocol.unparsed:
        await one.turn()
        new = one.texts() if one.protocol.unparsed else []
        assert len(new) <= 3
        got += new
    # Then it is, when the last message was taken.
    while one.protocol.queue.items:
        assert one.paused
        got.append(one.protocol.queue.take()[0].decode())
    assert got == LONG and not one.paused


async def test_a_part_of_a_long_message_makes_nobody_wait_for_the_application(flooded):
    one = await flooded()
    while one.protocol.unparsed:
        await one.turn()
    while one.protocol.queue.items:
        one.protocol.queue.take()
    long = frame(b"x" * 20_000)
    one.receive(long[:-1])
    assert one.protocol.unparsed and one.paused
    while one.protocol.unparsed:
        assert one.texts() == []
        await one.turn()
    assert not one.paused
    one.receive(long[-1:])
    assert one.texts() == ["x" * 20_000]


async def test_what_was_decrypted_before_the_pause_comes_behind(flooded):
    one = await flooded()
    one.receive(frame(b"last"))
    while one.protocol.unparsed:
        await one.turn()
    assert one.texts() == [*LONG, "last"]


async def test_what_came_before_the_end_is_not_lost(flooded):
    one = await flooded()
    one.protocol.transport.abort()
    await one.lost.wait()
    assert one.texts() == [*LONG, "websocket.disconnect"]
    await one.turn()
    assert one.texts() == []


async def test_behind_a_flood_a_close_frame_is_answered_in_its_place(flooded):
    one = await flooded(frame(struct.pack("!H", 4000), CLOSE))
    while one.protocol.unparsed:
        await one.turn()
    assert one.texts()[: len(LONG) + 1] == [*LONG, "websocket.disconnect"]
    assert one.written == [b"\x88\x02\x0f\xa0"]


async def test_what_follows_a_wrong_frame_is_not_parsed(flooded):
    one = await flooded(b"\xff" + bytes(5) + frame(b"late") * 5000)
    while one.protocol.unparsed:
        await one.turn()
    *texts, last = one.texts()
    # uvicorn drops what was parsed together with it.
    assert texts == LONG[: len(texts)] and len(texts) >= len(LONG) - 3
    assert last == "websocket.disconnect"


async def test_the_socket_is_not_read_while_pings_behind_many_messages_are_parsed(flooded):
    one = await flooded()
    while one.protocol.unparsed:
        await one.turn()
    one.events()
    assert not one.paused
    one.receive(frame(b"x") * MAX_AT_ONCE + frame(b"", PING) * 5000)
    assert len(one.events()) == MAX_AT_ONCE
    assert one.protocol.unparsed and one.paused
    while one.protocol.unparsed:
        await one.turn()
    assert not one.paused


async def test_behind_a_flood_the_answer_to_our_close_frame_is_read(flooded):
    one = await flooded()
    one.transport.close(4000, "enough")
    await one.over.wait()
    while one.protocol.unparsed:
        await one.turn()
    assert not one.paused
    one.receive(frame(struct.pack("!H", 4000), CLOSE))
    assert one.protocol.transport.is_closing()


MANY = [str(number) for number in range(MAX_AT_ONCE + 10)]


def many(end=b""):
    return b"".join(frame(text.encode()) for text in MANY) + end


async def test_the_clients_close_frame_behind_many_messages_answers_ours(reading):
    one = await reading()
    one.receive(many(frame(struct.pack("!H", 1000), CLOSE)))
    one.transport.close(4000, "enough")
    await one.over.wait()
    assert one.protocol.transport.is_closing()


async def test_what_waits_behind_many_messages_is_parsed_in_turns_once_we_close(flooded):
    one = await flooded()
    while one.protocol.unparsed:
        await one.turn()
    one.events()
    one.receive(many(frame(b"x") * 5000 + frame(struct.pack("!H", 1000), CLOSE)))
    one.transport.close(4000, "enough")
    await one.over.wait()
    assert one.protocol.unparsed
    while one.protocol.unparsed:
        await one.turn()
    assert one.protocol.transport.is_closing()


async def test_what_waits_behind_many_messages_is_not_lost_at_the_end(reading):
    one = await reading()
    one.receive(many())
    one.protocol.transport.abort()
    await one.lost.wait()
    assert [event.get("text", event["type"]) for event in one.events()] == [
        *MANY,
        "websocket.disconnect",
    ]


async def test_nor_is_what_follows_short_frames(flooded):
    one = await flooded()
    while one.protocol.unparsed:
        await one.turn()
    one.events()
    long = "x" * (LONGEST + 1)
    one.receive(many(frame(long.encode()) * 20))
    one.protocol.transport.abort()
    await one.lost.wait()
    assert one.texts() == [*MANY, *[long] * 20, "websocket.disconnect"]


async def test_once_the_server_closes_the_socket_all_that_is_left_is_parsed_at_its_end(flooded):
    """Under TLS, a transport that is closed twice raises where it is paused."""
    one = await flooded()
    one.events()
    transport = one.protocol.transport
    transport.is_closing = lambda: True
    transport.pause_reading = transport.resume_reading = None
    await one.turn()
    assert one.texts() == [] and one.protocol.unparsed
    transport.abort()
    await one.lost.wait()
    assert one.texts() == [*LONG[2:], "websocket.disconnect"]


async def test_where_websockets_reads_a_close_frame_is_sent_as_well(reading):
    one = await reading(taking=False)
    one.transport.close(4000, "")
    await one.over.wait()
    assert one.written == [b"\x88\x02\x0f\xa0"]


#: uvicorn raises where it parses these together: it answers the text by closing, and cannot.
WRONG = frame("ü".encode()[:1]) + frame(struct.pack("!H", 1000), CLOSE)


async def test_a_connection_whose_bytes_uvicorn_cannot_parse_later_is_ended(flooded, caplog):
    one = await flooded(WRONG)
    async with limited():
        while not one.lost.is_set():
            await one.turn()
    assert one.texts()[-1] == "websocket.disconnect"
    assert not one.state.connections and not one.protocol.unparsed
    assert "uvicorn cannot parse what it received (InvalidState(" in caplog.text
    [record] = [one for one in caplog.records if "cannot parse" in one.getMessage()]
    assert (record.connection_id, record.client_address) == ("7d0c", "192.0.2.7")
    one.transport.stop()
    assert one.protocol.on_end is None  # it keeps nobody


async def test_nor_does_that_keep_a_connection_that_is_lost(flooded):
    one = await flooded(WRONG)
    one.protocol.transport.abort()
    await one.lost.wait()
    assert one.texts()[-1] == "websocket.disconnect"
    assert not one.state.connections
