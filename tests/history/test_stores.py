"""Where histories are kept: stores."""

import asyncio
import itertools

import pytest
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import ImproperlyConfigured

from filtered_websocket import history as wing
from filtered_websocket.history import ahistory, memory, stores
from filtered_websocket.history.memory import MemoryHistory, process_history
from filtered_websocket.history.redis import RedisHistory
from filtered_websocket.layer.links import ProcessLink
from filtered_websocket.layer.redis_layer import redis_layer
from filtered_websocket.publishing import direct_history

from ..layer.scripted_redis import ScriptedRedis
from ..waiting import until
from .worlds import KEY, append, batch_of, texts


def use(settings, backend, *hosts):
    config = {"BACKEND": backend, "CONFIG": {"hosts": list(hosts)}}
    settings.CHANNEL_LAYERS = {"default": config}


async def test_a_link_inside_the_process_has_the_store_of_the_process():
    assert stores.open_store(ProcessLink(print)) is process_history()
    memory.forget_all()
    assert isinstance(process_history(), MemoryHistory)


async def test_each_test_of_pytest_has_its_own(monkeypatch):
    store, offsets = stores.HistoryOfTests(), []
    for number, name in enumerate(["one (setup)", "one (call)", "two (setup)"]):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", f"test_a.py::test_{name}")
        offsets.append((await append(store, batch_of("x", number=number))).offset)
    assert offsets == [1, 2, 1] and store.bytes == batch_of("x").items[0].size


def test_without_pytest_each_loop_that_connects_has_its_own_and_each_block(monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(memory, "_of_process", None)
    store = stores.history_of_tests()
    assert store is stores.history_of_tests() is process_history()
    numbers = itertools.count()

    async def publish():
        store.begin()
        await append(store, batch_of("x", number=next(numbers)))
        store.begin()
        return texts(await store.read(KEY))

    assert [asyncio.run(publish()) for _ in range(2)] == [["x"], ["x"]]
    with stores.empty_histories():
        assert [asyncio.run(publish()) for _ in range(2)] == [["x"], ["x", "x"]]
    assert texts(asyncio.run(store.read(KEY))) == []


async def test_a_link_that_is_not_ours_has_none():
    assert stores.open_store(object()) is None


async def test_a_layer_of_another_shape_has_none():
    layer = RedisPubSubChannelLayer(hosts=["redis://127.0.0.1:1"])
    redis = redis_layer(layer)
    assert isinstance(stores._open_redis(layer, redis), RedisHistory)
    del layer._serializer
    assert stores._open_redis(layer, redis) is None
    await redis.close()


async def test_a_layer_beside_which_nothing_can_be_kept_is_named(settings):
    name = "channels.layers.BaseChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": name}}
    with pytest.raises(ImproperlyConfigured, match=rf"beside a {name}: histories need a layer"):
        await ahistory("room")


async def test_the_core_layer_is_asked_by_connections_of_our_own(settings):
    async with ScriptedRedis() as server:
        use(settings, f"{RedisChannelLayer.__module__}.RedisChannelLayer", server.url)
        page = b"*5\r\n$1\r\ne\r\n:7\r\n:1\r\n:8\r\n*0\r\n"
        info = b"$8\r\nrun_id:a\r\n"
        server.answer = lambda command: info if command[0] == b"INFO" else page
        assert (await ahistory("room")).position == ("e", 7, False)
        await until(lambda: not server.clients)


async def test_a_redis_that_is_away_is_an_error_and_one_that_refuses_another(settings):
    backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
    async with ScriptedRedis() as server:
        use(settings, backend, server.url)
        server.answer = lambda command: b"-NOPERM no\r\n"
        with pytest.raises(PermissionError, match="its user needs"):
            await ahistory("room")
        server.answer = lambda command: b"$3\r\nx:y\r\n"
        with pytest.raises(RuntimeError, match="no run_id"):
            await ahistory("room")
    with pytest.raises(ConnectionError, match="cannot reach the history of 'room'"):
        await ahistory("room")


def test_what_the_wing_does_not_offer_is_no_attribute():
    assert wing.history is direct_history.history and wing.Page
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        wing.nothing  # noqa: B018
