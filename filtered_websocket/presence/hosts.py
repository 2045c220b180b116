"""
Which Redis a group's presence is in, for every layer of channels_redis.

Where the connections are our own (:class:`.RedisLayer`), presence uses them too: a script that
publishes keeps its place among the messages. Any other layer's hosts are used with redis-py.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import MovedError

from ..conf import conf
from ..layer.health import is_replica
from ..layer.redis_connection import pack
from ..layer.redis_host import Commands, at_node
from ..layer.redis_layer import make_pool, redis_layer
from ..threads.tasks import end_tasks

Command: TypeAlias = tuple[bytes | str, ...]
OnReply: TypeAlias = Callable[[Any], object]


def open_host(layer: Any) -> "ClusterHost | PooledHost | None":
    """For ``layer`` on the running event loop, until ``close``; None if it is not on Redis."""
    try:
        if isinstance(layer, RedisPubSubChannelLayer):
            return _open_pubsub(layer)
        if isinstance(layer, RedisChannelLayer):
            return PooledHost(list(map(_pool, layer.hosts)), layer.consistent_hash)
    except (AttributeError, TypeError, ValueError):
        # Of another shape than those of channels_redis 4.
        return None
    return None


def _open_pubsub(layer: RedisPubSubChannelLayer) -> "ClusterHost":
    shape: Any = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)
    hosts = [shard.host for shard in shape._shards]

    def number_of(key: str) -> int:
        return int(shape._shards.index(shape._get_shard(shape._get_group_channel_name(key))))

    ours = redis_layer(layer)
    if ours is not None:
        return ClusterHost(RedisHost(ours), lambda group: make_pool(hosts[number_of(group)]))
    pooled = PooledHost(list(map(_pool, hosts)), number_of)
    return ClusterHost(pooled, lambda group: _pool(hosts[number_of(group)]))


def _pool(host: Any) -> Any:
    return create_pool(dict(host))


class RedisHost:
    """The connections that messages use as well."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.is_plain: bool = layer.is_plain
        self.channel_of: Callable[[str], str] = layer.channel_of
        layer.use()

    def execute(self, group: str, command: Command, on_reply: OnReply) -> None:
        """As :meth:`.RedisLayer.execute`."""
        self._layer.execute(group, command, partial(self._take, group, on_reply))

    def _take(self, group: str, on_reply: OnReply, reply: Any) -> None:
        if is_replica(reply):
            self._layer.reconnect(group)
        on_reply(reply)

    def open_node(self, pool: Any) -> "NodeHost":
        """A host with this ``pool``."""
        return NodeHost(pool)

    async def close(self) -> None:
        await self._layer.leave()


class NodeHost:
    """A node of a Redis Cluster that the layer does not use: one connection of our own."""

    def __init__(self, pool: Any) -> None:
        self._commands = Commands(pool)

    def execute(self, group: str, command: Command, on_reply: OnReply) -> None:
        """As :meth:`.RedisLayer.execute`."""
        self._commands.send(pack(command), on_reply)

    async def close(self) -> None:
        """End what is under way, and close the connection."""
        opening = self._commands.stop()
        await end_tasks([] if opening is None else [opening])
        # The event loop closes the socket in its next turn.
        await asyncio.sleep(0)


class PooledHost:
    """redis-py's client for each host; ``number_of`` says which one a group has."""

    #: Scripts cannot write what the layer's receivers read.
    is_plain = False

    def __init__(self, pools: list[Any], number_of: Callable[[str], int]) -> None:
        self._clients = [Redis(connection_pool=pool) for pool in pools]
        self._number_of = number_of
        self._tasks: set[asyncio.Task[None]] = set()

    def channel_of(self, group: str) -> str:
        """Never asked: nothing is published by a script."""
        raise NotImplementedError

    def execute(self, group: str, command: Command, on_reply: OnReply) -> None:
        """As :meth:`.RedisLayer.execute`."""
        client = self._clients[self._number_of(group)]
        task = asyncio.get_running_loop().create_task(
            _run(client, command, on_reply), name="fws-presence-call", context=contextvars.Context()
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def open_node(self, pool: Any) -> "PooledHost":
        """A host with this ``pool``."""
        return PooledHost([pool], lambda group: 0)

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        await end_tasks(self._tasks)
        for client in self._clients:
            await client.aclose(close_connection_pool=True)


async def _run(client: Any, command: Command, on_reply: OnReply) -> None:
    try:
        reply = await _reply_of(client, command)
    except BaseException:
        on_reply(ConnectionError("the connection to Redis was closed meanwhile"))
        raise
    on_reply(reply)


async def _reply_of(client: Any, command: Command) -> Any:
    """The reply, or the error."""
    try:
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            return await client.execute_command(*command)
    except Exception as error:
        if is_replica(error):
            # Only a new connection finds the master; an old one may fail to close.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(conf.LAYER_TIMEOUT):
                    await client.connection_pool.disconnect(inuse_connections=False)
        return error


class ClusterHost:
    """
    A ``host`` that may be a node of a Redis Cluster: it refuses what another node has, which
    is asked then. What a script publishes there reaches all nodes. ``pool_of`` makes a pool
    with the options of a group's host.
    """

    def __init__(self, host: RedisHost | PooledHost, pool_of: Callable[[str], Any]) -> None:
        self._host = host
        self._pool_of = pool_of
        self.is_plain = host.is_plain
        self.channel_of = host.channel_of
        self._is_open = True
        #: By address.
        self._nodes: dict[Any, NodeHost | PooledHost] = {}
        #: Slot -> the node that has it, as another one has said.
        self._owners: dict[int, NodeHost | PooledHost] = {}

    def execute(self, group: str, command: Command, on_reply: OnReply) -> None:
        """As :meth:`.RedisLayer.execute`; within twice ``LAYER_TIMEOUT`` where it is refused."""
        self._send(group, command, partial(self._take, group, command, on_reply))

    def _send(self, group: str, command: Command, on_reply: OnReply) -> None:
        owner = self._owners.get(_slot_of(group))
        execute = self._host.execute if owner is None else owner.execute
        execute(group, command, on_reply)

    def _take(self, group: str, command: Command, on_reply: OnReply, reply: Any) -> None:
        answer = partial(self._answer, group, on_reply)
        if isinstance(reply, MovedError) and self._is_open:
            self._owners[_slot_of(group)] = self._node(group, reply)
            self._send(group, command, answer)
        else:
            answer(reply)

    def _answer(self, group: str, on_reply: OnReply, reply: Any) -> None:
        if isinstance(reply, Exception):
            # The node may be away: the next call asks who has the slot now.
            self._owners.pop(_slot_of(group), None)
        on_reply(reply)

    def _node(self, group: str, moved: MovedError) -> NodeHost | PooledHost:
        if moved.node_addr not in self._nodes:
            pool = at_node(self._pool_of(group), moved)
            self._nodes[moved.node_addr] = self._host.open_node(pool)
        return self._nodes[moved.node_addr]

    async def close(self) -> None:
        """As :meth:`PooledHost.close`."""
        self._is_open = False
        for host in (self._host, *self._nodes.values()):
            await host.close()


def _slot_of(group: str) -> int:
    """Of the keys of a group in a Redis Cluster: of what their names have in braces."""
    return key_slot(group.rpartition(".")[2].encode())
