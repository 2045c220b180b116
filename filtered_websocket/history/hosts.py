"""
The Redis of each group, with any layer of channels_redis: connections that know which server
they lead to, how publications are written there, and what errors mean.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.serializers import MsgPackSerializer
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    MovedError,
    NoPermissionError,
    ResponseError,
    TryAgainError,
)

from ..conf import conf
from ..layer.envelope import Item, open_item
from ..layer.health import LOST, is_away, is_replica
from ..layer.names import needed_rights
from ..layer.redis_connection import OnLost, RedisConnection, open_connection, pack
from ..layer.redis_host import Commands, at_node, settle
from ..layer.redis_layer import RedisLayer, make_pool
from ..threads.tasks import end_tasks

#: What the scripts do, and the question for the ``run_id``, in the words of Redis' ACL.
RIGHTS = "+info +eval +evalsha +get +set +del +llen +lrange +rpush +ltrim +pexpire +pttl +publish"


def hosts_of(layer: Any) -> tuple[list[Any], Callable[[str], int]]:
    """
    The hosts of a layer, and the number of the one that a group has, by its key. Raises
    AttributeError, TypeError or ValueError for a layer of another shape than those of
    channels_redis 4.
    """
    if isinstance(layer, RedisChannelLayer):
        return list(layer.hosts), layer.consistent_hash
    if not isinstance(layer, RedisPubSubChannelLayer):
        raise TypeError(f"no layer of channels_redis: {layer!r:.80}")
    shape: Any = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)

    def number_of(key: str) -> int:
        return int(shape._shards.index(shape._get_shard(shape._get_group_channel_name(key))))

    return [shard.host for shard in shape._shards], number_of


async def open_identified(pool: Any, on_lost: OnLost) -> RedisConnection:
    """
    :func:`~filtered_websocket.layer.redis_connection.open_connection`, and ask for the
    ``run_id`` of the server, all within ``LAYER_TIMEOUT``.
    """
    async with asyncio.timeout(conf.LAYER_TIMEOUT):
        connection = await open_connection(pool, on_lost)
        try:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.send(pack(("INFO", "server")), partial(settle, answer))
            connection.run_id = find_run_id(await answer)
        except BaseException:
            connection.abort(ConnectionError("the server did not say its run_id"))
            raise
    return connection


class Hosts:
    """
    The connection to the Redis of each group. A node of a Redis Cluster refuses the keys that
    another one has, which is asked then. Belongs to the running event loop.
    """

    def __init__(self, layer: Any, redis: RedisLayer | None) -> None:
        """
        The connections are those of ``redis``, or without one this object's own. Raises as
        :func:`hosts_of`, and ValueError for options with which only redis-py can connect.
        """
        self._hosts, self._number_of = hosts_of(layer)
        self._redis = redis
        self._own: list[Commands] = []
        self._find: Callable[[str], tuple[str, Commands]]
        if redis is None:
            self._own = [Commands(make_pool(host), open_identified) for host in self._hosts]
            self._find = self._find_own
        else:
            self._find = redis.more_commands(open_identified)
        self.is_open = True
        #: Whether keys of several groups may not be in one call.
        self.is_cluster = False
        #: By address.
        self._nodes: dict[Any, Commands] = {}
        #: Slot -> the node that has it, as another one has said.
        self._owners: dict[int, Commands] = {}

    def find(self, key: str) -> tuple[str, Commands]:
        """The channel of a group in Redis (empty where nothing is published here), and where."""
        channel, commands = self._find(key)
        if self._owners:
            commands = self._owners.get(slot_of(key), commands)
        return channel, commands

    def _find_own(self, key: str) -> tuple[str, Commands]:
        return "", self._own[self._number_of(key)]

    def follow(self, key: str, moved: MovedError) -> Commands:
        """The node that has the keys of a group, as another one has said."""
        self.is_cluster = True
        node = self._nodes.get(moved.node_addr)
        if node is None:
            pool = at_node(make_pool(self._hosts[self._number_of(key)]), moved)
            node = self._nodes[moved.node_addr] = Commands(pool, open_identified)
        self._owners[slot_of(key)] = node
        return node

    def forget(self, commands: Commands) -> None:
        """It has failed: the next call asks who has the slot now."""
        if commands in self._owners.values():
            owners = self._owners.items()
            self._owners = {slot: node for slot, node in owners if node is not commands}

    def leave_replica(self, key: str, commands: Commands) -> None:
        """What ``commands`` lead to is no longer the master of this group."""
        if self._redis is not None:
            self._redis.reconnect(key)
        commands.stop()

    async def close(self) -> None:
        """Close the connections that are this object's own; what has no answer fails."""
        self.is_open = False
        stopped = [commands.stop() for commands in (*self._own, *self._nodes.values())]
        await end_tasks([opening for opening in stopped if opening is not None])
        # The event loop closes the sockets in its next turn.
        await asyncio.sleep(0)


