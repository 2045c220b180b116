"""What waits of what a client has sent is bounded."""

import asyncio

import pytest

from filtered_websocket.streams.inbox import MOST, MOST_BYTES, Inbox
from filtered_websocket.transports.inbox import MAX_BYTES


@pytest.fixture(autouse=True)
def small(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_INBOX": 2}


def event(number=0):
    return {"type": "websocket.receive", "text": str(number)}


async def test_events_come_in_order_and_a_reader_waits_for_them():
    inbox = Inbox()
    taking = asyncio.ensure_future(inbox.take())
    await asyncio.sleep(0)
    assert inbox.put(event(1), 1) and inbox.put(event(2), 1)
    assert [await taking, await inbox.take()] == [event(1), event(2)]


async def test_who_is_cancelled_while_it_reads_loses_nothing():
    inbox = Inbox()
    taking = asyncio.ensure_future(inbox.take())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    inbox.put(event(), 1)
    assert await inbox.take() == event()


async def test_past_the_bound_requests_are_held_until_there_is_room():
    inbox = Inbox()
    for number in range(4):
        assert inbox.put(event(number), 1)
    held = [asyncio.ensure_future(inbox.room()) for _ in range(2)]
    await asyncio.sleep(0)
    await inbox.take()
    await asyncio.sleep(0)
    assert inbox.is_full and not any(one.done() for one in held)
    await inbox.take()
    await asyncio.wait(held)
    assert not inbox.is_full


@pytest.mark.parametrize(("size", "most"), [(0, MOST * 2), (MAX_BYTES // 2, 3)])
async def test_there_is_a_number_and_a_size_past_which_nothing_is_taken(size, most):
    inbox = Inbox()
    taken = 0
    while inbox.put(event(), size):
        taken += 1
    assert taken == most and taken * size <= MOST_BYTES


async def test_the_end_comes_in_any_case():
    inbox = Inbox()
    while inbox.put(event(), 1):
        pass
    inbox.add({"type": "websocket.disconnect"})
    last = None
    while last is None or last["type"] != "websocket.disconnect":
        last = await inbox.take()


async def test_the_longest_message_that_is_allowed_is_taken(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_INBOX": 2, "MAX_MESSAGE_SIZE": 2 * MOST_BYTES}
    inbox = Inbox()
    assert inbox.put(event(), 2 * MOST_BYTES) and not inbox.put(event(), 1)
