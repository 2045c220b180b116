"""Sending on the caller's own thread: direct."""

import asyncio
import os
import threading
import time

import msgpack
import pytest
import redis
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

from filtered_websocket import PublishError
from filtered_websocket.layer.envelope import CONTROL, Batch, group_key, seal
from filtered_websocket.layer.redis_connection import limit_sentinels
from filtered_websocket.publishing import direct, direct_host
from filtered_websocket.publishing.direct import DirectSender, close_senders, sender_for
from filtered_websocket.publishing.direct_host import foreign_options
from filtered_websocket.publishing.items import new_item

from ..e2e.processes import Valkey
from ..e2e.topologies import Sentinel, closed_address, silent_address
from ..layer.fake_redis import FakeRedis
from ..waiting import LIMIT, not_before, wait_until

ITEM = new_item(b"bytes")


@pytest.fixture
def fake():
    server = FakeRedis()
    yield server
    close_senders()
    server.close()


def layer_of(*servers, **options):
    hosts = [{"address": server.url} for server in servers]
    return RedisPubSubChannelLayer(hosts=hosts, **options)


def numbers(server):
    """The numbers of the batches that came, in the order in which they came."""
    return [msgpack.unpackb(data)["s"] for _, _, data in server.published]


@pytest.mark.parametrize(
    "options",
    [{}, {"prefix": "site"}, {"symmetric_encryption_keys": ["key"]}],
    ids=["plain", "prefix", "encrypted"],
)
def test_what_comes_to_redis_is_what_the_layer_would_send(fake, options):
    """The names, the choice of the host and the bytes are those of channels_redis."""
    other = FakeRedis()
    layer = layer_of(fake, other, **options)
    sender = DirectSender(layer)
    groups = [f"group {n}" for n in range(20)]
    for group in groups:
        sender.send(group, ITEM)
    sent = [list(server.published) for server in (fake, other)]
    assert all(sent)
    for server in (fake, other):
        server.published.clear()

    async def send_as_the_layer_does():
        for group in groups:
            key = group_key(group)
            await layer.group_send(key, seal(Batch("origin", key, 0, [ITEM])))

    asyncio.run(send_as_the_layer_does())
    for mine, server in zip(sent, (fake, other), strict=True):
        assert [command[1] for command in mine] == [command[1] for command in server.published]
        for (_, _, data), (_, _, expected) in zip(mine, server.published, strict=True):
            envelope = layer.deserialize(data)
            assert envelope | {"o": "origin"} == layer.deserialize(expected)
    other.close()


def test_threads_share_one_connection_and_numbers_are_in_order(fake):
    sender = DirectSender(layer_of(fake))

    def send():
        for _ in range(25):
            sender.send("news", ITEM)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(fake) == list(range(200))
    assert fake.connections == 1


def test_a_connection_that_is_cut_is_made_anew_and_the_batch_keeps_its_number(fake):
    sender = DirectSender(layer_of(fake))

    def cut_once(command):
        fake.answer = lambda command: b":1\r\n"
        raise ConnectionResetError

    sender.send("news", ITEM)
    fake.answer = cut_once
    sender.send("news", ITEM)
    sender.send("news", ITEM)
    assert numbers(fake) == [0, 1, 1, 2]


def test_a_redis_that_says_nothing_is_told_after_layer_timeout_and_its_late_word_is_no_answer(
    fake, settings
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.2}
    sender = DirectSender(layer_of(fake))
    fake.answer = lambda command: None
    with not_before(0.2), pytest.raises(PublishError, match="may have arrived"):
        sender.send("news", ITEM)
    assert wait_until(lambda: numbers(fake) == [0])
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}
    fake.answer = lambda command: b":7\r\n"
    sender.send("news", ITEM)
    assert numbers(fake) == [0, 1] and fake.connections == 2


def test_where_nobody_listens_it_is_tried_until_layer_timeout_once_and_then_at_once(
    settings, monkeypatch
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.3}
    server = FakeRedis()
    sender = DirectSender(layer_of(server))
    server.close()
    pauses, sleep = [], time.sleep

    def note(seconds):
        pauses.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(direct_host.time, "sleep", note)
    with pytest.raises(PublishError, match="it was not sent"):
        sender.send("news", ITEM)
    assert pauses
    pauses.clear()
    with pytest.raises(PublishError, match="it was not sent"):
        sender.send("news", ITEM)
    assert pauses == []


