"""
Sends to Redis on the caller's own thread, with redis-py's plain client: for processes that
serve no WebSockets.

::

    send -> number -> PUBLISH -> Redis has answered -> return

No event loop, no thread, nothing to flush: whatever ends the process afterwards, Redis has
the message; and under gevent a greenlet stays a greenlet.
"""

import os
import time
from functools import partial
from typing import Any

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from redis.exceptions import MovedError

from ..conf import conf
from ..exceptions import PublishError
from ..history.base import Position
from ..history.scripts import Arguments, Script
from ..layer.envelope import CONTROL, Item, group_key, unseal
from .batches import Keep
from .direct_host import Host
from .queue import forward_now

#: (process, layer) -> its sender, or None. No lock: one could be held at a fork.
_senders: "dict[tuple[int, Any], DirectSender | None]" = {}


def sender_for(layer: Any) -> "DirectSender | None":
    """The sender for ``layer`` in this process; None if the layer needs an event loop."""
    key = os.getpid(), layer
    if key not in _senders:
        # If two threads come at once, one sender is dropped before it has connected.
        _senders.setdefault(key, _open_sender(layer))
    return _senders[key]


def close_senders() -> None:
    """Close the connections; after a fork those of the parent stay open there."""
    _senders.clear()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=close_senders)


def _open_sender(layer: Any) -> "DirectSender | None":
    # Not a subclass, which may change messages.
    if type(layer) is not RedisPubSubChannelLayer:
        return None
    try:
        return DirectSender(layer)
    except (AttributeError, RuntimeError, TypeError, ValueError, redis.RedisError):
        # Another shape than that of channels_redis 4, or options that only redis.asyncio takes.
        return None


class DirectSender:
    """
    Sends to the Redis hosts of one pubsub layer. Any thread; for one process, not for what
    is forked from it. In order per thread, and per group and process.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        # Never used on an event loop: for the names and the host that the layer would choose.
        self._shape = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)
        self._hosts = {shard: Host(shard.host, layer, self._shape) for shard in self._shape._shards}

    def send(self, group: str, item: Item, keep: Keep | None = None) -> Position | None:
        """
        Return when Redis has ``item``; its position, where it is kept in a history.
        :exc:`PublishError` after ``LAYER_TIMEOUT``; it says whether the message may have
        arrived all the same.
        """
        key = group_key(group)
        channel, host = self._find(key)
        if group == CONTROL and host.is_away:
            # A script that saves many users would wait each time. RECHECK finds the change.
            raise PublishError("not sent: Redis did not answer a moment ago")
        position = host.send(channel, key, item, keep)
        if conf.CHANNELS_GROUPS and not (position and position.repeated):
            forward_now(group, item, partial(self._send_event, group))
        return position

    def _send_event(self, group: str, event: dict[str, Any]) -> None:
        channel, _ = self._find(group)
        self.execute(group, ("PUBLISH", channel, self.layer.serialize(event)))

    def ask(self, item: Item, seconds: float) -> list[Item]:
        """
        Send ``item`` to the control group; what arrives there within ``seconds``, ``item``
        included. Raises as :meth:`send`, and what redis-py raises.
        """
        channel, host = self._find(group_key(CONTROL))
        items: list[Item] = []
        client: Any = redis.Redis(connection_pool=host.pool)
        with client.pubsub() as pubsub:
            pubsub.subscribe(channel)
            # That Redis has subscribed: answers could come before.
            pubsub.get_message(timeout=conf.LAYER_TIMEOUT)
            self.send(CONTROL, item)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                message = pubsub.get_message(timeout=left)
                if message is not None and message["type"] == "message":
                    items += self._open(message["data"])
        return items

    def execute(self, group: str, command: tuple[bytes | str, ...]) -> Any:
        """
        The answer of the Redis of ``group`` (its name on the layer), within ``LAYER_TIMEOUT``.
        Raises what redis-py raises.
        """
        _, host = self._find(group)
        client: Any = redis.Redis(connection_pool=host.pool)
        try:
            return client.execute_command(*command)
        except MovedError as error:
            # Of a Redis Cluster, of which another node has the key.
            return host.ask_node(error, command)

    def run_script(self, key: str, script: Script, arguments: tuple[Arguments, Arguments]) -> Any:
        """
        What a script of histories answers, for the group with this name on the layer. Raises
        as :meth:`send`, with the error of redis-py as its cause.
        """
        _, host = self._find(key)
        return host.run_script(script, *arguments)

    def _find(self, key: str) -> "tuple[str, Host]":
        channel = self._shape._get_group_channel_name(key)
        return channel, self._hosts[self._shape._get_shard(channel)]

    def _open(self, data: Any) -> list[Item]:
        try:
            return unseal(self.layer.deserialize(data)).items
        except Exception:
            return []  # whatever somebody else publishes there
