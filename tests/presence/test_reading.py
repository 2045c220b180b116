"""Presence as Python code of the site reads it, in every kind of process."""

import asyncio

import pytest
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import SynchronousOnlyOperation

from filtered_websocket.presence import (
    Info,
    Stats,
    apresence,
    apresence_stats,
    presence,
    presence_stats,
)
from filtered_websocket.presence.hosts import open_host
from filtered_websocket.presence.memory import ProcessStore
from filtered_websocket.presence.redis import RedisStore
from filtered_websocket.publishing.direct import close_senders

from ..e2e.topologies import Cluster
from .worlds import call, entry

WHO = {"a": Info("ann", {"mood": "good"}), "b": Info("ann"), "c": Info(None)}


@pytest.fixture(params=["pubsub", "core"])
def layer(request, settings, valkey):
    """A site with members, on Redis."""
    use_layer(settings, request.param, valkey.url)
    client = valkey.client()
    client.script_flush()
    client.close()
    asyncio.run(enter())
    yield
    close_senders()


def use_layer(settings, kind, url):
    backend = {"pubsub": RedisPubSubChannelLayer, "core": RedisChannelLayer}[kind]
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": f"{backend.__module__}.{backend.__name__}",
            "CONFIG": {"hosts": [{"address": url, "socket_timeout": None}]},
        }
    }


async def enter():
    from channels.layers import get_channel_layer

    store = RedisStore(open_host(get_channel_layer()), 60.0)
    for key, info in WHO.items():
        await call(store, "o", "g", (key, entry(*info)))
    await store.close()


def test_a_view_reads_it(layer):
    assert presence("g") == WHO
    assert presence_stats("g") == Stats(3, 2)
    assert presence("nobody") == {} and presence_stats("nobody") == Stats(0, 0)


async def test_an_async_view_reads_it(settings, valkey):
    use_layer(settings, "pubsub", valkey.url)
    await enter()
    assert await apresence("g") == WHO
    assert await apresence_stats("g") == Stats(3, 2)


async def test_on_an_event_loop_the_name_of_the_right_function_is_told():
    with pytest.raises(SynchronousOnlyOperation, match=r"^presence\(\) .* await apresence\(\)"):
        presence("g")
    with pytest.raises(SynchronousOnlyOperation, match=r"await apresence_stats\(\)"):
        presence_stats("g")


@pytest.mark.parametrize("group", ["", None, "x" * 1025])
def test_what_is_no_group_is_refused(group):
    with pytest.raises((TypeError, ValueError), match="a group name"):
        presence(group)


@pytest.mark.parametrize("backend", [None, "channels.layers.InMemoryChannelLayer"])
async def test_without_redis_it_is_that_of_this_process(settings, backend):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}} if backend else {}
    store = ProcessStore(lambda group, events: None, 60.0)
    await call(store, "o", "g", ("a", entry("ann")))
    assert await apresence("g") == {"a": Info("ann")}
    assert await asyncio.to_thread(presence, "g") == {"a": Info("ann")}
    assert await asyncio.to_thread(presence_stats, "g") == Stats(1, 1)
    await store.close()


@pytest.mark.parametrize("kind", ["pubsub", "core"])
def test_where_redis_is_away_the_caller_is_told(settings, kind):
    use_layer(settings, kind, "redis://127.0.0.1:1")
    with pytest.raises(ConnectionError, match="cannot read who is in 'g': "):
        presence("g")
    with pytest.raises(ConnectionError, match="cannot read who is in 'g': "):
        asyncio.run(apresence("g"))
    close_senders()


async def test_every_node_of_a_cluster_is_asked(settings):
    cluster = await asyncio.to_thread(Cluster)
    try:
        for node in cluster.nodes:
            use_layer(settings, "pubsub", node.url)
            await enter()
            assert await apresence("g") == WHO
            assert await asyncio.to_thread(presence, "g") == WHO
            assert await asyncio.to_thread(presence_stats, "g") == Stats(3, 2)
    finally:
        close_senders()
        await asyncio.to_thread(cluster.stop)


@pytest.fixture
def senders():
    yield
    close_senders()


@pytest.mark.parametrize("rules", ["+@all", "+eval +evalsha ~*", "+eval +evalsha ~other:*"])
def test_a_missing_right_is_named(settings, valkey, senders, rules):
    client = valkey.client()
    client.execute_command("ACL", "SETUSER", "live", "on", ">x", "+@connection", *rules.split())
    client.close()
    use_layer(settings, "pubsub", valkey.url.replace("redis://", "redis://live:x@"))
    for read in (presence, lambda group: asyncio.run(apresence(group))):
        with pytest.raises(PermissionError, match=r"its user needs ~fws:\* \+evalsha "):
            read("g")
