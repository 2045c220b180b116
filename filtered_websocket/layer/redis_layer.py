"""
The pubsub layer of channels_redis over connections of our own: what a hub needs of it.

The hosts, the host of each name, the names in Redis and the bytes of a message are the
layer's. So processes with and without this module understand each other.
"""

import asyncio
import os
import secrets
import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.serializers import MsgPackSerializer
from channels_redis.utils import create_pool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..conf import conf
from ..threads.tasks import end_tasks
from .redis_connection import OnReply, can_take_over, limit_sentinels, pack
from .redis_host import Commands, OnDone, Open, Subscriber, settle

#: Called with the bytes of a message.
OnData = Callable[[bytes], object]
OnLost = Callable[[Exception], object]

#: Connections that nobody uses are closed after so many seconds: a hub ends with its last
#: connection, and the next one may come at once.
IDLE = 10.0

_layers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, RedisLayer | None]]"
_layers = weakref.WeakKeyDictionary()
#: Those of the parent, kept after a fork: their end would close its connections.
_orphans: list[Any] = []


def redis_layer(layer: Any) -> "RedisLayer | None":
    """
    The one for ``layer`` on the running event loop. None for any class but
    channels_redis.pubsub's own, and for options with which redis-py has to do the work.
    """
    # Not a subclass, which may change messages.
    if type(layer) is not RedisPubSubChannelLayer:
        return None
    loop = asyncio.get_running_loop()
    layers = _layers.setdefault(loop, {})
    if layer not in layers:
        ours = layers[layer] = _open_layer(layer)
        if ours is not None:
            _close_with(loop, ours)
    return layers[layer]


def _open_layer(layer: RedisPubSubChannelLayer) -> "RedisLayer | None":
    try:
        return RedisLayer(layer)
    except (AttributeError, RuntimeError, TypeError, ValueError, RedisError):
        # Another shape than that of channels_redis 4, or options that redis-py refuses.
        return None


def _close_with(loop: asyncio.AbstractEventLoop, layer: "RedisLayer") -> None:
    """Close the connections when ``loop`` is closed, as channels_redis does with its own."""
    close, pid = loop.close, os.getpid()

    def close_all(self: asyncio.AbstractEventLoop) -> None:
        self.close = close  # type: ignore[method-assign]
        # It refers to the loop: the entry of the weak dict would never be removed.
        _layers.pop(self, None)
        if not (self.is_running() or self.is_closed()) and os.getpid() == pid:
            self.run_until_complete(layer.close())
        self.close()

    loop.close = types.MethodType(close_all, loop)  # type: ignore[method-assign]


def _forget() -> None:
    """After a fork the connections are the parent's."""
    _orphans.extend(_layers.items())
    _layers.clear()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)


def make_pool(host: Any) -> Any:
    """
    As channels_redis does. One for each connection: redis-py sorts a pool's Sentinels while it
    asks them, and loses some where two connections ask at the same time.
    """
    pool = create_pool(limit_sentinels(host, conf.LAYER_TIMEOUT, Retry(NoBackoff(), 0)))
    if not can_take_over(pool):
        raise ValueError("redis-py has to do the work with these options")
    return pool


