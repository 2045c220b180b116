"""What is published goes on to groups of Channels, from whichever process: publishing.queue."""

import asyncio
import time
from collections import Counter

import msgpack
import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer

from filtered_websocket import publish as publish_module
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, forward, group
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.logs import LogThrottle
from filtered_websocket.observe import totals
from filtered_websocket.publish import apublish, publish
from filtered_websocket.publishing import queue
from filtered_websocket.publishing.direct import DirectSender
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.queue import Forwarder
from filtered_websocket.testing import connect
from filtered_websocket.threads.tasks import Tasks

from ..layer.fake_redis import FakeRedis
from ..waiting import LIMIT, limited, until

#: As GROUPS names them.
grouppatterns = [group("chat", history=History(size=5, ttl=60))]
EVENT_OF_TEXT = {"type": "chat.message", "filtered_websocket": group_key("chat")}
EVENT = {"text": "hi", **EVENT_OF_TEXT}
CHANNEL = "specific.test!one"


@pytest.fixture(autouse=True)
def forwarded(settings):
    settings.FILTERED_WEBSOCKET = {
        "CHANNELS_GROUPS": [forward("chat*", type="chat.message")],
        "LAYER_TIMEOUT": LIMIT,
    }


@pytest.fixture(autouse=True)
def said(caplog, monkeypatch):
    """What was not forwarded."""
    monkeypatch.setattr(queue, "_throttle", LogThrottle())
    before = totals["not_forwarded"]
    yield lambda: (totals["not_forwarded"] - before, caplog.text)


def keep(settings):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "GROUPS": __name__}


def use(settings, backend, url=None):
    config = {"hosts": [{"address": url, "socket_timeout": None}]} if url else {}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}


def listen(layer):
    """The events that a channel in the group would receive, so far."""
    layer.groups["chat"] = {CHANNEL: time.time()}

    def events():
        waiting = layer.channels.get(CHANNEL)
        return [waiting.get_nowait()[1] for _ in range(waiting.qsize())] if waiting else []

    return events


# In processes without connections


@pytest.mark.parametrize("keeps", [False, True])
def test_where_redis_is_asked_at_once_it_has_the_event_when_publish_returns(
    settings, keeps, valkey
):
    use(settings, "channels_redis.pubsub.RedisPubSubChannelLayer", valkey.url)
    if keeps:
        keep(settings)
    with valkey.client() as client, client.pubsub() as pubsub:
        pubsub.connection_pool.connection_kwargs["decode_responses"] = False
        pubsub.subscribe("asgi__group__chat")
        pubsub.get_message(timeout=LIMIT)
        for _ in "12":
            publish({"text": "hi"}, "chat", idempotency_key="one" if keeps else "")
        publish("other", "other")
        publish("end", "chat")
        received = []
        while not received or received[-1] != {**EVENT_OF_TEXT, "message": "end"}:
            message = pubsub.get_message(timeout=LIMIT)
            received.append(msgpack.unpackb(message["data"]))
        # What was published once is forwarded once.
        assert received[:-1] == [EVENT] * (1 if keeps else 2)


def test_what_cannot_be_forwarded_is_logged_and_is_published_all_the_same(
    settings, monkeypatch, said
):
    server = FakeRedis()
    use(settings, "channels_redis.pubsub.RedisPubSubChannelLayer", server.url)
    monkeypatch.setattr(DirectSender, "execute", lambda *args: 1 / 0)
    try:
        publish("hi", "chat")
        publish("hi", "chat")
        assert len(server.published) == 2
    finally:
        publish_module._close()
        server.close()
    count, text = said()
    assert count == 2
    assert text.count("not forwarded to the group 'chat' of Channels: ZeroDivisionError") == 1


def test_by_a_thread_of_its_own_it_is_sent_before_the_process_ends(settings, valkey):
    use(settings, "channels_redis.core.RedisChannelLayer", valkey.url)
    with valkey.client() as client:
        client.zadd("asgi:group:chat", {CHANNEL: time.time()})
    publish({"text": "hi"}, "chat")
    publish("other", "other")
    publish_module._close()
    with valkey.client() as client:
        client.connection_pool.connection_kwargs["decode_responses"] = False
        [kept] = client.zrange("asgispecific.test!", 0, -1)
    assert msgpack.unpackb(kept[12:]) == {**EVENT, "__asgi_channel__": [CHANNEL]}


def test_consumers_of_this_process_hear_what_a_view_publishes(settings, said):
    use(settings, "channels.layers.InMemoryChannelLayer")
    keep(settings)
    events = listen(get_channel_layer())
    for _ in "12":
        publish({"text": "hi"}, "chat", idempotency_key="of a view")
    publish("other", "other")
    assert events() == [EVENT]
    get_channel_layer().group_send = None
    publish("not sent", "chat")
    assert said()[0] == 1


async def test_so_they_do_where_an_event_loop_runs(settings):
    use(settings, "channels.layers.InMemoryChannelLayer")
    events = listen(get_channel_layer())
    publish({"text": "hi"}, "chat")
    assert await apublish("now", "chat") is None
    forwarder = queue_of_this_loop().forwarder
    await forwarder.settled()
    assert events() == [EVENT, {**EVENT_OF_TEXT, "message": "now"}]


def queue_of_this_loop():
    return publish_module.get_hub().publish_queue


# In processes that serve


async def test_what_was_published_before_is_not_forwarded_again(settings):
    use(settings, "channels.layers.InMemoryChannelLayer")
    keep(settings)
    events = listen(get_channel_layer())
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["chat"])
    async with connect(app) as ann:
        for _ in "12":
            await apublish({"text": "hi"}, "chat", idempotency_key="of a hub")
        await ann.settle()
        assert events() == [EVENT]


async def test_without_a_layer_nobody_can_hear_it(settings, said):
    settings.CHANNEL_LAYERS = {}
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["chat"])
    async with connect(app) as ann:
        await apublish("hi", "chat")
        assert await ann.receive() == "hi"
        assert await ann.received_nothing()
    publish("hi", "chat")
    assert said()[0] == 0


class Held(InMemoryChannelLayer):
    """Takes nothing until it may."""

    gate = None

    async def group_send(self, group, message):
        await self.gate.wait()
        await super().group_send(group, message)


@pytest.fixture
async def held(settings):
    use(settings, f"{__name__}.Held")
    layer = get_channel_layer()
    layer.gate = asyncio.Event()
    yield layer


async def test_what_is_too_much_or_too_old_is_dropped_and_counted(held, settings, said):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "PUBLISH_QUEUE": 2}
    events = listen(held)
    forwarder = Forwarder(Tasks(Counter()))
    items = [new_item({"text": text}) for text in ("hi", "old", "full")]
    forwarder.put("chat", items[:1])
    await until(lambda: forwarder.busy and not len(forwarder._queue))
    forwarder.put("chat", items)
    assert said()[0] == 1 and "too many wait" in said()[1]
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "PUBLISH_MAX_AGE": 1e-9}
    held.gate.set()
    async with limited():
        await forwarder.settled()
    assert events() == [EVENT] and said()[0] == 3


async def test_at_the_end_it_gives_up(held, settings, said):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "LAYER_TIMEOUT": 0.05}
    events = listen(held)
    forwarder = Forwarder(Tasks(Counter()))
    forwarder.put("chat", [new_item({"text": text}) for text in ("hi", "more", "more")])
    async with limited():
        await forwarder.give_up()
    assert said()[0] == 3 and events() == []
    held.gate.set()
    forwarder.put("chat", [new_item({"text": "hi"})])
    await forwarder.settled()
    assert events() == [EVENT]
