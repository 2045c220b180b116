"""Serial queues."""

import asyncio
import queue

import pytest

from filtered_websocket.layer.serial_queue import SerialQueue


async def test_items_are_handled_one_at_a_time_in_order():
    seen, running = [], 0

    async def handle(item):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        seen.append(item)
        running -= 1

    line = SerialQueue(handle, 10, "test")
    for item in range(5):
        line.put(item)
    assert line.busy and len(line) == 5
    await line.settled()
    assert seen == [0, 1, 2, 3, 4] and not line.busy
    line.put(5)
    await line.settled()
    assert seen[-1] == 5


async def test_a_full_queue_says_so():
    async def handle(item):
        pass

    line = SerialQueue(handle, 1, "test")
    line.put(1)
    with pytest.raises(queue.Full):
        line.put(2)
    await line.settled()
