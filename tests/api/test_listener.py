"""The channel layer without a hub: a listener, and whether it can be reached."""

import asyncio

import pytest
from channels.layers import channel_layers
from channels_redis.pubsub import RedisPubSubChannelLayer

from filtered_websocket.api import listener as module
from filtered_websocket.api.listener import Listener, is_reachable
from filtered_websocket.layer.envelope import Item, group_key

from ..e2e.processes import Valkey, free_port
from ..layer.test_link import Layer

KEY = group_key("news")
ITEM = Item(1, "t", "", b"hi", {})


@pytest.fixture(autouse=True)
def site():
    """That of the API's tests is none here."""


async def test_who_joins_a_group_gets_its_batches():
    batches = []
    async with Listener(batches.append) as one, Listener(print) as other:
        assert await one.join(KEY)
        await other.send(KEY, ITEM)
        await other.send(group_key("else"), ITEM)
        await one.send(KEY, ITEM)
        await asyncio.sleep(0)
        assert [batch.items for batch in batches] == [[ITEM], [ITEM]]
        assert len({batch.origin for batch in batches}) == 2
    await asyncio.sleep(0)
    assert len(batches) == 2


def test_it_must_be_entered():
    with pytest.raises(AssertionError, match="async with it first"):
        Listener(print).link  # noqa: B018


class Link:
    """Of a layer that does not answer."""

    def __init__(self, tasks, on_batch, **callbacks):
        self.callbacks = callbacks
        self.stopped = False

    def start(self):
        pass

    def want(self, key):
        pass

    async def wait_joined(self, key):
        return False

    def post(self, batch, on_sent):
        self.on_sent = on_sent

    async def stop(self):
        self.stopped = True


async def test_an_outage_is_told(monkeypatch):
    monkeypatch.setattr(module, "open_link", Link)
    told = []
    async with Listener(print, told.append, told.append, told.append) as listener:
        link = listener.link
        assert not await listener.join(KEY)
        assert listener.problem == "the channel layer (Redis) does not answer"
        error = ConnectionError("refused")
        link.callbacks["on_lost"](error)
        link.callbacks["on_back"](1.5)
        link.callbacks["on_joined_late"](KEY)
        link.callbacks["on_bad_envelope"](error)
        assert told == [error, 1.5, KEY]
        assert listener.problem.endswith("answer: ConnectionError: refused")
    assert link.stopped


async def test_what_cannot_be_sent_is_told(monkeypatch):
    monkeypatch.setattr(module, "open_link", Link)
    async with Listener(print) as listener:
        failed = listener.send(KEY, ITEM)
        listener.link.on_sent(ConnectionError("gone"))
        with pytest.raises(ConnectionError, match="gone"):
            await failed
        given_up = listener.send(KEY, ITEM)
        given_up.cancel()
        listener.link.on_sent(None)  # too late


# Whether it can be reached, where no hub knows


@pytest.fixture(autouse=True)
def nothing_asked_before(monkeypatch):
    monkeypatch.setattr(module, "_last", None)
    monkeypatch.setattr(module, "_throttle", module.LogThrottle())
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
    monkeypatch.setattr(module, "time", clock)
    return clock


async def test_without_a_layer_there_is_nothing_to_reach(settings):
    settings.CHANNEL_LAYERS = {}
    assert await is_reachable()


async def test_an_answer_is_used_again_for_a_second(layer, clock):
    assert await is_reachable() and await is_reachable()
    assert layer.sent == 1
    clock.now += module.FRESH
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
        clock.now += module.FRESH
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