def slot_of(key: str) -> int:
    """Of the keys of a group in a Redis Cluster: of what their names have in braces."""
    return int(key_slot(key.rpartition(".")[2].encode()))


def slot_of_key(name: bytes | str) -> int:
    """The same, by the name of one of its keys."""
    return int(key_slot(str(name).encode()))


class ItemFormat:
    """Raises AttributeError for a layer of another shape than those of channels_redis 4."""

    def __init__(self, layer: Any) -> None:
        serializer = layer._serializer
        self._crypter = serializer.crypter
        #: Whether what is written is also what subscribers read.
        self.is_plain = (
            type(serializer) is MsgPackSerializer
            and self._crypter is None
            and not serializer.random_prefix_length
        )

    def seal(self, item: Item) -> bytes:
        data: bytes = MsgPackSerializer.as_bytes(item)
        return data if self._crypter is None else self._crypter.encrypt(data)

    def open(self, data: bytes) -> Item:
        if self._crypter is not None:
            data = self._crypter.decrypt(data)
        return open_item(MsgPackSerializer.from_bytes(data))


def find_run_id(info: bytes) -> str:
    """Which server it is that has answered ``INFO server``."""
    for line in info.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "run_id" and value:
            return value
    raise RuntimeError(
        "INFO of this Redis has no run_id: after a failover nobody could tell whether"
        " publications were lost, so nothing is kept here"
    )


class SlotMoving(ResponseError):
    """
    A Redis Cluster is moving the keys of a group from one node to another. Nothing was done: a
    script sees all of them only before and after.
    """


def is_moving(error: Exception) -> bool:
    """Whether ``error`` of a script says so. MOVED does not: then all keys are elsewhere."""
    if isinstance(error, AskError | TryAgainError):
        return not isinstance(error, MovedError)
    # Of a key that the script does not name before it runs.
    return isinstance(error, ResponseError) and "a non local key" in str(error)


def explain(error: Exception, layer: Any) -> Exception:
    """
    ``error`` of a script; for a missing right, a PermissionError that names what is needed. A
    ConnectionError from a server that is not ready, or no longer the master. :exc:`SlotMoving`
    where it may pass soon.
    """
    if is_moving(error):
        return SlotMoving(
            "a Redis Cluster is moving the keys of this group to another node:"
            f" try again when it has ({type(error).__name__}: {error})"
        )
    if isinstance(error, NoPermissionError):
        rights = f"{needed_rights(layer)} ~{conf.NAMESPACE}:* {RIGHTS}"
        return PermissionError(f"Redis refuses it ({error}): its user needs {rights}")
    if is_replica(error):
        return ConnectionError(f"this Redis is no longer the master: {error}")
    if isinstance(error, ResponseError) and is_away(error):
        return ConnectionError(f"this Redis is not ready: {error}")
    return error


def may_pass(error: Exception) -> bool:
    """Whether the same may succeed at once. That a slot moves was waited for."""
    return isinstance(error, LOST) and not isinstance(error, SlotMoving)
