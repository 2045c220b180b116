"""
Which Redis a group's presence is in, for every layer of channels_redis.

Where the connections are our own (:class:`.RedisLayer`), presence uses them too: a script that
publishes keeps its place among the messages. Any other layer's hosts are used with redis-py.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import create_pool
from redis.asyncio import Redis

from ..conf import conf
from ..layer.redis_layer import redis_layer
from ..threads.tasks import end_tasks

Command = tuple[bytes | str, ...]


def open_host(layer: Any) -> "RedisHost | PooledHost | None":
    """For ``layer`` on the running event loop, until ``close``; None if it is not on Redis."""
    ours = redis_layer(layer)
    if ours is not None:
        return RedisHost(ours)
    try:
        if isinstance(layer, RedisPubSubChannelLayer):
            shape: Any = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)
            shards = shape._shards

            def number_of(key: str) -> int:
                channel = shape._get_group_channel_name(key)
                return int(shards.index(shape._get_shard(channel)))

            return PooledHost([shard.host for shard in shards], number_of)
        if isinstance(layer, RedisChannelLayer):
            return PooledHost(layer.hosts, layer.consistent_hash)
    except (AttributeError, TypeError, ValueError):
        # Of another shape than those of channels_redis 4.
        return None
    return None


class RedisHost:
    """The connections that messages use as well."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.is_plain: bool = layer.is_plain
        self.channel_of: Callable[[str], str] = layer.channel_of
        self.execute: Callable[[str, Command, Callable[[Any], object]], None] = layer.execute
        layer.use()

    async def close(self) -> None:
        await self._layer.leave()


class PooledHost:
    """redis-py's client for each host; ``number_of`` says which one a group has."""

    #: Scripts cannot write what the layer's receivers read.
    is_plain = False

    def __init__(self, hosts: Any, number_of: Callable[[str], int]) -> None:
        self._clients = [Redis(connection_pool=create_pool(dict(host))) for host in hosts]
        self._number_of = number_of
        self._tasks: set[asyncio.Task[None]] = set()

    def channel_of(self, group: str) -> str:
        """Never asked: nothing is published by a script."""
        raise NotImplementedError

    def execute(self, group: str, command: Command, on_reply: Callable[[Any], object]) -> None:
        """As :meth:`.RedisLayer.execute`."""
        client = self._clients[self._number_of(group)]
        task = asyncio.get_running_loop().create_task(
            _run(client, command, on_reply), name="fws-presence-call", context=contextvars.Context()
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        await end_tasks(self._tasks)
        for client in self._clients:
            await client.aclose(close_connection_pool=True)


async def _run(client: Any, command: Command, on_reply: Callable[[Any], object]) -> None:
    reply: Any
    try:
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            reply = await client.execute_command(*command)
    except Exception as error:
        reply = error
    except BaseException:
        on_reply(ConnectionError("the connection to Redis was closed meanwhile"))
        raise
    on_reply(reply)
