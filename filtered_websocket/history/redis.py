"""
The histories in Redis, for all processes: on the host where the layer has the group.

One call of a script appends the batches that go out together, and where it can also publishes
them. Each new connection asks for the server's ``run_id``, which the scripts are given.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from redis.exceptions import ClusterCrossSlotError, MovedError, NoScriptError, ResponseError

from ..conf import conf
from ..layer.envelope import Batch
from ..layer.health import is_away, is_replica
from ..layer.redis_connection import OnReply, RedisConnection, pack
from ..layer.redis_host import Commands, settle
from ..layer.redis_layer import RedisLayer
from ..logs import LogThrottle, get_logger
from ..threads.tasks import pause
from .base import OnAppended, Page, Position, Publication, Retention, StaleBatch
from .hosts import Hosts, ItemFormat, explain, is_moving
from .scripts import (
    APPEND,
    FORGET,
    READ,
    Arguments,
    Renewals,
    Script,
    answered_positions,
    append_all,
    append_arguments,
    forget_arguments,
    read_arguments,
)

logger = get_logger(__name__)
#: Most batches, and about the most bytes, of one call: Redis does nothing else meanwhile.
MAX_TOGETHER = 32
MAX_TOGETHER_BYTES = 262_144
#: Keys and arguments of a call that has none yet.
NOTHING: tuple[Arguments, Arguments] = ((), ())
_throttle = LogThrottle()


class RedisHistory:
    """
    A :class:`~filtered_websocket.history.base.HistoryStore` in the Redis of a layer of
    channels_redis. Belongs to the running event loop, until :meth:`close`.
    """

    def __init__(self, layer: Any, redis: RedisLayer | None = None) -> None:
        """
        With ``redis``, that of ``layer``, its connections are used, and what is appended is
        published where it can be. Raises as :class:`.Hosts`.
        """
        self.layer = layer
        self.hosts = Hosts(layer, redis)
        self._find = self.hosts.find
        self._format = ItemFormat(layer)
        #: Those that others can join, until they are written.
        self.open_calls: dict[Commands, _Append] = {}
        self.renewals = Renewals()
        self.loop = asyncio.get_running_loop()
        self.publishes = self._format.is_plain and redis is not None
        #: For each Redis a group that it was asked for.
        self.asked: dict[Commands, str] = {}

    async def close(self) -> None:
        await self.hosts.close()

    def append(
        self,
        batch: Batch,
        retention: Retention,
        on_done: OnAppended,
        idempotency_key: str = "",
    ) -> None:
        channel, commands = self._find(batch.key)
        seal = self._format.seal
        items = [seal(item) for item in batch.items]
        target = channel if self.publishes else ""
        now = self.loop.time()
        renews = self.renewals.is_due(batch.key, retention, now)
        arguments = append_arguments(batch, items, retention, target, idempotency_key, renews)
        call = self.open_calls.get(commands)
        if call is None:
            call = _Append(self, batch.key)
            if not self.hosts.is_cluster:
                self.open_calls[commands] = call
            call.send()
        call.add(_Batch(arguments, on_done, batch.key, batch.origin, now if renews else None))

    async def read(
        self,
        key: str,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Page:
        reply = await self._ask(key, READ, read_arguments(key, since, limit, reverse))
        return open_page(self._format, key, reply, reverse)

    async def tops(self, keys: Iterable[str]) -> dict[str, Position]:
        # All are written together.
        asked = {key: self._ask_top(key) for key in keys}
        replies = await asyncio.gather(*asked.values())
        return {
            key: Position(reply[0].decode(), reply[1])
            for key, reply in zip(asked, replies, strict=True)
        }

    async def forget(self, key: str) -> None:
        await self._ask(key, FORGET, forget_arguments(key))

    async def answers(self) -> bool:
        """Whether every Redis that was asked before answers now; a refusal is an answer."""
        asked = map(self._ask_top, self.asked.values() if self.hosts.is_open else ())
        replies = await asyncio.gather(*asked, return_exceptions=True)
        return not any(isinstance(one, Exception) and is_away(one) for one in replies)

    def _ask_top(self, key: str) -> "asyncio.Future[Any]":
        return self._ask(key, READ, read_arguments(key, None, 0, False))

    def _ask(
        self, key: str, script: Script, arguments: tuple[Arguments, Arguments]
    ) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        _Call(self, key, script, arguments, partial(settle, answer)).send()
        return answer


class _Call:
    """
    One run of a script for a group; ``on_reply`` is called once, after :meth:`send`. While a
    Redis Cluster moves the keys it is tried again, for ``LAYER_TIMEOUT``.
    """

    # Not closures: with many publications on their way the garbage collector looks at all.
    __slots__ = (
        *("_arguments", "_commands", "_failures", "_key", "_keys", "_may_move", "_on_reply"),
        *("_script", "_store", "_until"),
    )

    def __init__(
        self,
        store: RedisHistory,
        key: str,
        script: Script,
        arguments: tuple[Arguments, Arguments],
        on_reply: OnReply,
    ) -> None:
        self._store = store
        self._key = key
        _, self._commands = store.hosts.find(key)
        self._may_move = True
        #: How often its keys were about to move, and until when that is waited for.
        self._failures, self._until = 0, 0.0
        self._script = script
        self._keys, self._arguments = arguments
        self._on_reply = on_reply

    def send(self) -> None:
        self._store.asked[self._commands] = self._key
        self._commands.send(self._build, self._answered)

    def _build(self, connection: RedisConnection) -> bytes:
        return pack(self._script.call(self._keys, connection.run_id, self._arguments))

    def _build_with_source(self, connection: RedisConnection) -> bytes:
        return pack(self._script.call_with_source(self._keys, connection.run_id, self._arguments))

    def _answered(self, reply: Any) -> None:
        hosts = self._store.hosts
        if not isinstance(reply, Exception):
            self._on_reply(reply)
        elif isinstance(reply, NoScriptError):
            self._commands.send(self._build_with_source, self._answered)
        elif isinstance(reply, MovedError) and self._may_move and hosts.is_open:
            self._may_move = False
            self._commands = hosts.follow(self._key, reply)
            self.send()
        elif is_moving(reply) and self._may_wait():
            self._failures += 1
            self._store.loop.call_later(pause(self._failures), self._send_again, reply)
        else:
            self._fail(reply)

    def _may_wait(self) -> bool:
        now = self._store.loop.time()
        self._until = self._until or now + conf.LAYER_TIMEOUT
        return now < self._until

    def _send_again(self, error: Exception) -> None:
        """Ask anew who has the keys; a node that was asked before them says so."""
        hosts = self._store.hosts
        if not hosts.is_open:
            self._fail(error)
            return
        self._may_move = True
        _, self._commands = hosts.find(self._key)
        self.send()

    def _fail(self, error: Exception) -> None:
        self._store.hosts.forget(self._commands)
        if is_replica(error):
            self._store.hosts.leave_replica(self._key, self._commands)
        self._on_reply(explain(error, self._store.layer))


class _Batch(NamedTuple):
    arguments: tuple[Arguments, Arguments]
    on_done: OnAppended
    key: str
    origin: str
    #: Since when it waits, on the loop's clock, where it renews the time of what is kept.
    given: float | None


class _Append(_Call):
    """
    One call for the batches of many groups: those that are added while it is in ``open_calls``
    of its store, until it is written. Where Redis refuses it, each goes alone: what is wrong
    with one group is no matter of another's.
    """

    __slots__ = ("_batches", "_size")

    def __init__(self, store: RedisHistory, key: str) -> None:
        super().__init__(store, key, APPEND, NOTHING, self._take)
        self._batches: list[_Batch] = []
        self._size = 0

    def add(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._size += sum(map(len, batch.arguments[1]))
        if len(self._batches) == MAX_TOGETHER or self._size >= MAX_TOGETHER_BYTES:
            self._close()

    def _close(self) -> None:
        if self._store.open_calls.get(self._commands) is self:
            del self._store.open_calls[self._commands]

    def _build(self, connection: RedisConnection) -> bytes:
        self._close()
        self._keys, self._arguments = append_all(batch.arguments for batch in self._batches)
        return super()._build(connection)

    def _take(self, reply: Any) -> None:
        # Where there was no connection it was never written.
        self._close()
        if isinstance(reply, ResponseError) and len(self._batches) > 1:
            if isinstance(reply, ClusterCrossSlotError):
                self._store.hosts.is_cluster = True
            for batch in self._batches:
                alone = _Append(self._store, batch.key)
                alone.add(batch)
                alone.send()
        elif isinstance(reply, Exception):
            for batch in self._batches:
                _tell(batch, reply)
        else:
            positions = answered_positions(reply)
            for batch, position in zip(self._batches, positions, strict=True):
                if batch.given is not None:
                    self._store.renewals.note(batch.key, batch.given)
                _tell(batch, position or StaleBatch(batch.origin))


def _tell(batch: _Batch, answer: Position | Exception) -> None:
    try:
        batch.on_done(answer)
    except Exception:
        # A bug in this package must cost this batch only.
        if _throttle.note("answer"):
            logger.exception("cannot handle an answer of Redis to %s", batch.key)


def open_page(form: ItemFormat, key: str, reply: Any, reverse: bool) -> Page:
    """What ``READ`` answers."""
    position = Position(reply[0].decode(), reply[1])
    if not reply[2]:
        return Page([], position, recovered=False)
    try:
        found = [
            Publication(offset, form.open(data))
            for offset, data in enumerate(reply[4], start=reply[3])
        ]
    except Exception:
        # Not this package's, or encrypted with a key that the layer no longer has.
        if _throttle.note("item"):
            logger.exception("cannot read what Redis keeps of the group %s", key)
        return Page([], position, recovered=False)
    return Page(found[::-1] if reverse else found, position)