def test_a_control_event_does_not_wait_for_a_redis_that_is_known_to_be_away(fake, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 30.0}
    sender = DirectSender(layer_of(fake))
    fake.answer = lambda command: b"-ERR no\r\n"
    with pytest.raises(PublishError):
        sender.send("news", ITEM)
    fake.published.clear()
    with pytest.raises(PublishError, match="did not answer a moment ago"):
        sender.send(CONTROL, ITEM)
    assert fake.published == []
    fake.answer = lambda command: b":0\r\n"
    sender.send("news", ITEM)
    sender.send(CONTROL, ITEM)
    assert len(fake.published) == 2


@pytest.mark.parametrize("answer", [b"-NOPERM no\r\n", b"-ERR no\r\n"])
def test_what_redis_refuses_is_told_at_once(fake, answer):
    sender = DirectSender(layer_of(fake))
    fake.answer = lambda command: answer
    with pytest.raises(PublishError, match=r"Redis refused the message: .*\bno\b"):
        sender.send("news", ITEM)
    assert len(fake.published) == 1


def test_a_missing_right_is_named(fake, settings):
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": "site"}
    sender = DirectSender(layer_of(fake, prefix="live"))
    fake.answer = lambda command: b"-NOPERM No permissions to access a channel\r\n"
    with pytest.raises(PublishError) as told:
        sender.send("news", ITEM)
    rights = "&live__group__site.* &livespecific.* +subscribe +unsubscribe +publish"
    assert f"(No permissions to access a channel): its user needs {rights}" in str(told.value)


def test_a_wrong_password_is_told_at_once(fake, monkeypatch):
    sender = DirectSender(layer_of(fake))
    [host] = sender._hosts.values()
    tries = []

    def refuse():
        tries.append(1)
        raise redis.AuthenticationError("WRONGPASS")

    monkeypatch.setattr(host._connection, "connect", refuse)
    with pytest.raises(PublishError, match=r"WRONGPASS.*it was not sent"):
        sender.send("news", ITEM)
    assert tries == [1]


