"""What one client sends, read from its server's queue: connections.reading."""

import asyncio
from itertools import groupby
from types import SimpleNamespace

import pytest

from filtered_websocket.connections import reading
from filtered_websocket.connections.reading import Reader
from filtered_websocket.transports import scheduling
from filtered_websocket.transports.inbox import MessageQueue, make_small

from ..waiting import limited, until


@pytest.fixture
async def begin():
    """Starts connections whose messages come from queues that are known."""
    begun = []

    def begin(name, note=lambda name: None, awaits=False):
        """Start one; what is made of its messages is in ``handled``, and ``note`` is called."""
        queue = asyncio.Queue()
        assert make_small(queue, MessageQueue)
        made = SimpleNamespace(queue=queue, handled=[], ends=[], holds=[])
        begun.append(made)

        async def receive():
            raise AssertionError("it made an event of a message")

        async def handle(payload, text):
            made.handled.append((payload, text))
            note(name)

        def lost(*end):
            made.ends.append(end)
            made.reader.end(*end)

        transport = SimpleNamespace(
            closed=None,
            inbox_of=lambda way: queue,
            hold=made.holds.append,
            release=int,
            lost=lost,
        )
        connection = SimpleNamespace(id=name, transport=transport, running=None, has_queued=False)
        stalls = SimpleNamespace(begin=id, end=id)
        made.reader = Reader(connection, receive, handle, None, stalls, awaits)
        made.task = asyncio.ensure_future(made.reader.run())
        return made

    yield begin
    for made in begun:
        made.task.cancel()
        await asyncio.wait([made.task])


@pytest.fixture
def one(begin):
    """A connection, and what is made of its messages."""
    return begin("1")


async def test_a_message_is_handled_as_the_bytes_that_came(one):
    # While it waits, and while others wait.
    await until(lambda: one.queue._getters)
    for payload, text in ((b"\xc3\xa9", True), (b"\xff", False)):
        one.queue.put_message(payload, text)
    await until(lambda: len(one.handled) == 2 and one.queue._getters)
    one.queue.put_message(b"next", True)
    one.queue.put_nowait({"type": "websocket.disconnect", "code": 1001})
    async with limited():
        await one.task
    assert one.handled == [(b"\xc3\xa9", True), (b"\xff", False), (b"next", True)]
    assert one.ends == [(1001, "")] and one.reader.lost


@pytest.mark.parametrize("awaits", [False, True])
async def test_answers_are_held_back_while_more_messages_are_there(begin, awaits):
    one = begin("1", awaits=awaits)
    for payload in (b"1", b"2", b"3"):
        one.queue.put_message(payload, True)
    await until(lambda: len(one.handled) == 3)
    assert one.holds == [awaits, awaits]


async def test_what_comes_as_its_task_is_cancelled_stays_in_the_queue(one):
    await until(lambda: one.queue._getters)
    one.task.cancel()
    one.queue.put_message(b"late", True)
    await asyncio.wait([one.task])
    assert one.task.cancelled() and not one.handled
    assert one.queue.take() == (b"late", True)


class Work:
    """The clock that the package reads: a message takes a third of the shortest turn."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        #: Who sent each message that was handled; "-" is an iteration of the event loop.
        self.order = []
        for module in (reading, scheduling):
            monkeypatch.setattr(module, "time", self)

    def perf_counter(self):
        return self.now

    def do(self, name):
        # A little more, as the sum is rounded.
        self.now += 1.001 * scheduling.TURN / 3
        self.order.append(name)

    async def until(self, count):
        """Until so many messages are handled."""
        async with limited():
            while len(self.order) - self.order.count("-") < count:
                self.order.append("-")
                await asyncio.sleep(0)

    def turns(self, name):
        """How many messages of one were handled in each of its turns."""
        runs = [(who, len([*run])) for who, run in groupby(self.order)]
        return [length for who, length in runs if who == name]


@pytest.fixture
def work(monkeypatch):
    return Work(monkeypatch)


#: Messages in a turn of one beside others, and in the longest one.
SHORT, LONG = 3, 10


@pytest.mark.repeats
async def test_turns_are_longer_where_nobody_else_sends(begin, work):
    ann = begin("ann", work.do)
    for _ in range(3000):
        ann.queue.put_message(b"flood", True)
    await work.until(3000)
    turns = work.turns("ann")
    assert turns[:100] == [SHORT] * 100
    assert turns[-20:-1] == [LONG] * 19
    assert sorted(turns[:-1]) == turns[:-1]


@pytest.mark.repeats
async def test_they_are_short_from_the_moment_when_somebody_else_does(begin, work):
    ann, bob = begin("ann", work.do), begin("bob", work.do)
    for _ in range(3000):
        ann.queue.put_message(b"flood", True)
    await work.until(2500)
    assert work.turns("ann")[-2] == LONG
    for _ in range(100):
        bob.queue.put_message(b"talk", True)
    work.order.clear()
    await work.until(400)
    # The turn that had begun, or was the next one, ends.
    first, *turns = work.turns("ann")
    assert first <= LONG and len(work.turns("bob")) > 30
    assert max(turns[: len(work.turns("bob")) - 1]) == max(work.turns("bob")) == SHORT
