"""What both lanes do: one message to many in one loop, and many messages in one write."""

import asyncio
import gc
import itertools
import sys
from collections import deque
from contextvars import Context
from types import BuiltinFunctionType, FunctionType, ModuleType

import pytest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol

from filtered_websocket import Close, WebSocketMessageFilter
from filtered_websocket.codecs.frames import Bundle, Frame
from filtered_websocket.connections import reading
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import Hub, get_hub
from filtered_websocket.hub.view import HubView
from filtered_websocket.pipelines.pipeline import Pipeline
from filtered_websocket.pipelines.route import Route
from filtered_websocket.transports import AsgiTransport, watch_writes, write_all
from filtered_websocket.transports.lane import MAX_HELD
from filtered_websocket.transports.scheduling import MAX_ITERATIONS

from ..waiting import limited, until
from .test_daphne import HANDSHAKE, Reactor, Serving, text, wire
from .test_daphne import serving as serving  # a fixture
from .test_daphne_reading import frame
from .test_uvicorn import serving as uvicorn  # noqa: F401 - a fixture


class Sends:
    """A socket, and what each of its system calls sent."""

    def __init__(self, inner):
        self.inner = inner
        self.sent = []

    def send(self, data):
        self.sent.append(bytes(data))
        return self.inner.send(data)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
async def test_one_message_reaches_members_on_every_lane_once(serving, uvicorn, order):  # noqa: F811
    sent = []

    async def send(event):
        sent.append(event["text"])

    plain = AsgiTransport(send, 1000, lambda *end: None)
    plain.open()
    some, others, left_out = await serving(), await uvicorn(), await serving()
    members = [some.transport, others.transport, plain]
    members = [members[at] for at in order]
    write_all([*members, left_out.transport], text("to all"), {left_out.transport})
    await plain.stopped()
    assert sent == ["to all"]
    assert some.got() == wire("to all")
    assert await others.reader.readexactly(len(wire("to all"))) == wire("to all")
    assert left_out.got() == b""


async def test_a_member_that_closes_gets_no_message_to_all(uvicorn):  # noqa: F811
    first, closing = await uvicorn(), await uvicorn()
    closing.protocol.transport.close()
    write_all([first.transport, closing.transport], text("to all"), set())
    assert await first.reader.readexactly(len(wire("to all"))) == wire("to all")
    assert await closing.reader.read() == b""


async def test_one_broken_member_does_not_keep_a_message_from_the_others(serving):
    first, broken, last = await serving(), await serving(), await serving()
    broken.transport._send_now = None
    write_all([one.transport for one in (first, broken, last)], text("to all"), set())
    assert broken.transport.closing and not first.transport.closing
    assert first.got() == last.got() == wire("to all")


async def test_nobody_is_written_to_where_nobody_is():
    write_all([], text("to all"), set())


@pytest.fixture
async def held(serving):
    """A connection that is held, and what each system call sends."""
    one = await serving(max_unsent=1 << 20)
    one.sends = Sends(one.socket.socket)
    one.transport._send_now = one.sends.send
    one.transport.hold()
    return one


async def test_what_is_written_while_held_leaves_in_one_write_in_order(held):
    held.transport.write(text("1"))
    held.transport.write(Bundle([(b"2", True), (b"3", True)]))
    assert held.got() == b"" and held.sends.sent == []
    held.transport.release()
    assert held.sends.sent == [held.got()] == [wire("1", "2", "3")]
    held.transport.write(text("4"))
    assert held.got() == wire("4")


async def test_who_may_await_holds_until_the_event_loop_goes_on(held):
    held.transport.release()
    held.transport.hold(awaits=True)
    for part in ("1", "2"):
        held.transport.write(text(part))
        held.transport.hold(awaits=True)
    assert held.sends.sent == []
    await asyncio.sleep(0)
    assert held.sends.sent == [held.got()] == [wire("1", "2")]
    held.transport.write(text("3"))
    assert held.got() == wire("3")


async def test_nothing_or_one_frame_leaves_as_without_a_hold(held):
    held.transport.release()
    held.transport.release()
    held.transport.hold()
    held.transport.write(text("1"))
    held.transport.release()
    assert held.sends.sent == [held.got()] == [wire("1")]


async def test_a_message_to_all_stays_behind_what_is_held(held):
    held.transport.write(text("1"))
    write_all([held.transport], text("to all"), set())
    held.transport.release()
    assert held.got() == wire("1", "to all")


async def test_a_close_frame_stays_behind_what_is_held(held):
    held.transport.write(text("1"))
    held.transport.close(4000, "bye")
    await held.transport.stopped()
    held.reactor.turn()
    assert held.got() == wire("1") + b"\x88\x05\x0f\xa0bye"
    held.transport.release()
    held.transport.hold()
    held.transport.write(text("late"))
    assert held.got() == b""


