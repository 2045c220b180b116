"""
One Redis for :class:`~filtered_websocket.publishing.direct.DirectSender`: redis-py's plain
client, connected as the layer's own would be.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
import redis.sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import MovedError
from redis.retry import Retry

from ..conf import conf
from ..exceptions import PublishError
from ..history.base import Position
from ..history.hosts import ItemFormat, SlotMoving, find_run_id, slot_of_key
from ..history.hosts import explain as explain_script
from ..history.scripts import (
    APPEND,
    Arguments,
    Renewals,
    Script,
    answered_positions,
    append_all,
    append_arguments,
)
from ..layer.envelope import Batch, Item, Stamper, seal
from ..layer.names import explain
from ..layer.redis_connection import SOCKET_LIMITS, limit_sentinels
from ..layer.redis_host import at_node
from ..threads.tasks import pause
from .batches import Keep

#: Errors after which another attempt may succeed; those of ``LASTING`` are excepted.
PASSING = (OSError, redis.ConnectionError, redis.TimeoutError, SlotMoving)
LASTING = (redis.AuthenticationError, redis.exceptions.AuthorizationError, PermissionError)
#: Options of redis.asyncio for which the plain client has its own classes.
OWN = ("retry", "connection_class", "parser_class", "encoder_class", "redis_connect_func")


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
    # Retries happen in ``_try``, which repeats the same batch.
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


class Host:
    """
    One Redis: one connection, one lock, one origin. ``node`` says which one of a Redis Cluster
    it is, where another one has named it: for scripts only.
    """

    def __init__(
        self, options: Mapping[str, Any], layer: Any, shape: Any, node: MovedError | None = None
    ) -> None:
        self._layer = layer
        self._node = node
        self._serialize = layer.serialize
        #: For the names.
        self._shape = shape
        self._format = ItemFormat(layer)
        self._options = options
        self._renew(conf.LAYER_TIMEOUT)
        self._lock = threading.Lock()
        self._stamper = Stamper()
        self._renewals = Renewals()
        self._failed_at = float("-inf")
        #: Which server the connection leads to, once that was asked.
        self._run_id = ""
        #: Nodes of a Redis Cluster, by address; and slot -> the one that has it.
        self._nodes: dict[Any, Host] = {}
        self._owners: dict[int, Host] = {}

    def _renew(self, limit: float) -> None:
        # A connection of Sentinel's refers to its pool weakly.
        self.pool: Any = _pool(self._options, limit)
        if self._node is not None:
            at_node(self.pool, self._node)
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

    def send(self, channel: str, key: str, item: Item, keep: Keep | None) -> Position | None:
        # Number and send in one turn: receivers must see the numbers in order.
        with self._turn() as deadline:
            batch = self._stamper.stamp(key, [item])
            try:
                if keep is None:
                    self._try(partial(self._publish, channel, self._seal(batch)), deadline)
                    return None
                step = partial(self._append, channel, batch, keep)
                position: Position = self._try(step, deadline)
                return position
            except (TypeError, ValueError) as error:
                raise PublishError(f"the channel layer cannot serialize this: {error}") from error

    def run_script(self, script: Script, keys: Arguments, arguments: Arguments) -> Any:
        """What a script of histories answers; PublishError as :meth:`send`."""
        with self._turn() as deadline:
            return self._try(partial(self._run_at_owner, script, keys, arguments), deadline)

    @contextmanager
    def _turn(self) -> Iterator[float]:
        """``with``: alone on the connection. Gives the deadline, by the monotonic clock."""
        deadline = time.monotonic() + conf.LAYER_TIMEOUT
        if not self._lock.acquire(timeout=conf.LAYER_TIMEOUT):
            raise PublishError(
                "not sent: what other threads of this process publish waits for Redis"
            )
        try:
            yield deadline
        finally:
            self._lock.release()

    def _seal(self, batch: Batch) -> bytes:
        data: bytes = self._serialize(seal(batch))
        return data

    def _publish(self, channel: str, data: bytes) -> None:
        self._ask("PUBLISH", channel, data)

    def _append(self, channel: str, batch: Batch, keep: Keep) -> Position:
        """The same batch again appends nothing, and is sent again."""
        publishes = self._format.is_plain
        items = [self._format.seal(item) for item in batch.items]
        target = channel if publishes else ""
        now = time.monotonic()
        renews = self._renewals.is_due(batch.key, keep.retention, now)
        one = append_arguments(batch, items, keep.retention, target, keep.idempotency_key, renews)
        [answer] = answered_positions(self._run_at_owner(APPEND, *append_all([one])))
        if renews:
            self._renewals.note(batch.key, now)
        # One batch is on its way at a time, so that no later one has been appended.
        position = answer or Position("", 0)
        if not (publishes or position.repeated):
            placed = batch._replace(first=position.offset, epoch=position.epoch)
            self._publish(channel, self._seal(placed))
        return position

    def _run_at_owner(self, script: Script, keys: Arguments, arguments: Arguments) -> Any:
        """Run at the node of a Redis Cluster that has the keys."""
        slot = slot_of_key(keys[0])
        if slot not in self._owners:
            try:
                return self._run(script, keys, arguments)
            except MovedError as moved:
                address = moved.node_addr
                if address not in self._nodes:
                    self._nodes[address] = Host(self._options, self._layer, self._shape, moved)
                self._owners[slot] = self._nodes[address]
        node = self._owners[slot]
        try:
            node._connect(time.monotonic() + conf.LAYER_TIMEOUT)
            return node._run(script, keys, arguments)
        except BaseException:
            # Who has the slot now is asked anew.
            self._owners.pop(slot, None)
            node._connection.disconnect()
            node._run_id = ""
            raise

    def _run(self, script: Script, keys: Arguments, arguments: Arguments) -> Any:
        try:
            if not self._run_id:
                self._run_id = find_run_id(self._ask("INFO", "server"))
            try:
                return self._ask(*script.call(keys, self._run_id, arguments))
            except redis.exceptions.NoScriptError:
                return self._ask(*script.call_with_source(keys, self._run_id, arguments))
        except redis.ResponseError as error:
            raise explain_script(error, self._shape) from error

    def _ask(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response(disable_decoding=True)

    def _try(self, step: Callable[[], Any], deadline: float) -> Any:
        """Try until ``deadline``; receivers drop repetitions."""
        # During an outage there is one attempt only, so that not every message waits.
        tries_again = not self.is_away
        failures, may_have_arrived = 0, False
        while True:
            try:
                self._connect(deadline)
                may_have_arrived = True
                answer = step()
            except BaseException as error:
                # The next command must not get an unread answer, or follow half a command.
                self._connection.disconnect()
                self._run_id = ""
                if not isinstance(error, (*PASSING, redis.RedisError)):
                    raise
                error = explain(error, self._shape)
                failures += 1
                left = deadline - time.monotonic()
                if not tries_again or left <= 0 or not _may_pass(error):
                    self._failed_at = time.monotonic()
                    raise _publish_error(error, may_have_arrived) from error
                time.sleep(min(pause(failures), left))
            else:
                self._failed_at = float("-inf")
                return answer

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
