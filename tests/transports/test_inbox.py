"""A limit for what daphne has read: transports.inbox, on daphne's own objects."""

import asyncio
import socket
import struct
import sys

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from filtered_websocket.transports import inbox
from filtered_websocket.transports.inbox import (
    MANY,
    Inbox,
    SmallQueue,
    SocketReader,
    limit_queue,
    make_small,
    peer_has_closed,
)

from ..waiting import until
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
    """Wait until reading goes on after a pause."""
    for _ in range(inbox.YIELD_ITERATIONS + 1):
        await asyncio.sleep(0)


async def test_reading_pauses_at_max_inbox_and_resumes_when_half_are_received(reading):
    reading.arrives(b"1", b"2", b"3")
    assert is_read(reading)
    # What was read together with the last frame is kept, and nothing more is read.
    reading.arrives(b"4", b"5")
    assert not is_read(reading) and reading.queue.qsize() == 4
    heard = [await hear(reading)]
    await rested()
    assert not is_read(reading) and reading.queue.qsize() == 3
    heard.append(await hear(reading))
    # Other connections come first.
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


async def test_unparsed_bytes_keep_their_order_whatever_arrives(reading):
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


async def test_a_close_frame_behind_unparsed_bytes_is_found(reading):
    reading.arrives(*[b"x"] * 5)
    reading.protocol.dataReceived(frame(struct.pack("!H", 4001), opcode=8))
    for _ in range(5):
        assert await hear(reading) == "x"
        await rested()
    (ending,) = reading.reactor.writers
    assert isinstance(ending.doWrite(), ConnectionDone)
    assert reading.got() == b"\x88\x02" + struct.pack("!H", 1000)


async def test_unparsed_bytes_of_a_lost_connection_cause_no_error(reading, caplog):
    reading.arrives(*[b"x"] * 9)
    reading.socket.connectionLost(Failure(ConnectionDone()))
    events = []
    while reading.queue.qsize():
        events.append(reading.queue.get_nowait())
        await rested()
    assert [event.get("text") for event in events] == [*["x"] * 4, None]
    assert not reading.transport._reader.unparsed and not is_read(reading)
    assert not caplog.records


async def test_unparsed_bytes_are_thrown_away_after_a_close(reading):
    reading.arrives(*[b"x"] * 9)
    reading.transport.close(4000, "bye")
    await rested()
    # Parsed to the end, and not passed on.
    assert is_read(reading) and reading.queue.qsize() == 4
    assert not reading.transport._reader.unparsed


async def test_reading_pauses_at_a_number_of_bytes_too(reading, monkeypatch):
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


async def test_frames_sent_before_the_answer_count():
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
        reader = SocketReader(None, raw, 4)
        limit_queue(queue, reader)
        assert raw.paused == (size == 4)
        reader.finish()
        await rested()
        assert raw.paused == 0


async def test_long_frames_that_autobahn_reads_are_queued_and_pause_reading_once(reading):
    reading.arrives(*[b"x" * 2000] * 6)
    assert reading.queue.qsize() == 6 and not is_read(reading)


async def test_a_queue_of_another_kind_is_left_alone():
    queue = asyncio.LifoQueue()
    limit_queue(queue, SocketReader(None, None, 4))
    assert type(queue) is asyncio.LifoQueue


async def test_a_queue_without_the_expected_attributes_is_left_alone(monkeypatch):
    monkeypatch.setattr(inbox, "QUEUE_ATTRIBUTES", ("_getters", "_no_more"))
    queue = asyncio.Queue()
    limit_queue(queue, SocketReader(None, None, 4))
    assert type(queue) is asyncio.Queue


@pytest.fixture
def small():
    """A queue that was one of asyncio's, with something in it."""
    queue = asyncio.Queue()
    queue.put_nowait("first")
    assert make_small(queue) and type(queue) is SmallQueue
    return queue


async def test_a_small_queue_keeps_the_order_however_much_is_in_it(small):
    for number in range(3 * MANY):
        small.put_nowait(number)
    assert small.qsize() == 3 * MANY + 1
    assert [await small.get() for _ in range(3 * MANY + 1)] == ["first", *range(3 * MANY)]
    assert small.empty()


async def test_a_small_queue_takes_as_good_as_no_memory_while_it_is_empty(small):
    def size():
        return sum(map(sys.getsizeof, (small, vars(small), *vars(small).values())))

    before = sum(map(sys.getsizeof, vars(asyncio.Queue()).values()))
    for number in range(3 * MANY):
        small.put_nowait(number)
    while not small.empty():
        small.get_nowait()
    assert size() < 1024 < before