async def test_an_awaited_write_stays_behind_what_is_held(held):
    held.transport.write(text("1"))
    done = asyncio.get_running_loop().create_future()
    held.transport.write(text("2"), done)
    await done
    held.reactor.turn()
    assert held.got() == wire("1", "2")


async def test_long_frames_are_not_held_for_long(held):
    long = text("x" * MAX_HELD)
    held.transport.write(long)
    held.transport.write(text("1"))
    assert held.sends.sent == [long.encode() + wire("1")]
    held.transport.write(text("2"))
    assert len(held.sends.sent) == 1
    held.transport.release()
    assert held.sends.sent[1:] == [wire("2")]


async def test_what_is_held_is_lost_with_the_connection(held):
    held.transport.write(text("1"))
    held.transport.lost(1001)
    held.transport.release()
    assert held.got() == b"" and held.ended == [(1001, "")]


# Watched


async def test_what_watches_a_connection_sees_each_frame_once_and_in_order(serving, uvicorn):  # noqa: F811
    for one, got in ((await serving(), None), (await uvicorn(), 1)):
        seen = []
        one.transport.write(text("before"))
        watch_writes(one.transport, lambda frame, seen=seen: seen.extend(frame.parts))
        write_all([one.transport], text("to all"), set())
        one.transport.hold()
        one.transport.write(Bundle([(b"1", True), (b"2", True)]))
        one.transport.release()
        await one.transport.stopped()
        write_all([one.transport], text("again"), set())
        await one.transport.stopped()
        watch_writes(one.transport, None)
        one.transport.write(text("after"))
        # Straight to the socket again.
        assert not one.transport.writing
        assert [part.payload for part in seen] == [b"to all", b"1", b"2", b"again"]
        expected = wire("before", "to all", "1", "2", "again", "after")
        if got is None:
            one.reactor.turn()
            assert one.got() == expected
        else:
            assert await one.reader.readexactly(len(expected)) == expected


async def test_what_is_held_is_sent_before_a_connection_is_watched(held):
    seen = []
    held.transport.write(text("1"))
    watch_writes(held.transport, seen.append)
    assert held.got() == wire("1") and seen == []
    held.transport.write(text("2"))
    watch_writes(held.transport, None)
    # Behind what the writer has still to send.
    held.transport.write(text("3"))
    await held.transport.stopped()
    held.reactor.turn()
    assert held.got() == wire("2", "3")
    held.transport.write(text("4"))
    assert held.got() == wire("4")


async def test_a_connection_that_is_not_open_or_has_ended_may_be_watched():
    sent, seen = [], []

    async def send(event):
        sent.append(event)

    one = AsgiTransport(send, 1000, lambda *end: None)
    watch_writes(one, seen.append)
    one.write(text("1"))
    one.open()
    await one.stopped()
    one.lost(1001)
    watch_writes(one, None)
    one.write(text("late"))
    assert len(sent) == len(seen) == 1 and not one._idle


class Echo(WebSocketMessageFilter):
    """Pushes a message back; ``close`` closes."""

    _registers = False

    @classmethod
    def filter(cls, web_socket_instance, message):
        web_socket_instance.push(message)
        if message == b"close":
            raise Close(4000, "asked for")


class AsyncEcho(Echo):
    """The same, awaited."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        Echo.filter(web_socket_instance, message)


class SlowEcho(Echo):
    """The same, which then waits for something."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        Echo.filter(web_socket_instance, message)
        for _ in range(3):
            await asyncio.sleep(0)


class Echoing(Serving):
    """A whole connection, by daphne's objects, with what each system call sends."""

    def __init__(self, *filters, wrap=lambda receive: receive):
        super().__init__()
        self.sends = self.socket.socket = Sends(self.socket.socket)
        consumer = FilteredWebSocketConsumer.as_asgi(filters=filters)

        async def application(scope, receive, send):
            await consumer(scope, wrap(receive), send)

        self.server.application = application

    async def accept(self):
        self.protocol.makeConnection(self.socket)
        self.protocol.dataReceived(HANDSHAKE)
        await until(lambda: self.protocol.state == self.protocol.STATE_OPEN)
        await self.take()
        return self

    async def take(self):
        """What arrives once all that was sent is handled."""
        (details,) = self.server.connections.values()
        self.task = details["application_instance"]
        for _ in range(5 * MAX_ITERATIONS):
            await asyncio.sleep(0)
        self.reactor.turn()
        self.sends.sent, sent = [], self.sends.sent
        self.got()
        return sent

    async def over(self):
        self.end()
        self.protocol.application_queue.put_nowait({"type": "websocket.disconnect", "code": 1001})
        async with limited():
            await self.task


@pytest.fixture
async def echoing():
    made = []

    async def start(*args, **kwargs):
        made.append(await Echoing(*args, **kwargs).accept())
        return made[-1]

    yield start
    for one in made:
        await one.over()