def test_who_is_interrupted_while_waiting_leaves_no_answer_to_the_next(fake, monkeypatch):
    """As by Ctrl-C, a Celery time limit or a greenlet that is killed."""
    sender = DirectSender(layer_of(fake))
    [host] = sender._hosts.values()

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    sender.send("news", ITEM)
    with monkeypatch.context() as patch:
        patch.setattr(host._connection, "read_response", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sender.send("news", ITEM)
    # Its connection is closed: it is read on a thread of its own, and may come last.
    assert wait_until(lambda: numbers(fake) == [0, 1])
    sender.send("news", ITEM)
    assert fake.connections == 2 and numbers(fake) == [0, 1, 2]


def test_who_waits_for_another_thread_too_long_sends_nothing(fake, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    sender = DirectSender(layer_of(fake))
    [host] = sender._hosts.values()
    with host._lock, pytest.raises(PublishError, match="not sent: what other threads"):
        sender.send("news", ITEM)
    assert fake.published == []


def test_what_the_layer_cannot_serialize_is_an_error_of_the_call(fake):
    sender = DirectSender(layer_of(fake, serializer_format="json"))
    with pytest.raises(PublishError, match="cannot serialize"):
        sender.send("news", ITEM)


def test_a_connection_of_another_shape_keeps_the_timeout_it_was_made_with(fake, monkeypatch):
    sender = DirectSender(layer_of(fake))
    [host] = sender._hosts.values()
    real = host._connection

    class Other:
        """Has what redis-py documents, and no ``_sock``."""

        def __getattr__(self, name):
            if name == "_sock":
                raise AttributeError(name)
            return getattr(real, name)

    host._connection = Other()
    sender.send("news", ITEM)
    assert len(fake.published) == 1


# For which layers


def test_one_sender_for_a_layer_and_process_and_none_for_other_layers(fake):
    class Sub(RedisPubSubChannelLayer):
        pass

    layer = layer_of(fake)
    assert sender_for(layer) is sender_for(layer) is not None
    assert sender_for(layer_of(fake)) is not sender_for(layer)
    for other in (Sub(), InMemoryChannelLayer(), RedisChannelLayer()):
        assert sender_for(other) is None


def test_two_threads_that_come_first_use_one_sender(fake, monkeypatch):
    layer = layer_of(fake)
    make, senders = direct._open_sender, []

    def late(layer):
        # Another thread was faster.
        monkeypatch.setattr(direct, "_open_sender", make)
        senders.append(sender_for(layer))
        return make(layer)

    monkeypatch.setattr(direct, "_open_sender", late)
    assert sender_for(layer) is senders[0]


def test_a_layer_of_another_shape_has_none(fake):
    layer = layer_of(fake)
    del layer._args
    assert sender_for(layer) is None


@pytest.mark.parametrize(
    ("host", "foreign"),
    [
        ({"address": "rediss://localhost", "socket_timeout": 2, "ssl_ca_certs": None}, []),
        ({"host": "a", "port": 1, "retry_on_error": [ConnectionError]}, []),
        ({"host": "a", "credential_provider": UsernamePasswordCredentialProvider("u", "p")}, []),
        ({"sentinels": [("a", 1)], "master_name": "m", "sentinel_kwargs": {"db": 1}}, []),
        ({"address": "redis://a", "retry": AsyncRetry(NoBackoff(), 1)}, ["retry"]),
        ({"host": "a", "connection_class": redis.asyncio.SSLConnection}, ["connection_class"]),
        ({"host": "a", "retry_on_error": [object]}, ["retry_on_error"]),
        ({"host": "a", "event_dispatcher": object()}, ["event_dispatcher"]),
        (
            {"sentinels": [("a", 1)], "sentinel_kwargs": {"retry": None}},
            ["sentinel_kwargs"],
        ),
    ],
)
def test_options_that_only_the_other_client_takes_are_named(host, foreign):
    assert foreign_options(host) == foreign
    sender = sender_for(RedisPubSubChannelLayer(hosts=[host]))
    assert (sender is None) == bool(foreign)
    close_senders()


@pytest.mark.parametrize(
    "host",
    [("localhost", 6379), {"address": "unix:///nowhere"}, {"address": "rediss://localhost"}, None],
)
def test_every_way_to_write_a_host_is_known(host):
    assert sender_for(RedisPubSubChannelLayer(hosts=host and [host])) is not None
    close_senders()


@pytest.fixture
def sentinel():
    valkey = Valkey()
    sentinel = Sentinel(valkey)
    yield sentinel
    close_senders()
    sentinel.stop()
    valkey.stop()


def test_sentinels_that_are_gone_or_silent_do_not_hide_the_others(sentinel, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 8}
    with silent_address() as silent:
        sentinels = [silent, closed_address(), sentinel.address]
        host = {"sentinels": sentinels, "master_name": "mymaster"}
        sender = DirectSender(RedisPubSubChannelLayer(hosts=[host]))
        sender.send("news", ITEM)
        [host] = sender._hosts.values()
        first, pool = host._connection, host.pool
        sender.send("news", ITEM)
        assert (host._connection, host.pool) == (first, pool)
        # Nothing stays open at a Sentinel.
        for one in host.pool.sentinel_manager.sentinels:
            assert not any(each._sock for each in one.connection_pool._available_connections)


def test_sentinels_that_say_nothing_share_the_time_that_is_left(settings, monkeypatch):
    """With a whole ``LAYER_TIMEOUT`` for each, three of them took three times as long."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.8}
    limits = []

    def limit(host, limit, retry):
        limited = limit_sentinels(host, limit, retry)
        limits.append((limit, limited["sentinel_kwargs"]["socket_timeout"]))
        return limited

    monkeypatch.setattr(direct_host, "limit_sentinels", limit)
    with silent_address() as silent:
        host = {"sentinels": [silent] * 3, "master_name": "mymaster"}
        sender = DirectSender(RedisPubSubChannelLayer(hosts=[host]))
        limits.clear()
        with pytest.raises(PublishError) as caught:
            sender.send("news", ITEM)
    assert "No master found for 'mymaster': no Sentinel answers" in str(caught.value)
    assert "it was not sent" in str(caught.value) and len(str(caught.value)) < 200
    left = 0.8
    for limit, share in limits:
        assert limit <= left and share == limit / 4
        left = max(left - 3 * share, 0.01)


def test_options_that_neither_client_takes_leave_it_to_the_layer_to_complain():
    assert sender_for(RedisPubSubChannelLayer(hosts=[{"address": "http://a"}])) is None
    assert sender_for(RedisPubSubChannelLayer(hosts=[{"host": "a", "no_such": 1}])) is None


def test_after_a_fork_connection_lock_and_origin_are_new(fake):
    layer = layer_of(fake)
    sender = sender_for(layer)
    sender.send("news", ITEM)
    [host] = sender._hosts.values()
    with host._lock:  # held at this moment by a thread that the child does not have
        pid = os.fork()
        if pid == 0:
            try:
                sender_for(layer).send("news", ITEM)
                os._exit(0 if sender_for(layer) is not sender else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sender.send("news", ITEM)
    origins = [msgpack.unpackb(data)["o"] for _, _, data in fake.published]
    assert numbers(fake) == [0, 0, 1] and origins[0] == origins[2] != origins[1]
    assert fake.connections == 2


def test_a_fork_that_python_does_not_tell_is_found_by_the_process_id(fake, monkeypatch):
    layer = layer_of(fake)
    sender = sender_for(layer)
    monkeypatch.setattr(direct.os, "getpid", lambda: -1)
    assert sender_for(layer) is not sender