async def test_whoever_waits_for_a_small_queue_is_woken_in_order(small):
    await small.get()
    waiting = [asyncio.ensure_future(small.get()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    small.put_nowait("a")
    small.put_nowait("b")
    assert await waiting[1] == "a" and await waiting[2] == "b"
    assert waiting[0].cancelled()


async def test_who_gave_up_in_this_very_iteration_is_not_woken(small):
    await small.get()
    first, second = (asyncio.ensure_future(small.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    small.put_nowait("a")
    assert await second == "a"
    # Nor is it an error if nobody else waits.
    only = asyncio.ensure_future(small.get())
    await asyncio.sleep(0)
    only.cancel()
    small.put_nowait("b")
    assert await small.get() == "b"
    await asyncio.wait([only])
    assert only.cancelled()


async def test_what_nobody_waits_for_any_more_stays_in_a_small_queue(small):
    await small.get()
    gave_up = asyncio.ensure_future(small.get())
    await asyncio.sleep(0)
    gave_up.cancel()
    small.put_nowait("a")
    assert await small.get() == "a"


async def test_who_waits_already_gets_the_next_of_a_queue_that_is_made_small():
    queue = asyncio.Queue()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    make_small(queue)
    queue.put_nowait("a")
    assert await waiting == "a"


async def test_an_empty_queue_raises_queue_empty():
    queue = asyncio.Queue()
    limit_queue(queue, SocketReader(None, None, 4))
    assert type(queue) is Inbox
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


async def test_a_closing_connection_is_read_to_its_end_and_messages_are_thrown_away(reading):
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


async def checked(one):
    """Wait for the next check of a socket that is not read."""
    timer = one.transport._reader._timer
    await until(lambda: one.transport._reader._timer is not timer, 0)


async def test_a_client_that_is_not_read_is_pinged_and_not_timed_out(reading, monkeypatch):
    monkeypatch.setattr(inbox, "PEER_CHECK_INTERVAL", 0.001)
    reading.arrives(*[b"x"] * 4)
    reading.protocol.last_ping = 0
    answers = []
    monkeypatch.setattr(reading.protocol, "onPong", answers.append)
    await checked(reading)
    reading.reactor.turn()
    # A ping whose answer nobody waits for.
    assert reading.got().startswith(b"\x89\x00") and not is_read(reading)
    assert reading.protocol.autoPingTimeoutCall is None
    assert reading.protocol.last_ping
    # A server that waits for an answer has had it.
    assert answers == [b""]
    # While it closes there is nothing to ask.
    reading.protocol.sendClose(4000)
    reading.reactor.turn()
    reading.got()
    await checked(reading)
    assert not reading.reactor.writers


@pytest.mark.parametrize("how", ["leaves", "vanishes", "is lost"])
async def test_a_client_that_is_not_read_and_has_gone_is_noticed(reading, monkeypatch, how):
    monkeypatch.setattr(inbox, "PEER_CHECK_INTERVAL", 0.001)
    reading.arrives(*[b"x"] * 4)
    assert not peer_has_closed(reading.socket.fileno())
    if how == "leaves":
        reading.peer.shutdown(socket.SHUT_WR)
    elif how == "vanishes":
        reading.peer.close()
    else:
        reading.socket.connectionLost(Failure(ConnectionDone()))
        await checked(reading)
        assert not reading.transport._reader.is_paused
        return
    assert peer_has_closed(reading.socket.fileno())
    await checked(reading)
    await rested()
    assert is_read(reading) and not reading.transport._reader.is_paused
    reading.socket.connectionLost(Failure(reading.socket.doRead()))
    events = [reading.queue.get_nowait() for _ in range(5)]
    assert events[-1]["type"] == "websocket.disconnect"


async def test_where_the_system_has_no_poll_a_ping_has_to_tell(reading, monkeypatch):
    monkeypatch.delattr(inbox.select, "poll")
    monkeypatch.setattr(inbox, "PEER_CHECK_INTERVAL", 0.001)
    reading.arrives(*[b"x"] * 4)
    await checked(reading)
    reading.reactor.turn()
    assert reading.got().startswith(b"\x89\x00")


async def test_frames_are_still_sent_while_nothing_is_read(reading):
    reading.arrives(*[b"x"] * 4)
    reading.transport.write(text("out"))
    assert reading.got() == wire("out") and not is_read(reading)
