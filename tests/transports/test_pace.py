"""Calls that wait for their turn: transports.pace."""

import asyncio

import pytest

from filtered_websocket.transports import pace
from filtered_websocket.transports.pace import call_in_turn


async def turn():
    await asyncio.sleep(0)


async def test_a_few_are_called_at_once_and_the_others_later_in_their_order(monkeypatch):
    monkeypatch.setattr(pace, "PAUSE", 3600)
    called = []
    for number in range(10):
        call_in_turn(lambda number=number: called.append(number))
    assert called == []
    await turn()
    assert called == list(range(pace.FEW))
    # Who comes now waits behind the others.
    call_in_turn(lambda: called.append("late"))
    await turn()
    assert called == list(range(pace.FEW))


@pytest.mark.parametrize("count", [1, 4, 10])
async def test_all_are_called_and_then_the_next_at_once(monkeypatch, count):
    monkeypatch.setattr(pace, "PAUSE", 0)
    called, all_called = [], asyncio.Event()
    for number in range(count):
        call_in_turn(lambda number=number: called.append(number))
    call_in_turn(all_called.set)
    await asyncio.wait_for(all_called.wait(), 5)
    assert called == list(range(count))
    call_in_turn(lambda: called.append("again"))
    await turn()
    assert called[-1] == "again"


async def test_what_a_call_asks_for_comes_behind():
    called = []

    def first():
        called.append(1)
        call_in_turn(lambda: called.append(2))

    call_in_turn(first)
    await turn()
    assert called == [1]
    async with asyncio.timeout(5):
        while len(called) < 2:
            await turn()


async def test_event_loops_are_apart():
    called = []

    def elsewhere():
        async def call():
            call_in_turn(lambda: called.append("there"))
            await turn()

        asyncio.run(call())

    call_in_turn(lambda: called.append("here"))
    await asyncio.to_thread(elsewhere)
    await turn()
    assert sorted(called) == ["here", "there"]
