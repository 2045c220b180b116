"""Rules that block are asked in few threads, and one that hangs keeps no other from its end."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from filtered_websocket.pipelines import asking, rule_rechecks
from filtered_websocket.threads.blocking import abandoned

from ..waiting import LIMIT, until
from .test_rule_rechecks import stand_in


class World:
    """A connection whose rules are asked again and again."""

    def __init__(self):
        self.asked = []
        self.failures = []
        self.go_on = threading.Event()
        self.rechecks = None

    def asks(self, connection, x):
        self.asked.append(x)
        if x == "hangs":
            assert self.go_on.wait(LIMIT)
        return x != "ends"

    def open(self, *names, join):
        self.connection = stand_in(object(), names, join, self.failures)
        hub = SimpleNamespace(
            loop=asyncio.get_running_loop(), connections={self.connection.id: self.connection}
        )
        self.rechecks = rule_rechecks.RuleRechecks(hub)
        self.rechecks.begin()

    @property
    def left(self):
        return set(self.connection.subscriptions)


@pytest.fixture
async def world(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 0.01}
    monkeypatch.setattr(asking, "RULE_TIMEOUT", 0.1)
    world = World()
    yield world
    await world.rechecks.stop()
    world.go_on.set()
    await until(lambda: not abandoned)


def blocking(function):
    def asks(connection, x):
        return function(connection, x)

    asks.blocking = True
    return asks


async def test_one_that_hangs_keeps_no_other_and_ends_after_ten_rounds(world):
    world.open("hangs", "ends", "stays", join=blocking(world.asks))
    await until(lambda: "ends" not in world.left)
    await until(lambda: "hangs" not in world.left)
    assert world.left == {"stays"}
    # It was never given another thread.
    assert world.asked.count("hangs") == 1
    late = [error for error in world.failures if isinstance(error, TimeoutError)]
    assert len(late) >= rule_rechecks.GRACE
    assert "asks has not answered within 0.1 s" in str(late[0])


async def test_one_that_returns_is_asked_again(world, monkeypatch):
    monkeypatch.setattr(rule_rechecks, "GRACE", 1_000_000)
    world.open("hangs", "stays", join=blocking(world.asks))
    await until(lambda: world.failures)
    world.go_on.set()
    await until(lambda: world.asked.count("hangs") > 1 and not world.rechecks._failures)
    assert world.left == {"hangs", "stays"}


async def test_a_database_that_hangs_is_asked_for_all_of_a_batch_at_once(world, monkeypatch):
    def hangs(users):
        world.asked.append(users)
        assert world.go_on.wait(LIMIT)

    monkeypatch.setattr(asking, "fresh_users", hangs)
    world.open("a", "b", "c", join="auth.view_user")
    await until(lambda: not world.left)
    assert len(world.asked) == 1


async def test_what_is_not_known_at_the_end_of_a_round_is_no_failure(world, monkeypatch):
    monkeypatch.setattr(asking, "RULE_TIMEOUT", LIMIT)
    monkeypatch.setattr(rule_rechecks, "TIME_LIMIT", 0.1)
    world.open("ends", "hangs", "stays", join=blocking(world.asks))
    # The answers of those before it count.
    await until(lambda: world.left == {"hangs", "stays"})
    await until(lambda: world.asked.count("hangs") > 1)
    assert world.failures == []


async def test_an_async_rule_that_hangs_fails_in_time(world, monkeypatch):
    monkeypatch.setattr(rule_rechecks, "RULE_TIMEOUT", 0.01)

    async def hangs(connection, x):
        await asyncio.Event().wait()

    world.open("x", join=hangs)
    await until(lambda: not world.left)
    assert all(isinstance(error, TimeoutError) for error in world.failures)
