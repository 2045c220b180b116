"""What one client sends, read from its server's queue: connections.reading."""

import asyncio
from types import SimpleNamespace

import pytest

from filtered_websocket.connections.reading import Reader
from filtered_websocket.transports.inbox import MessageQueue, make_small

from ..waiting import limited, until


@pytest.fixture
async def one():
    """A connection whose messages come from a queue that is known, and what is made of them."""
    queue = asyncio.Queue()
    assert make_small(queue, MessageQueue)
    made = SimpleNamespace(queue=queue, handled=[], ends=[])

    async def receive():
        raise AssertionError("it made an event of a message")

    async def handle(payload, text):
        made.handled.append((payload, text))

    def lost(*end):
        made.ends.append(end)
        made.reader.end(*end)

    transport = SimpleNamespace(
        closed=None, inbox_of=lambda way: queue, hold=int, release=int, lost=lost
    )
    connection = SimpleNamespace(id="1", transport=transport, running=None, has_queued=False)
    made.reader = Reader(connection, receive, handle, None, None, awaits=False)
    made.task = asyncio.ensure_future(made.reader.run())
    yield made
    made.task.cancel()
    await asyncio.wait([made.task])


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


async def test_what_comes_as_its_task_is_cancelled_stays_in_the_queue(one):
    await until(lambda: one.queue._getters)
    one.task.cancel()
    one.queue.put_message(b"late", True)
    await asyncio.wait([one.task])
    assert one.task.cancelled() and not one.handled
    assert one.queue.take() == (b"late", True)
