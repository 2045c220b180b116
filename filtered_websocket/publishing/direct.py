"""
Sends to Redis on the caller's own thread, with redis-py's plain client: for processes that
serve no WebSockets.

::

    send -> number -> PUBLISH -> Redis has answered -> return

No event loop, no thread, nothing to flush: whatever ends the process afterwards, Redis has
the message; and under gevent a greenlet stays a greenlet.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
import redis.sentinel
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import MovedError
from redis.retry import Retry

from ..conf import conf
from ..exceptions import PublishError
from ..layer.envelope import CONTROL, Item, Stamper, group_key, seal, unseal
from ..layer.names import explain
from ..layer.redis_connection import SOCKET_LIMITS, limit_sentinels
from ..layer.redis_host import at_node
from ..threads.tasks import pause

#: Errors after which another attempt may succeed; those of ``LASTING`` are excepted.
PASSING = (OSError, redis.ConnectionError, redis.TimeoutError)
LASTING = (redis.AuthenticationError, redis.exceptions.AuthorizationError, PermissionError)
#: Options of redis.asyncio for which the plain client has its own classes.
OWN = ("retry", "connection_class", "parser_class", "encoder_class", "redis_connect_func")


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


def foreign_options(host: Mapping[str, Any]) -> list[str]:
    """Of one entry of a layer's hosts, the options that only redis.asyncio is sure to take."""
    return [name for name, value in host.items() if name in OWN or not _is_plain(value)]


def _is_plain(value: Any) -> bool:
    """Whether ``value`` means the same to both clients of redis-py."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values())) and not set(OWN) & set(value)
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    if isinstance(value, type):
        return issubclass(value, Exception)  # retry_on_error
    return value is None or isinstance(value, str | bytes | int | float | CredentialProvider)


def _pool(host: Mapping[str, Any], limit: float) -> Any:
    """
    As ``channels_redis.utils.create_pool``, of the plain client. ``limit`` is how long
    connecting and an answer may take, seconds. Connects to nothing.
    """
    if foreign := foreign_options(host):
        raise ValueError(f"only redis.asyncio takes {', '.join(foreign)}")
    # Retries happen in ``_send``, which repeats the same batch.
    retry = Retry(NoBackoff(), 0)
    options: dict[str, Any] = {**limit_sentinels(host, limit, retry), "retry": retry}
    for name in SOCKET_LIMITS:
        if options.get(name) is None:
            options[name] = limit
    if "address" in options:
        return redis.ConnectionPool.from_url(options.pop("address"), **options)
    if options.get("master_name") is None:
        options.pop("master_name", None)
        return redis.ConnectionPool(**options)
    sentinel: Any = redis.sentinel  # which has no annotations
    asking = options.pop("sentinel_kwargs")
    asked = sentinel.Sentinel(options.pop("sentinels"), sentinel_kwargs=asking)
    return sentinel.SentinelConnectionPool(options.pop("master_name"), asked, **options)


class DirectSender:
    """
    Sends to the Redis hosts of one pubsub layer. Any thread; for one process, not for what
    is forked from it. In order per thread, and per group and process.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        # Never used on an event loop: for the names and the host that the layer would choose.
        self._shape = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)
        self._hosts = {shard: _Host(shard.host, self._shape) for shard in self._shape._shards}

    def send(self, group: str, item: Item) -> None:
        """
        Return when Redis has ``item``. :exc:`PublishError` after ``LAYER_TIMEOUT``; it says
        whether the message may have arrived all the same.
        """
        key = group_key(group)
        channel, host = self._find(key)
        if group == CONTROL and host.is_away:
            # A script that saves many users would wait each time. RECHECK finds the change.
            raise PublishError("not sent: Redis did not answer a moment ago")
        host.send(channel, key, item, self.layer.serialize)

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

    def _find(self, key: str) -> "tuple[str, _Host]":
        channel = self._shape._get_group_channel_name(key)
        return channel, self._hosts[self._shape._get_shard(channel)]

    def _open(self, data: Any) -> list[Item]:
        try:
            return unseal(self.layer.deserialize(data)).items
        except Exception:
            return []  # whatever somebody else publishes there


