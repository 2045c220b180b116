"""Limits of queues in bytes."""

import asyncio
import queue
import threading

import pytest

from filtered_websocket.threads.budget import (
    OVERHEAD,
    Budget,
    size_of_event,
    wait_room,
)


@pytest.fixture(autouse=True)
def small(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 100, "PUBLISH_QUEUE": 4}


def test_a_budget_is_crowded_above_half_and_full_at_its_limit():
    budget = Budget()
    budget.admit(50)
    assert not budget.crowded
    budget.admit(50)
    assert budget.crowded
    with pytest.raises(queue.Full):
        budget.check(1)
    with pytest.raises(queue.Full):
        budget.admit(1)
    budget.add(1)
    assert budget.bytes == 101 and budget.count == 3
    budget.release(51, 2)
    assert budget.bytes == 50 and budget.count == 1 and not budget.crowded


def test_only_one_that_limits_the_count_is_full_of_many():
    counting, other = Budget(limits_count=True), Budget()
    for budget in (counting, other):
        for _ in range(4):
            budget.admit(1)
    assert counting.crowded and not other.crowded
    other.admit(1)
    with pytest.raises(queue.Full):
        counting.admit(1)


def test_what_is_larger_than_the_limit_is_admitted_alone():
    budget = Budget()
    budget.check(1000)
    budget.admit(1000)
    with pytest.raises(queue.Full):
        budget.admit(1)


async def test_waiting_for_room_waits_for_every_budget():
    first, second = Budget(), Budget()
    first.admit(60)
    waiting = asyncio.ensure_future(wait_room(first, second))
    await asyncio.sleep(0)
    second.admit(60)
    first.release(60)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Meanwhile the first one is crowded again.
    first.admit(60)
    second.release(9)
    assert not waiting.done()
    second.release(51)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    first.release(60)
    await waiting
    await wait_room(first, second)


def test_many_threads_are_not_admitted_to_the_last_place():
    budget, full = Budget(), []

    def admit():
        try:
            budget.admit(20)
        except queue.Full as error:
            full.append(error)

    threads = [threading.Thread(target=admit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.bytes == 100 and len(full) == 15


@pytest.mark.parametrize(
    ("event", "size"),
    [
        (None, OVERHEAD),
        (3, OVERHEAD),
        ("x" * 10, OVERHEAD + 10),
        (b"x" * 10, OVERHEAD + 10),
        (memoryview(b"x" * 10), OVERHEAD + 10),
        (["x" * 10, b"x"], 3 * OVERHEAD + 11),
        ({"key": "x" * 10}, 3 * OVERHEAD + 13),
        ({"x" * 10}, 2 * OVERHEAD + 10),
    ],
)
def test_an_event_counts_with_what_is_in_it(event, size):
    assert size_of_event(event) == size


def test_an_event_that_contains_itself_has_a_size():
    event = []
    event.append(event)
    assert size_of_event(event) == 5 * OVERHEAD
