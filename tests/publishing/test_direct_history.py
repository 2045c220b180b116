"""Histories from processes that serve no WebSockets: direct, direct_history, thread."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import redis
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from filtered_websocket import PublishError
from filtered_websocket.history import forget_history, history
from filtered_websocket.history.base import Retention
from filtered_websocket.history.hosts import slot_of
from filtered_websocket.history.redis import RedisHistory
from filtered_websocket.history.scripts import READ, keys_of, read_arguments
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import group_key, unseal
from filtered_websocket.layer.redis_layer import redis_layer
from filtered_websocket.publishing import direct_history, direct_host
from filtered_websocket.publishing.batches import Keep, append_here
from filtered_websocket.publishing.direct import DirectSender, close_senders
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.thread import PublisherThread

from ..e2e.topologies import Cluster, Move
from ..waiting import LIMIT

KEEP = Keep(Retention(10, 60))
KEY = group_key("room")

pytestmark = pytest.mark.usefixtures("time_enough")


@pytest.fixture(params=["plain", "encrypted"])
def layer(request, valkey):
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


@pytest.fixture
def site(layer, settings):
    """The layer as the site has it; what it publishes is kept."""
    use(settings, **layer.config)
    yield DirectSender(layer)
    close_senders()


def use(settings, backend="channels_redis.pubsub.RedisPubSubChannelLayer", **config):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}


def listen(client):
    pubsub = client.pubsub()
    pubsub.subscribe(f"asgi__group__{KEY}")
    assert pubsub.get_message(timeout=LIMIT)["type"] == "subscribe"
    return pubsub


def test_what_is_published_to_all_the_time_keeps_its_time(layer, valkey, monkeypatch):
    keep, now = Keep(Retention(10, 1000)), 0
    sender, list_key = DirectSender(layer), keys_of(KEY)[1]
    with redis.Redis.from_url(valkey.url) as client:
        monkeypatch.setattr(direct_host, "time", SimpleNamespace(monotonic=lambda: now))
        for number in range(30):
            sender.send("room", new_item(f"m{number}"), keep)
            left = client.pttl(list_key)
            assert left > 1000_000
            # The next one comes before this process has to renew it.
            now += 100
            client.pexpire(list_key, left - 100_000)


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


@pytest.mark.parametrize(
    "error",
    [
        redis.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.ClusterDownError("The cluster is down"),
        redis.BusyLoadingError("Redis is loading the dataset in memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_is_not_ready_or_no_longer_the_master_is_left(layer, error, monkeypatch):
    """The next connection finds the new one; where there is none, it is told."""
    sender = DirectSender(layer)
    [host] = sender._hosts.values()
    ask, connections = host._ask, []

    def refuse_once(*command):
        if command[0] in ("EVAL", "EVALSHA") and not connections:
            connections.append(host._connection)
            raise error
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


# Read


def texts(page):
    return [(one.offset, one.data.decode()) for one in page.publications]


def test_a_history_is_read_and_forgotten_without_an_event_loop(site, monkeypatch):
    # Where other greenlets run one, it would be an error.
    monkeypatch.setattr(direct_history, "async_to_sync", None)
    for number in range(1, 4):
        position = site.send("room", new_item(f"m{number}"), KEEP)
    page = history("room")
    assert texts(page) == [(1, "m1"), (2, "m2"), (3, "m3")] and page.position == position
    assert texts(history("room", since=position._replace(offset=2))) == [(3, "m3")]
    assert texts(history("room", limit=2, reverse=True)) == [(3, "m3"), (2, "m2")]
    assert not history("room", since=("other", 1)).recovered
    forget_history("room")
    page = history("room", since=position)
    assert not page.recovered and page.position.epoch != position.epoch
    with pytest.raises(ValueError, match="a whole number from 0 on"):
        history("room", limit=True)
    with pytest.raises(TypeError, match="a position is"):
        history("room", since="1")


def test_where_nobody_else_can_be_reached_that_of_the_process_is_read(settings, monkeypatch):
    monkeypatch.setattr(direct_history, "async_to_sync", None)
    settings.CHANNEL_LAYERS = {}
    position = append_here(KEY, new_item("m1"), KEEP)
    assert texts(history("room")) == [(1, "m1")]
    assert history("room", since=position).recovered
    forget_history("room")
    assert not history("room", since=position).recovered


def test_options_that_need_an_event_loop_have_one(site, settings, valkey):
    site.send("room", new_item("m1"), KEEP)
    host = {"address": valkey.url, "retry": Retry(NoBackoff(), 0)}
    use(settings, **{**site.layer.config, "hosts": [host]})
    assert direct_history.sender_for(get_channel_layer()) is None
    assert texts(history("room")) == [(1, "m1")]
    forget_history("room")
    assert texts(history("room")) == []


def test_why_nothing_can_be_read_is_told(settings, valkey, monkeypatch):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.BaseChannelLayer"}}
    with pytest.raises(ImproperlyConfigured, match="nothing can be kept beside"):
        history("room")
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", "nopass", "&*", "+info")
        use(settings, hosts=[valkey.url.replace("//", "//poor:x@")])
        with pytest.raises(PermissionError, match=r"needs .* ~fws:\* \+info"):
            history("room")
        client.acl_deluser("poor")
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    use(settings, hosts=["redis://127.0.0.1:1"])
    with pytest.raises(ConnectionError, match="cannot reach the history of 'room'"):
        history("room")
    with pytest.raises(ConnectionError, match="cannot reach the history of 'room'"):
        forget_history("room")
    close_senders()


def test_an_error_of_redis_is_told_as_it_is(site, valkey):
    site.send("room", new_item("m1"), KEEP)
    with valkey.client() as client:
        client.delete(keys_of(KEY)[1])
        client.hset(keys_of(KEY)[1], "not", "a list")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        history("room")


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.stop()


def test_the_node_of_a_cluster_that_has_the_keys_is_asked(cluster):
    layer = RedisPubSubChannelLayer(hosts=[cluster.nodes[0].url])
    sender = DirectSender(layer)
    names = [f"room {number}" for number in range(12)]
    for offset in (1, 2):
        for name in names:
            assert sender.send(name, new_item("m"), KEEP).offset == offset
    [host] = sender._hosts.values()
    assert len(host._nodes) == 2
    # A connection that was lost is made anew, after the first node was asked again.
    for node in host._nodes.values():
        node._connection._sock.shutdown(socket.SHUT_RDWR)
    assert [sender.send(name, new_item("m"), KEEP).offset for name in names] == [3] * 12
    for name in names:
        key = group_key(name)
        reply = sender.run_script(key, READ, read_arguments(key, None, 1, True))
        assert reply[1] == 3


def test_a_publish_waits_while_a_cluster_moves_the_keys(cluster, monkeypatch):
    layer = RedisPubSubChannelLayer(hosts=[cluster.nodes[0].url])
    assert DirectSender(layer).send("room", new_item("a"), KEEP).offset == 1
    refused = threading.Event()

    def pause(failures):
        refused.set()
        return 0.01

    monkeypatch.setattr(direct_host, "pause", pause)
    move = Move(cluster, slot_of(KEY))
    with ThreadPoolExecutor(1) as pool:
        # A publisher that the group does not know yet.
        sent = pool.submit(DirectSender(layer).send, "room", new_item("b"), KEEP)
        assert refused.wait(LIMIT)
        move.finish()
        assert sent.result(LIMIT).offset == 2
