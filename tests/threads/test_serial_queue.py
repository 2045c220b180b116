"""Serial queues."""

import asyncio
import queue
from collections import Counter

import pytest

from filtered_websocket.threads.budget import Budget
from filtered_websocket.threads.serial_queue import SerialQueue
from filtered_websocket.threads.tasks import Tasks


def make_queue(handle, bound, counts=None, budget=None, size_of=lambda item: 1):
    tasks = Tasks(Counter() if counts is None else counts)
    return SerialQueue(tasks, budget or Budget(), handle, size_of, bound=bound, name="test")


async def test_items_are_handled_one_at_a_time_in_order():
    seen, running = [], 0

    async def handle(item):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        seen.append(item)
        running -= 1

    line = make_queue(handle, 10)
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

    line = make_queue(handle, 1)
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

    line = make_queue(handle, 10, counts)
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

    line = make_queue(handle, 10)
    line.put(1)
    await begun.wait()
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "test"]
    task.cancel()
    await line.settled()
    assert not line.busy
    line.put(2)
    await line.settled()
    assert seen == [None, 2]


async def test_the_bytes_of_all_queues_count_against_their_budget(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 100}
    gate = asyncio.Event()

    async def handle(item):
        await gate.wait()
        item.clear()
        assert budget.bytes

    budget = Budget()
    one, other = (make_queue(handle, 10, budget=budget, size_of=len) for _ in range(2))
    one.put([0] * 40)
    other.put([0] * 60)
    for line in (one, other):
        with pytest.raises(queue.Full):
            line.put([0])
    gate.set()
    await one.settled()
    await other.settled()
    assert budget.bytes == budget.count == 0
    # What is larger than the limit is queued alone.
    one.put([0] * 101)
    with pytest.raises(queue.Full):
        other.put([0])
    await one.settled()
