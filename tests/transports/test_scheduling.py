"""Work that is split up between iterations of the event loop: transports.scheduling."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from filtered_websocket.transports import scheduling
from filtered_websocket.transports.scheduling import (
    LONGEST_TURN,
    REST,
    TURN,
    Served,
    call_in_batches,
)

from ..waiting import limited


async def turn():
    await asyncio.sleep(0)


async def test_a_few_are_called_at_once_and_the_others_later_in_their_order(monkeypatch):
    monkeypatch.setattr(scheduling, "BATCH_INTERVAL", 3600)
    called = []
    for number in range(10):
        call_in_batches(lambda number=number: called.append(number))
    assert called == []
    await turn()
    assert called == list(range(scheduling.BATCH_SIZE))
    # A later call waits behind the others.
    call_in_batches(lambda: called.append("late"))
    await turn()
    assert called == list(range(scheduling.BATCH_SIZE))


@pytest.mark.parametrize("count", [1, 4, 10])
async def test_all_are_called_and_then_the_next_at_once(monkeypatch, count):
    monkeypatch.setattr(scheduling, "BATCH_INTERVAL", 0)
    called, all_called = [], asyncio.Event()
    for number in range(count):
        call_in_batches(lambda number=number: called.append(number))
    call_in_batches(all_called.set)
    async with limited():
        await all_called.wait()
    assert called == list(range(count))
    call_in_batches(lambda: called.append("again"))
    await turn()
    assert called[-1] == "again"


async def test_a_call_made_by_a_call_comes_after_it():
    called = []

    def first():
        called.append(1)
        call_in_batches(lambda: called.append(2))

    call_in_batches(first)
    await turn()
    assert called == [1]
    async with limited():
        while len(called) < 2:
            await turn()


async def test_each_event_loop_has_its_own_queue():
    called = []

    def elsewhere():
        async def call():
            call_in_batches(lambda: called.append("there"))
            await turn()

        asyncio.run(call())

    call_in_batches(lambda: called.append("here"))
    await asyncio.to_thread(elsewhere)
    await turn()
    assert sorted(called) == ["here", "there"]


LONG_AGO = 1000.0


def test_a_turn_gets_longer_while_nobody_else_is_served_but_not_for_ever():
    served = Served()
    turns = [served.turn_of("ann", now) for now in (0.0, 0.03, 0.06, 0.08, 0.1, LONG_AGO)]
    assert turns == pytest.approx([TURN, TURN, 0.0003, 0.0004, LONGEST_TURN, LONGEST_TURN])
    assert 2 * TURN < LONGEST_TURN <= 0.0005


@pytest.mark.parametrize("other", ["bob", None])
def test_it_is_short_as_soon_as_somebody_else_is_served(other):
    served = Served()
    served.turn_of("ann", 0.0)
    assert served.turn_of("ann", LONG_AGO) == LONGEST_TURN
    if other is None:
        served.last = None
    else:
        assert served.turn_of(other, LONG_AGO) == TURN
    assert served.turn_of("ann", LONG_AGO) == TURN
    assert served.turn_of("ann", LONG_AGO + 0.06) == pytest.approx(0.0003)


@pytest.fixture
def turns(monkeypatch):
    """How many iterations ``serve_others`` takes, whose clock reads ``ticks`` seconds further."""

    async def turns(since, ticks):
        now = itertools.count()
        clock = SimpleNamespace(perf_counter=lambda: 1.0 + next(now) * ticks)
        monkeypatch.setattr(scheduling, "time", clock)
        monkeypatch.setattr(scheduling.served, "since", since)
        count, serving = 0, asyncio.ensure_future(scheduling.serve_others())
        while not serving.done():
            await turn()
            count += 1
        return count

    return turns


async def test_others_come_first_for_some_iterations(turns):
    assert await turns(1.0 - scheduling.LATELY, 0.0) == scheduling.YIELD_ITERATIONS + 1


async def test_and_for_a_time_if_they_have_come_lately(turns):
    # The clock is read at the begin, and then after each iteration from the last one on.
    more = await turns(1.0, REST / 9.5) - await turns(1.0, 2 * REST)
    assert more == 9
    assert await turns(1.0, 2 * REST) == scheduling.YIELD_ITERATIONS + 1


async def test_but_not_for_ever(turns):
    assert await turns(1.0, 0.0) == scheduling.MAX_ITERATIONS + 1
