"""What daphne has read and nobody asked for: transports.inbox, on daphne's own objects."""

import asyncio
import socket
import struct
import time

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from filtered_websocket.transports import inbox
from filtered_websocket.transports.inbox import Gate, Inbox, bound, has_gone

from .test_daphne import serving, text, wire  # noqa: F401 - a fixture


def frame(payload, opcode=1):
    """As a client sends it: with a mask."""
    size = len(payload)
    if size < 126:
        head = bytes([size | 0x80])
    elif size < 65_536:
        head = b"\xfe" + struct.pack("!H", size)
    else:
        head = b"\xff" + struct.pack("!Q", size)
    return bytes([0x80 | opcode]) + head + bytes(4) + payload


@pytest.fixture
def most(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_INBOX": 4}


@pytest.fixture
async def reading(serving, most):  # noqa: F811
    """A connection whose client is read."""
    one = await serving()
    one.queue = one.protocol.application_queue
    one.arrives = lambda *payloads: one.protocol.dataReceived(b"".join(map(frame, payloads)))
    assert type(one.queue) is Inbox and is_read(one)
    return one


def is_read(one):
    return one.socket in one.reactor.readers


async def hear(one):
    return (await one.queue.get())["text"]


async def rested():
    """Wait as long as one who has sent too much."""
    for _ in range(inbox.REST + 1):
        await asyncio.sleep(0)


async def test_so_many_frames_are_read_and_no_more_until_half_are_asked_for(reading):
    reading.arrives(b"1", b"2", b"3")
    assert is_read(reading)
    # What else the last read brought waits at the gate, and nothing more is read.
    reading.arrives(b"4", b"5")
    assert not is_read(reading) and reading.queue.qsize() == 4
    heard = [await hear(reading)]
    await rested()
    assert not is_read(reading) and reading.queue.qsize() == 3
    heard.append(await hear(reading))
    # All others have their turns first.
    assert not is_read(reading) and reading.queue.qsize() == 2
    await rested()
    assert is_read(reading) and reading.queue.qsize() == 3
    heard.append(await hear(reading))
    assert heard == ["1", "2", "3"]
    reading.arrives(b"6", b"7", *[b"x"] * 20)
    assert not is_read(reading) and reading.queue.qsize() == 4
    # As long as the rest is too much, the socket stays unread.
    for left in reversed(range(24)):
        assert await hear(reading) in ("4", "5", "6", "7", "x")
        assert reading.queue.qsize() <= 4
        await rested()
        assert is_read(reading) == (left <= 2)


async def test_what_waits_at_the_gate_keeps_its_order_whatever_arrives(reading):
    reading.arrives(b"1", b"2", b"3", b"4", b"5")
    # As TLS does: what has been read before is decrypted later.
    reading.arrives(b"6")
    half = frame(b"7")
    reading.protocol.dataReceived(half[:3])
    heard = [await hear(reading) for _ in range(2)]
    reading.protocol.dataReceived(half[3:])
    await rested()
    heard += [await hear(reading) for _ in range(5)]
    assert heard == list("1234567")
    await rested()
    assert is_read(reading) and not reading.queue.qsize()


async def test_a_close_frame_behind_what_waits_at_the_gate_is_found(reading):
    reading.arrives(*[b"x"] * 5)
    reading.protocol.dataReceived(frame(struct.pack("!H", 4001), opcode=8))
    for _ in range(5):
        assert await hear(reading) == "x"
        await rested()
    (ending,) = reading.reactor.writers
    assert isinstance(ending.doWrite(), ConnectionDone)
    assert reading.got() == b"\x88\x02" + struct.pack("!H", 1000)


async def test_what_waits_at_the_gate_of_a_connection_that_is_lost_hurts_nobody(reading, caplog):
    reading.arrives(*[b"x"] * 9)
    reading.socket.connectionLost(Failure(ConnectionDone()))
    events = []
    while reading.queue.qsize():
        events.append(reading.queue.get_nowait())
        await rested()
    assert [event.get("text") for event in events] == [*["x"] * 4, None]
    assert not reading.transport._gate.rest and not is_read(reading)
    assert not caplog.records


async def test_once_it_is_over_what_waits_at_the_gate_is_thrown_away(reading):
    reading.arrives(*[b"x"] * 9)
    reading.transport.close(4000, "bye")
    await rested()
    # Taken apart to the end, and not handed on.
    assert is_read(reading) and reading.queue.qsize() == 4
    assert not reading.transport._gate.rest


async def test_so_many_bytes_are_enough(reading, monkeypatch):
    monkeypatch.setattr(inbox, "MAX_BYTES", 100)
    reading.arrives(b"x" * 60)
    assert is_read(reading)
    reading.protocol.dataReceived(frame(b"x" * 60, opcode=2))
    assert not is_read(reading)
    await reading.queue.get()
    await rested()
    assert not is_read(reading)
    await reading.queue.get()
    await rested()
    assert is_read(reading)


async def test_what_was_sent_before_the_answer_counts():
    class Socket:
        connected = True
        paused = 0

        def pauseProducing(self):
            self.paused += 1

        def resumeProducing(self):
            self.paused -= 1

    for size in (3, 4):
        queue, raw = asyncio.Queue(), Socket()
        for _ in range(size):
            queue.put_nowait({"type": "websocket.receive", "text": "x"})
        gate = Gate(None, raw)
        bound(queue, gate, 4)
        assert raw.paused == (size == 4)
        gate.finish()
        await rested()
        assert raw.paused == 0


async def test_a_queue_of_another_kind_is_left_alone():
    queue = asyncio.LifoQueue()
    bound(queue, Gate(None, None), 4)
    assert type(queue) is asyncio.LifoQueue


async def test_so_is_one_that_is_not_as_known(monkeypatch):
    monkeypatch.setattr(inbox, "USED_OF_QUEUE", ("_getters", "_no_more"))
    queue = asyncio.Queue()
    bound(queue, Gate(None, None), 4)
    assert type(queue) is asyncio.Queue


async def test_an_empty_one_says_so():
    queue = asyncio.Queue()
    bound(queue, Gate(None, None), 4)
    assert type(queue) is Inbox
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


async def test_once_it_closes_it_is_read_to_the_end_and_only_the_end_is_told(reading):
    reading.arrives(*[b"x"] * 4)
    reading.transport.close(4000, "bye")
    await rested()
    assert is_read(reading)
    await reading.transport.stopped()
    reading.arrives(*[b"late"] * 100)
    reading.end()
    events = [reading.queue.get_nowait() for _ in range(reading.queue.qsize())]
    assert [event.get("text") for event in events] == [*["x"] * 4, None]
    assert events[-1] == {"type": "websocket.disconnect", "code": 1006}


async def looked(one):
    """Wait for the next look at a socket that is not read."""
    timer = one.transport._gate._timer
    async with asyncio.timeout(5):
        while one.transport._gate._timer is timer:  # noqa: ASYNC110 - a timer tells nobody
            await asyncio.sleep(0)


async def test_who_is_not_read_is_pinged_and_not_taken_for_dead(reading, monkeypatch):
    monkeypatch.setattr(inbox, "LOOK_AGAIN", 0.001)
    reading.arrives(*[b"x"] * 4)
    reading.protocol.last_ping = 0
    answers = []
    monkeypatch.setattr(reading.protocol, "onPong", answers.append)
    await looked(reading)
    reading.reactor.turn()
    # A ping that nobody waits for the answer of.
    assert reading.got().startswith(b"\x89\x00") and not is_read(reading)
    assert reading.protocol.autoPingTimeoutCall is None
    assert time.time() - reading.protocol.last_ping < 60
    # A server that waits for an answer has had it.
    assert answers == [b""]
    # While it closes there is nothing to ask.
    reading.protocol.sendClose(4000)
    reading.reactor.turn()
    reading.got()
    await looked(reading)
    assert not reading.reactor.writers


@pytest.mark.parametrize("how", ["leaves", "vanishes", "is lost"])
async def test_who_is_not_read_and_has_gone_is_found_out(reading, monkeypatch, how):
    monkeypatch.setattr(inbox, "LOOK_AGAIN", 0.001)
    reading.arrives(*[b"x"] * 4)
    assert not has_gone(reading.socket.fileno())
    if how == "leaves":
        reading.peer.shutdown(socket.SHUT_WR)
    elif how == "vanishes":
        reading.peer.close()
    else:
        reading.socket.connectionLost(Failure(ConnectionDone()))
        await looked(reading)
        assert not reading.transport._gate.is_shut
        return
    assert has_gone(reading.socket.fileno())
    await looked(reading)
    await rested()
    assert is_read(reading) and not reading.transport._gate.is_shut
    reading.socket.connectionLost(Failure(reading.socket.doRead()))
    events = [reading.queue.get_nowait() for _ in range(5)]
    assert events[-1]["type"] == "websocket.disconnect"


async def test_frames_still_leave_while_nothing_is_read(reading):
    reading.arrives(*[b"x"] * 4)
    reading.transport.write(text("out"))
    assert reading.got() == wire("out") and not is_read(reading)
