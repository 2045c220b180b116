"""Serial queues."""

import asyncio
import queue
from collections import Counter

import pytest

from filtered_websocket.layer.serial_queue import SerialQueue
from filtered_websocket.threads.tasks import Tasks


async def test_items_are_handled_one_at_a_time_in_order():
    seen, running = [], 0

    async def handle(item):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        seen.append(item)
        running -= 1

    line = SerialQueue(Tasks(Counter()), handle, 10, "test")
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

    line = SerialQueue(Tasks(Counter()), handle, 1, "test")
    line.put(1)
    with pytest.raises(queue.Full):
        line.put(2)
    await line.settled()


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, asyncio.CancelledError])
async def test_an_item_whose_handling_raises_costs_itself_only(error):
    seen, counts = [], Counter()

    async def handle(item):
        await asyncio.sleep(0)
        if item == 2:
            raise error
        seen.append(item)

    line = SerialQueue(Tasks(counts), handle, 10, "test")
    for item in range(4):
        line.put(item)
    await line.settled()
    assert seen == [0, 1, 3] and counts["task_failed"] == 1 and not line.busy


async def test_a_cancelled_queue_goes_on_with_the_next_item():
    begun, seen = asyncio.Event(), []

    async def handle(item):
        begun.set()
        if not seen:
            seen.append(None)
            await asyncio.Event().wait()
        seen.append(item)

    line = SerialQueue(Tasks(Counter()), handle, 10, "test")
    line.put(1)
    await begun.wait()
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "test"]
    task.cancel()
    await line.settled()
    assert not line.busy
    line.put(2)
    await line.settled()
    assert seen == [None, 2]