class _Host:
    """One Redis: one connection, one lock, one origin."""

    def __init__(self, options: Mapping[str, Any], layer: Any) -> None:
        self._layer = layer
        self._options = options
        self._renew(conf.LAYER_TIMEOUT)
        self._lock = threading.Lock()
        self._stamper = Stamper()
        self._failed_at = float("-inf")

    def _renew(self, limit: float) -> None:
        # A connection of Sentinel's refers to its pool weakly.
        self.pool: Any = _pool(self._options, limit)
        self._connection = self.pool.make_connection()

    def ask_node(self, moved: MovedError, command: tuple[bytes | str, ...]) -> Any:
        """The answer of another node, by a connection of its own."""
        pool = at_node(_pool(self._options, conf.LAYER_TIMEOUT), moved)
        client: Any = redis.Redis(connection_pool=pool)
        try:
            return client.execute_command(*command)
        finally:
            pool.disconnect()

    @property
    def is_away(self) -> bool:
        """Whether the last send failed, less than ``LAYER_TIMEOUT`` ago."""
        is_away: bool = time.monotonic() - self._failed_at < conf.LAYER_TIMEOUT
        return is_away

    def send(self, channel: str, key: str, item: Item, serialize: Any) -> None:
        deadline = time.monotonic() + conf.LAYER_TIMEOUT
        if not self._lock.acquire(timeout=conf.LAYER_TIMEOUT):
            raise PublishError(
                "not sent: what other threads of this process publish waits for Redis"
            )
        # Number and send under one lock: receivers must see the numbers in order.
        try:
            envelope = seal(self._stamper.stamp(key, [item]))
            self._send(channel, serialize(envelope), deadline)
        except (TypeError, ValueError) as error:
            raise PublishError(f"the channel layer cannot serialize this: {error}") from error
        finally:
            self._lock.release()

    def _send(self, channel: str, data: bytes, deadline: float) -> None:
        """Try until ``deadline``; receivers drop repetitions."""
        # During an outage there is one attempt only, so that not every message waits.
        tries_again = not self.is_away
        failures, may_have_arrived = 0, False
        while True:
            try:
                self._connect(deadline)
                may_have_arrived = True
                self._connection.send_command("PUBLISH", channel, data)
                self._connection.read_response()
            except BaseException as error:
                # The next command must not get an unread answer, or follow half a command.
                self._connection.disconnect()
                if not isinstance(error, (*PASSING, redis.RedisError)):
                    raise
                error = explain(error, self._layer)
                failures += 1
                left = deadline - time.monotonic()
                if not tries_again or left <= 0 or not _may_pass(error):
                    self._failed_at = time.monotonic()
                    raise _publish_error(error, may_have_arrived) from error
                time.sleep(min(pause(failures), left))
            else:
                self._failed_at = float("-inf")
                return

    def _connect(self, deadline: float) -> None:
        """Connect if necessary; the time that is left becomes the socket's timeout."""
        left = max(deadline - time.monotonic(), 0.01)
        # Of one that was connected before, where redis-py has the shape we know.
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            sock.settimeout(left)
        elif self._sentinels:
            # They are asked again, and have a share of the time that is left.
            self._renew(left)
        connection = self._connection
        connection.socket_timeout = connection.socket_connect_timeout = left
        try:
            connection.connect()
        finally:
            for sentinel in self._sentinels:
                sentinel.connection_pool.disconnect()

    @property
    def _sentinels(self) -> Sequence[Any]:
        sentinels: Sequence[Any]
        sentinels = getattr(getattr(self.pool, "sentinel_manager", None), "sentinels", ())
        return sentinels


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, PASSING) and not isinstance(error, LASTING)


def _publish_error(cause: Exception, may_have_arrived: bool) -> PublishError:
    if isinstance(cause, redis.ResponseError | PermissionError):
        return PublishError(f"Redis refused the message: {cause}")
    ending = "it may have arrived all the same" if may_have_arrived else "it was not sent"
    # redis-py 8 leaves the words out of an error's repr().
    return PublishError(
        f"Redis did not take the message: {type(cause).__name__}: {cause}; {ending}"
    )