class RedisLayer:
    """
    What a link needs of a layer: groups, as in Channels' layer specification, but by
    callbacks. Belongs to one event loop, whose links share it between :meth:`use` and
    :meth:`leave`.
    """

    def __init__(self, layer: Any) -> None:
        # For the names, and the host that the layer would choose; it connects to nothing.
        shape = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)
        self.prefix: str = shape.prefix
        self.deserialize = layer.deserialize
        #: Whether messages are msgpack and nothing else, so that scripts can write them.
        self.is_plain = _is_plain(layer)
        self._serialize = layer.serialize
        self._shards: list[Any] = shape._shards
        self._get_shard: Callable[[str], Any] = shape._get_shard
        self._get_group_channel_name: Callable[[str], str] = shape._get_group_channel_name
        #: The channel in Redis of a group.
        self.channel_of = self._get_group_channel_name
        self._commands = {shard: Commands(make_pool(shard.host)) for shard in self._shards}
        self._subscribers = {
            shard: Subscriber(make_pool(shard.host), self._received, self._lost)
            for shard in self._shards
        }
        #: Those of :meth:`more_commands`, by what opens them.
        self._more_commands: dict[Open, dict[Any, Commands]] = {}
        #: Who listens: to messages, and to losses of a subscriber's connection.
        self._listeners: dict[str, tuple[OnData, OnLost]] = {}
        #: Channel in Redis -> the listeners that are in this group.
        self._groups: dict[bytes, set[str]] = {}
        self._users = 0
        self._idle: asyncio.TimerHandle | None = None

    async def new_channel(self) -> str:
        """A name for :meth:`listen`; Redis knows nothing of it."""
        return f"{self.prefix}specific.{secrets.token_hex(16)}"

    async def group_send(self, group: str, message: Any) -> None:
        """Return when Redis has answered; raises its error, or TimeoutError."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.publish(group, message, partial(settle, done))
        await done

    def publish(self, group: str, message: Any, on_reply: OnReply) -> None:
        """
        Send ``message`` at the end of this turn of the event loop. ``on_reply`` is called
        once, later: with the answer or an exception, within ``LAYER_TIMEOUT``. Raises what
        the layer's serializer raises.
        """
        name = self._get_group_channel_name(group)
        command = pack(("PUBLISH", name, self._serialize(message)))
        self._commands[self._get_shard(name)].send(command, on_reply)

    def more_commands(self, open_by: Open) -> Callable[[str], tuple[str, Commands]]:
        """
        For each group the channel in Redis, and a connection to its host beside the one of
        :meth:`publish`: opened by ``open_by``, and closed with this layer.
        """
        commands = self._more_commands.get(open_by)
        if commands is None:
            commands = self._more_commands[open_by] = {
                shard: Commands(make_pool(shard.host), open_by) for shard in self._shards
            }

        def find(group: str) -> tuple[str, Commands]:
            name = self._get_group_channel_name(group)
            return name, commands[self._get_shard(name)]

        return find

    def execute(self, group: str, command: tuple[bytes | str, ...], on_reply: OnReply) -> None:
        """
        Send ``command`` to the host of ``group``, in order with what is published there;
        ``on_reply`` as in :meth:`publish`.
        """
        name = self._get_group_channel_name(group)
        self._commands[self._get_shard(name)].send(pack(command), on_reply)

    def reconnect(self, group: str) -> None:
        """
        The Redis of ``group`` is no longer the master, which only new connections find. What
        has no answer fails, and who listens is told.
        """
        shard = self._get_shard(self._get_group_channel_name(group))
        for commands in (self._commands, *self._more_commands.values()):
            commands[shard].stop()
        self._subscribers[shard].cut()

    def join(self, group: str, channel: str, on_done: OnDone) -> None:
        """
        Have ``channel`` in a group. ``on_done`` is called once, maybe at once: with None
        when Redis has subscribed, or with its refusal, or why it cannot be reached; not
        after :meth:`ignore`. The next call for this group and channel replaces it.
        """
        name = self._get_group_channel_name(group).encode()
        self._groups.setdefault(name, set()).add(channel)
        self._subscriber_of(name).change(name, True, channel, on_done)

    def part(self, group: str, channel: str, on_done: OnDone) -> None:
        """Undo :meth:`join`; ``on_done`` as there."""
        name = self._get_group_channel_name(group).encode()
        if self._remove(name, channel):
            self._subscriber_of(name).change(name, False, channel, on_done)
        else:
            on_done(None)

    def _subscriber_of(self, name: bytes) -> Subscriber:
        return self._subscribers[self._get_shard(name.decode())]

    def _remove(self, name: bytes, channel: str) -> bool:
        """Remove ``channel`` from a group; whether nobody is left in it."""
        members = self._groups.get(name, set())
        members.discard(channel)
        if not members:
            self._groups.pop(name, None)
        return not members

    def listen(self, channel: str, on_data: OnData, on_lost: OnLost) -> Callable[[], object]:
        """
        Call ``on_data`` with each message to the groups that ``channel`` is in, and
        ``on_lost`` when messages may have been missed. What it returns ends that.
        """
        self._listeners[channel] = on_data, on_lost
        return partial(self._listeners.pop, channel, None)

    def ignore(self, channel: str) -> None:
        """Undo :meth:`listen`, and leave every group, of which ``channel`` is told nothing."""
        self._listeners.pop(channel, None)
        for name, members in tuple(self._groups.items()):
            if channel in members and self._remove(name, channel):
                self._subscriber_of(name).unwant(name)

    def _received(self, name: bytes, data: bytes) -> None:
        # A listener may join or leave meanwhile.
        for channel in tuple(self._groups.get(name, ())):
            listener = self._listeners.get(channel)
            if listener is not None:
                listener[0](data)

    def _lost(self, error: Exception) -> None:
        for _, on_lost in tuple(self._listeners.values()):
            on_lost(error)

    # The connections

    def heard(self) -> set[object]:
        """For each connection for subscriptions what changes when anything arrives there."""
        heard = (subscriber.heard for subscriber in self._subscribers.values())
        return {one for one in heard if one is not None}

    def close_subscribers(self, unchanged: set[object]) -> None:
        """
        Close the connections of which :meth:`heard` is in ``unchanged``, and open others.
        Otherwise one whose other end has vanished would never receive anything again.
        """
        for subscriber in self._subscribers.values():
            if subscriber.heard in unchanged:
                subscriber.cut()

    def use(self) -> None:
        """A link uses this layer until :meth:`leave`."""
        self._users += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def leave(self) -> None:
        """Undo :meth:`use`: with the last user every attempt and subscription ends."""
        self._users -= 1
        if not self._users:
            self._idle = asyncio.get_running_loop().call_later(IDLE, self._stop)
            await end_tasks(self._stop(keep=True))

    async def close(self) -> None:
        """Close all connections; the next use opens others."""
        await end_tasks(self._stop())
        # The event loop closes their sockets in its next turn.
        await asyncio.sleep(0)

    def _stop(self, keep: bool = False) -> "list[asyncio.Task[None]]":
        if not keep and self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._groups.clear()
        self._listeners.clear()
        hosts: list[Commands | Subscriber] = [*self._commands.values()]
        for commands in self._more_commands.values():
            hosts += commands.values()
        hosts += self._subscribers.values()
        return [task for host in hosts if (task := host.stop(keep)) is not None]


def _is_plain(layer: Any) -> bool:
    serializer: Any = getattr(layer, "_serializer", None)
    is_msgpack = type(serializer) is MsgPackSerializer
    return is_msgpack and not (serializer.crypter or serializer.random_prefix_length)
