"""The histories of one process: history.memory."""

import threading

import pytest

from filtered_websocket.history.base import (
    EMPTY_TTL,
    POSITION_TTL,
    REMEMBERED,
    Position,
    Retention,
    StaleBatch,
)
from filtered_websocket.history.memory import MemoryHistory

from .test_model import Clock
from .worlds import KEY, RETENTION, append, batch_of, texts


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return MemoryHistory(clock)


async def test_the_answer_comes_before_append_returns(store):
    answers = []
    store.append(batch_of("a", "b"), RETENTION, answers.append)
    [position] = answers
    assert position == Position(position.epoch, 2) and not store.publishes
    store.append(batch_of("c", number=2), RETENTION, answers.append)
    store.append(batch_of("x", number=0), RETENTION, answers.append)
    assert answers[1] == (position.epoch, 3, False) and isinstance(answers[2], StaleBatch)
    page = await store.read(KEY)
    assert texts(page) == ["a", "b", "c"] and page.position == answers[1]


async def test_a_key_and_a_batch_are_known_for_some_time(store, clock):
    first = await append(store, batch_of("a"), key="order 1")
    assert await append(store, batch_of("a")) == first
    again = await append(store, batch_of("a", origin="p"), key="order 1")
    assert again == first._replace(repeated=True)
    clock.now += REMEMBERED - 1
    assert await append(store, batch_of("a")) == first
    clock.now += 1
    assert (await append(store, batch_of("b"), key="order 1")).offset == 2


async def test_keys_of_all_groups_together_are_bounded_and_the_oldest_is_forgotten_first(clock):
    store = MemoryHistory(clock, max_keys=3)
    for number, group in enumerate(("a", "b", "a", "b")):
        await append(store, batch_of("x", key=group, origin=f"{number}"), key=f"key {number}")
    assert (await append(store, batch_of("x", key="b", origin="p"), key="key 1")).repeated
    assert (await append(store, batch_of("x", key="a", origin="p"), key="key 2")).repeated
    assert not (await append(store, batch_of("x", key="a", origin="q"), key="key 0")).repeated
    assert not (await append(store, batch_of("x", key="b", origin="q"), key="key 1")).repeated
    assert not (await append(store, batch_of("x", key="b", origin="r"), key="key 0")).repeated
    assert len(store._keys) == 3
    clock.now += REMEMBERED
    await store.read("b")
    assert not store._keys


async def test_each_group_ends_in_its_own_time_and_nothing_of_it_stays(store, clock):
    for number in range(1000):
        await append(store, batch_of("x", number=number), Retention(9, 60))
    await append(store, batch_of("x", key="other"), Retention(9, 90))
    assert len(store._due) < 10 and len(store._groups) == 2
    await append(store, batch_of("x", number=2000), Retention(9, 30))
    clock.now += 30
    assert texts(await store.read(KEY)) == [] and store.bytes > 0
    clock.now += 60
    [top] = (await store.tops(["other"])).values()
    assert (top.offset, store.bytes) == (1, 0)
    clock.now += POSITION_TTL
    [now] = (await store.tops(["other"])).values()
    assert now.offset == 0 and now.epoch != top.epoch and list(store._groups) == ["other"]


async def test_bytes_are_bounded_and_the_oldest_group_loses_first(clock):
    size = batch_of("x" * 1000).items[0].size
    store = MemoryHistory(clock, max_bytes=3 * size)
    for key in ("a", "a", "b", "b"):
        await append(store, batch_of("x" * 1000, origin=f"{clock.now}", key=key))
        clock.now += 1
    assert store.bytes == 3 * size
    assert not (await store.read("a", Position("", 0))).recovered
    assert (await store.read("a", Position("", 1))).recovered
    await append(store, batch_of("x" * 1000, origin="last", key="b"))
    assert len((await store.read("a")).publications) == 0
    assert (await store.read("b", Position("", 0))).recovered
    # More than all: none of it is kept, and who was there is told.
    await append(store, batch_of("x" * 9000, origin="big", key="c"))
    page = await store.read("c", Position("", 0))
    assert not page.recovered and page.position.offset == 1 and store.bytes == 0


async def test_groups_are_bounded_and_one_that_is_known_no_longer_is_another_one(clock):
    store = MemoryHistory(clock, max_groups=2)
    first = await append(store, batch_of("x", key="a"))
    await append(store, batch_of("x", key="b"))
    await append(store, batch_of("y", key="a", number=1))
    await append(store, batch_of("x", key="c"))
    page = await store.read("a", first)
    assert page.recovered and texts(page) == ["y"]
    [top] = (await store.tops(["b"])).values()
    assert top.offset == 0
    # What was to expire of the one that is gone is not looked for in the new one.
    clock.now += 61
    assert (await store.tops(["b"]))["b"] == top


async def test_who_asks_for_what_nobody_publishes_leaves_nothing_for_long(clock):
    store = MemoryHistory(clock, max_groups=100)
    first = await append(store, batch_of("x"))
    followed = (await store.read("followed")).position
    for number in range(1000):
        await store.read(f"random {number}")
        assert (await store.tops(["followed"]))["followed"] == followed
    assert len(store._due) <= 200
    # Nothing that was published has been pushed out.
    assert (await store.read(KEY, first)).recovered and len(store._groups) == 100
    for _ in range(3):
        clock.now += EMPTY_TTL - 1
        assert (await store.read("followed", followed)).recovered
    assert list(store._groups) == [KEY, "followed"]
    # What comes then is all that was published since.
    await append(store, batch_of("y", key="followed"))
    page = await store.read("followed", followed)
    assert page.recovered and texts(page) == ["y"] and not store._empty
    lone = (await store.read("lone")).position
    clock.now += EMPTY_TTL
    assert not (await store.read("lone", lone)).recovered


async def test_threads_append_without_loss(store):
    def publish(origin):
        for number in range(200):
            store.append(batch_of("x", origin=origin, number=number), RETENTION, answers.append)

    answers = []
    threads = [threading.Thread(target=publish, args=[f"{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(position.offset for position in answers) == list(range(1, 801))
