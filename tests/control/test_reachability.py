"""Whether the channel layer can be reached, where no hub knows: layer.reachability."""

import asyncio

import pytest
from channels.layers import channel_layers
from channels_redis.pubsub import RedisPubSubChannelLayer

from filtered_websocket.control import reachability
from filtered_websocket.control.reachability import is_reachable

from ..e2e.processes import Valkey, free_port
from ..layer.test_link import Layer


@pytest.fixture(autouse=True)
def nothing_asked_before(monkeypatch):
    monkeypatch.setattr(reachability, "_last", None)
    monkeypatch.setattr(reachability, "_throttle", reachability.LogThrottle())
    yield
    channel_layers.backends.clear()


@pytest.fixture
def layer():
    layer = Layer()
    layer.sent = 0
    send = layer.group_send

    async def counted(group, message):
        layer.sent += 1
        await send(group, message)

    layer.group_send = counted
    channel_layers.set("default", layer)
    return layer


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(reachability, "time", clock)
    return clock


async def test_without_a_layer_there_is_nothing_to_reach(settings):
    settings.CHANNEL_LAYERS = {}
    assert await is_reachable()


async def test_an_answer_is_used_again_for_a_second(layer, clock):
    assert await is_reachable() and await is_reachable()
    assert layer.sent == 1
    clock.now += reachability.FRESH
    assert await is_reachable()
    assert layer.sent == 2


async def test_another_layer_is_asked_at_once(layer, clock):
    assert await is_reachable()
    other = Layer()
    other.away = True
    channel_layers.set("default", other)
    assert not await is_reachable()


async def test_concurrent_calls_share_one_attempt_and_one_may_be_cancelled(layer):
    send, may_send = layer.group_send, asyncio.Event()

    async def held(group, message):
        await may_send.wait()
        await send(group, message)

    layer.group_send = held
    calls = [asyncio.ensure_future(is_reachable()) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    may_send.set()
    assert await asyncio.gather(*calls[1:]) == [True] * 4
    assert layer.sent == 1


async def test_one_that_does_not_answer_in_time_is_lost_and_logged_once(
    layer, settings, caplog, clock
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}

    async def hangs(group, message):
        await asyncio.Event().wait()

    layer.group_send = hangs
    for _ in range(2):
        assert not await is_reachable()
        clock.now += reachability.FRESH
    assert [record.getMessage() for record in caplog.records] == [
        "cannot reach the channel layer (Redis): TimeoutError()"
    ]


async def test_a_redis_is_asked_on_every_host():
    valkey = Valkey()
    try:
        there = RedisPubSubChannelLayer(hosts=[valkey.url])
        channel_layers.set("default", there)
        assert await is_reachable()
        await there.flush()
        half = RedisPubSubChannelLayer(hosts=[valkey.url, f"redis://127.0.0.1:{free_port()}/0"])
        channel_layers.set("default", half)
        assert not await is_reachable()
        await half.flush()
    finally:
        valkey.stop()
