"""On which Redis a group's presence is, for each layer of channels_redis."""

import asyncio

import pytest
import redis
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import ConnectionPool
from redis.exceptions import MovedError

from filtered_websocket.layer.envelope import group_key
from filtered_websocket.presence.base import Info
from filtered_websocket.presence.hosts import ClusterHost, PooledHost, open_host
from filtered_websocket.presence.redis import RedisStore

from ..e2e.processes import Valkey
from ..e2e.topologies import Cluster
from ..layer.scripted_redis import ScriptedRedis
from .worlds import call, entry


class Odd(RedisPubSubChannelLayer):
    """May change messages: its connections are not taken over."""


@pytest.fixture(scope="module")
def other():
    valkey = Valkey()
    yield valkey
    valkey.stop()


@pytest.mark.parametrize(
    ("make", "publishes"),
    [
        (lambda url: RedisChannelLayer(hosts=[{"address": url, "socket_timeout": None}]), False),
        (lambda url: Odd(hosts=[url]), False),
        (lambda url: RedisPubSubChannelLayer([url], symmetric_encryption_keys=["s" * 32]), False),
        (lambda url: RedisPubSubChannelLayer(hosts=[url]), True),
    ],
    ids=["core", "subclass", "encrypted", "plain"],
)
async def test_presence_is_the_same_on_every_layer(make, publishes, valkey):
    host = open_host(make(valkey.url))
    store = RedisStore(host, 60.0)
    assert store.publishes == publishes
    answer = await call(store, "o", "g", ("a", entry("ann")))
    assert answer.after == 1 and answer.events[0].info == Info("ann")
    assert (await store.members("g")).infos == {"a": Info("ann")}
    await call(store, "o", "g", ("a", None))
    await store.close()


@pytest.mark.parametrize("kind", [Odd, RedisPubSubChannelLayer, RedisChannelLayer])
async def test_each_group_is_on_the_host_that_the_layer_has_for_it(kind, valkey, other):
    hosts = [{"address": one.url, "socket_timeout": None} for one in (valkey, other)]
    store = RedisStore(open_host(kind(hosts=hosts)), 60.0)
    for number in range(20):
        await call(store, "o", f"g{number}", ("a", entry()))
    counts = []
    for one in (valkey, other):
        client = one.client()
        counts.append(len(client.keys("*:l")))
        client.flushall()
        client.close()
    assert sum(counts) == 20 and all(counts)
    await store.close()


async def test_what_is_not_on_redis_has_no_host():
    assert open_host(InMemoryChannelLayer()) is None
    assert open_host(object()) is None
    strange = Odd(hosts=[])
    strange._args = None
    assert open_host(strange) is None


async def test_a_call_that_is_under_way_at_the_end_fails(valkey):
    host = open_host(Odd(hosts=[valkey.url]))
    replies = []
    host.execute(group_key("g"), ("BLPOP", "nothing", "0"), replies.append)
    await asyncio.sleep(0)
    await host.close()
    [error] = replies
    assert isinstance(error, ConnectionError)
    with pytest.raises(NotImplementedError):
        host.channel_of("g")


async def test_a_call_without_an_answer_fails_in_time(valkey, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    host = open_host(Odd(hosts=[valkey.url]))
    assert isinstance(host._host, PooledHost)
    reply = asyncio.get_running_loop().create_future()
    host.execute(group_key("g"), ("BLPOP", "nothing", "0"), reply.set_result)
    # redis-py makes its own of it.
    assert isinstance(await reply, (TimeoutError, redis.TimeoutError))
    await host.close()


READONLY = b"-READONLY You can't write against a read only replica.\r\n"


@pytest.mark.parametrize("kind", [Odd, RedisPubSubChannelLayer, RedisChannelLayer])
async def test_a_redis_that_is_no_master_any_more_is_left(kind):
    """Only a new connection finds who is."""
    async with ScriptedRedis() as server:
        server.answer = lambda command: READONLY
        host = open_host(kind(hosts=[server.url]))
        for count in (1, 2):
            reply = asyncio.get_running_loop().create_future()
            host.execute(group_key("g"), ("SET", "a", "b"), reply.set_result)
            assert isinstance(await reply, redis.ReadOnlyError)
            assert server.connections == count
        await host.close()


# A Redis Cluster


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("kind", [Odd, RedisPubSubChannelLayer])
async def test_in_a_cluster_each_group_is_on_the_node_that_has_its_slot(kind, cluster):
    one, other = (RedisStore(open_host(kind(hosts=[node.url])), 60.0) for node in cluster.nodes[:2])
    for number in range(20):
        await call(one, "o", f"g{number}", ("a", entry("ann")))
        await call(other, "p", f"g{number}", ("b", entry("bob")))
    for store in (one, other):
        assert await store.stats("g7") == (2, 2)
        assert set((await store.members("g7")).entries) == {"a", "b"}
    counts = []
    for node in cluster.nodes[1:]:
        client = node.client()
        counts.append(len(client.keys("*:l")))
        client.flushall()
        client.close()
    assert sum(counts) == 20 and all(counts)
    await one.close()
    await other.close()


class Scripted:
    """A host, and the only node that it knows of: each answers what the test gives it."""

    is_plain = True

    def __init__(self, node=None):
        self.replies = []
        self.node = node
        self.opened = []

    def channel_of(self, group):
        return group

    def open_node(self, pool):
        self.opened.append(pool.connection_kwargs["port"])
        return self.node

    def execute(self, group, command, on_reply):
        on_reply(self.replies.pop(0))

    async def close(self):
        self.replies = None


async def test_who_has_a_slot_is_asked_again_after_each_error():
    node = Scripted()
    seed = Scripted(node)
    host = ClusterHost(seed, lambda group: ConnectionPool())
    key, answers = group_key("g"), []

    def ask():
        host.execute(key, ("GET", "x"), answers.append)
        return answers[-1]

    lost, moved = ConnectionError(), MovedError("1 127.0.0.1:7001")
    seed.replies, node.replies = [moved], ["here", "here, at once", lost]
    assert [ask(), ask(), ask()] == ["here", "here, at once", lost]
    seed.replies, node.replies = [moved], ["here again"]
    assert ask() == "here again"
    # It has moved once more, and then again: not followed for ever.
    node.replies = [moved, moved]
    assert ask() is moved
    seed.replies, node.replies = [moved, moved], [lost, "back"]
    assert [ask(), ask()] == [lost, "back"] and not seed.replies
    assert seed.opened == [7001]


async def test_what_another_node_has_is_not_asked_for_after_the_end():
    seed = Scripted()
    host = ClusterHost(seed, lambda group: ConnectionPool())
    answers = []
    await host.close()
    seed.replies = [MovedError("1 127.0.0.1:7001")]
    host.execute(group_key("g"), ("GET", "x"), answers.append)
    assert [type(one) for one in answers] == [MovedError] and seed.opened == []
