"""Histories from processes that serve no WebSockets: direct, direct_host, thread."""

import asyncio

import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer

from filtered_websocket import PublishError
from filtered_websocket.history.base import Retention
from filtered_websocket.history.redis import RedisHistory
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import group_key, unseal
from filtered_websocket.layer.redis_layer import redis_layer
from filtered_websocket.publishing.batches import Keep
from filtered_websocket.publishing.direct import DirectSender
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.thread import PublisherThread

from ..e2e.processes import Valkey
from ..waiting import LIMIT

KEEP = Keep(Retention(10, 60))
KEY = group_key("room")


@pytest.fixture(scope="module")
def valkey():
    valkey = Valkey()
    yield valkey
    valkey.stop()


@pytest.fixture(autouse=True)
def time_enough(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}


@pytest.fixture(params=["plain", "encrypted"])
def layer(request, valkey):
    with valkey.client() as client:
        client.flushall()
    options = {"symmetric_encryption_keys": ["key"]} if request.param == "encrypted" else {}
    layer = RedisPubSubChannelLayer(hosts=[valkey.url], **options)
    layer.config = {"hosts": [valkey.url], **options}
    return layer


def kept(layer):
    """What a process that serves finds in the history."""

    async def read():
        redis = redis_layer(layer)
        page = await RedisHistory(layer, redis).read(KEY)
        await redis.close()
        return [(one.offset, one.data.decode()) for one in page.publications]

    return asyncio.run(read())


def listen(client):
    pubsub = client.pubsub()
    pubsub.subscribe(f"asgi__group__{KEY}")
    assert pubsub.get_message(timeout=LIMIT)["type"] == "subscribe"
    return pubsub


def test_a_message_has_its_place_when_send_returns(layer, valkey):
    sender = DirectSender(layer)
    with redis.Redis.from_url(valkey.url) as client, listen(client) as pubsub:
        for number in range(1, 4):
            position = sender.send("room", new_item(f"m{number}"), KEEP)
            assert position.offset == number and not position.repeated
            batch = unseal(layer.deserialize(pubsub.get_message(timeout=LIMIT)["data"]))
            assert (batch.epoch, batch.first) == position[:2] and len(batch.items) == 1
        client.script_flush()
        keyed = KEEP._replace(idempotency_key="order 1")
        first = sender.send("room", new_item("m4"), keyed)
        assert pubsub.get_message(timeout=LIMIT)["type"] == "message"
        assert sender.send("room", new_item("m5"), keyed) == (*first[:2], True)
        assert sender.send("room", new_item("m6")) is None
        assert pubsub.get_message(timeout=LIMIT)["type"] == "message"
        assert pubsub.get_message() is None
    assert kept(layer) == [(number, f"m{number}") for number in range(1, 5)]


def test_an_answer_that_was_lost_appends_nothing_twice(layer, monkeypatch):
    sender = DirectSender(layer)
    [host] = sender._hosts.values()
    ask, lost = host._ask, []

    def lose_once(*command):
        answer = ask(*command)
        if command[0] == "EVALSHA" and not lost:
            lost.append(command)
            raise ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(host, "_ask", lose_once)
    assert sender.send("room", new_item("m1"), KEEP).offset == 1 and lost
    assert kept(layer) == [(1, "m1")]


def test_a_missing_right_is_named(valkey):
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", "nopass", "&*", "+publish", "+info")
        url = valkey.url.replace("//", "//poor:x@")
        sender = DirectSender(RedisPubSubChannelLayer(hosts=[url]))
        with pytest.raises(PublishError, match=r"refused the message: .* needs .* ~fws:\* \+info"):
            sender.send("room", new_item("m"), KEEP)
        client.acl_deluser("poor")


def test_a_server_that_is_no_longer_the_master_is_left(layer, monkeypatch):
    """The next connection finds the new one; where there is none, it is told."""
    sender = DirectSender(layer)
    [host] = sender._hosts.values()
    ask, connections = host._ask, []

    def refuse_once(*command):
        if command[0] in ("EVAL", "EVALSHA") and not connections:
            connections.append(host._connection)
            raise redis.ReadOnlyError("You can't write against a read only replica.")
        return ask(*command)

    monkeypatch.setattr(host, "_ask", refuse_once)
    assert sender.send("room", new_item("m"), KEEP).offset == 1 and connections


@pytest.mark.parametrize("kept_by", ["layer", "nobody"])
def test_the_thread_of_layers_that_need_a_loop_keeps_too(layer, settings, kept_by, monkeypatch):
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": layer.config,
        }
    }
    thread = PublisherThread(get_hub)
    if kept_by == "nobody":
        monkeypatch.setattr(thread.hub.feeds, "_open_store", lambda link: None)
    try:
        position = thread.send("room", new_item("m1"), KEEP)
        if kept_by == "nobody":
            assert position is None and kept(layer) == []
        else:
            assert position.offset == 1 and kept(layer) == [(1, "m1")]
        assert thread.send("room", new_item("m2")) is None
    finally:
        thread.close()