TEN = [str(number) for number in range(10)]


def frames(*payloads):
    return b"".join(frame(payload.encode()) for payload in payloads)


@pytest.fixture
def short_messages(monkeypatch):
    """By this clock no message takes time."""
    monkeypatch.setattr(reading.time, "perf_counter", lambda: 1.0)


async def test_the_answers_to_messages_that_arrived_together_are_one_write(echoing, short_messages):
    one = await echoing(Echo)
    one.protocol.dataReceived(frames(*TEN))
    assert await one.take() == [wire(*TEN)]
    one.protocol.dataReceived(frames("alone"))
    assert await one.take() == [wire("alone")]


async def test_answers_do_not_wait_longer_than_a_turn(echoing, monkeypatch):
    now = [1.0]
    monkeypatch.setattr(reading.time, "perf_counter", lambda: now[0])

    class SlowEcho(Echo):
        """Three messages take a turn."""

        @classmethod
        def filter(cls, web_socket_instance, message):
            Echo.filter(web_socket_instance, message)
            now[0] += reading.TURN / 2.5

    one = await echoing(SlowEcho)
    one.protocol.dataReceived(frames(*TEN))
    sent = await one.take()
    assert b"".join(sent) == wire(*TEN)
    assert [part.count(b"\x81") for part in sent] == [3, 3, 3, 1]


async def test_answers_leave_before_a_close_and_nothing_after(echoing, short_messages):
    one = await echoing(Echo)
    one.protocol.dataReceived(frames("1", "2", "close", "4"))
    sent = b"".join(await one.take())
    assert sent.startswith(wire("1", "2", "close") + b"\x88") and b"4" not in sent[-14:]


async def test_a_connection_that_waits_for_a_message_ends_with_its_close_frame(echoing):
    one = await echoing(Echo)
    (connection,) = get_hub().connections.values()
    connection.close(4000, "bye")
    assert await one.take() == [b"\x88\x05\x0f\xa0bye"]
    assert one.task.done() and connection.close_code == 4000


async def test_answers_wait_for_no_filter_that_awaits(echoing, short_messages):
    one = await echoing(AsyncEcho)
    one.protocol.dataReceived(frames("1", "2"))
    assert await one.take() == [wire("1", "2")]
    one = await echoing(SlowEcho)
    one.protocol.dataReceived(frames("1", "2"))
    assert await one.take() == [wire("1"), wire("2")]


async def test_a_middleware_that_wraps_receive_sees_every_message(echoing, short_messages):
    seen = []

    def wrap(receive):
        async def see():
            event = await receive()
            seen.append(event.get("text"))
            return event

        return see

    one = await echoing(Echo, wrap=wrap)
    one.protocol.dataReceived(frames("1", "2"))
    assert await one.take() == [wire("1"), wire("2")]
    assert seen[-2:] == ["1", "2"]


def chain(task):
    """The coroutines that a task is suspended in, by name."""
    names, step = [], task.get_coro()
    while hasattr(step, "cr_await"):
        names.append(step.__qualname__)
        step = step.cr_await
    return names


SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, Hub, HubView, Pipeline, Route)
SERVERS = (Serving, Server, WebSocketProtocol, Reactor, asyncio.AbstractEventLoop, asyncio.Task)


def kept_for(connection, reader):
    """All that exists for one connection, without what is the server's or all share."""
    found, left = {}, [connection, reader]
    while left:
        thing = left.pop()
        if id(thing) in found or isinstance(thing, (*SHARED, *SERVERS, Context)):
            continue
        found[id(thing)] = thing
        if thing is not connection.scope:
            left += gc.get_referents(thing)
    return found.values()


async def test_what_an_idle_connection_keeps_is_little(echoing):
    one = await echoing(Echo)
    (connection,) = get_hub().connections.values()
    assert chain(one.task)[-2:] == ["FilteredWebSocketConsumer.__call__", "Reader.run"]
    kept = kept_for(connection, connection.transport._on_end.__self__._reader)
    # Each of these takes 0.6 KiB and more before anything is in it.
    assert not [thing for thing in kept if isinstance(thing, asyncio.Event | asyncio.Lock)]
    assert not [thing for thing in kept if isinstance(thing, deque) and thing.maxlen is None]
    assert sum(map(sys.getsizeof, kept)) < 6144
    assert len(kept) < 80


@pytest.mark.parametrize("is_kept", [True, False])
async def test_what_is_kept_is_so_in_one_write_too(held, settings, is_kept):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    held.transport._max_unsent = 8
    held.transport.write(text("1"))
    held.transport.write(Frame(b"a" * 10, True, is_kept))
    held.transport.release()
    assert held.transport.closing is is_kept
    await asyncio.sleep(0)
    await held.transport.stopped()
