"""
The histories in Redis, for all processes: on the host where the layer has the group's channel.

One call of a script appends the batches that go out together, and where it can also publishes
them. Each new connection asks for the server's ``run_id``, which the scripts are given.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from ..conf import conf
from ..layer.envelope import Batch
from ..layer.redis_connection import OnLost, OnReply, RedisConnection, open_connection, pack
from ..layer.redis_host import Commands
from ..layer.redis_layer import RedisLayer
from ..logs import LogThrottle, get_logger
from .base import OnAppended, Page, Position, Publication, Retention, StaleBatch
from .format import ItemFormat, explain, find_run_id
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


async def open_identified(pool: Any, on_lost: OnLost) -> RedisConnection:
    """
    :func:`~filtered_websocket.layer.redis_connection.open_connection`, and ask for the
    ``run_id`` of the server, all within ``LAYER_TIMEOUT``.
    """
    async with asyncio.timeout(conf.LAYER_TIMEOUT):
        connection = await open_connection(pool, on_lost)
        try:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.send(pack(("INFO", "server")), partial(_settle, answer))
            connection.run_id = find_run_id(await answer)
        except BaseException:
            connection.abort(ConnectionError("the server did not say its run_id"))
            raise
    return connection


class RedisHistory:
    """
    A :class:`~filtered_websocket.history.base.HistoryStore` in the Redis of a pubsub layer.
    Belongs to the event loop of ``redis``, and is closed with it.
    """

    def __init__(self, layer: Any, redis: RedisLayer) -> None:
        """``redis`` is that of ``layer``. Raises AttributeError for a layer of another shape."""
        self._layer = layer
        self._find = redis.more_commands(open_identified)
        self._format = ItemFormat(layer)
        #: Those that others can join, until they are written.
        self._appends: dict[Commands, _Append] = {}
        self._renewals = Renewals()
        self._loop = asyncio.get_running_loop()
        self.publishes = self._format.is_plain

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
        now = self._loop.time()
        renews = self._renewals.is_due(batch.key, retention, now)
        arguments = append_arguments(batch, items, retention, target, idempotency_key, renews)
        call = self._appends.get(commands)
        if call is None:
            call = _Append(self._layer, commands, self._renewals, self._appends)
            self._appends[commands] = call
            call.send()
        call.add(_Batch(arguments, on_done, batch.key, batch.origin, now))

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
        asked = {key: self._ask(key, READ, read_arguments(key, None, 0, False)) for key in keys}
        replies = await asyncio.gather(*asked.values())
        return {
            key: Position(reply[0].decode(), reply[1])
            for key, reply in zip(asked, replies, strict=True)
        }

    async def forget(self, key: str) -> None:
        await self._ask(key, FORGET, forget_arguments(key))

    def _ask(
        self, key: str, script: Script, arguments: tuple[Arguments, Arguments]
    ) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        _, commands = self._find(key)
        _Call(self._layer, commands, script, arguments, partial(_settle, answer)).send()
        return answer


class _Call:
    """One run of a script; ``on_reply`` is called once, after :meth:`send`."""

    # Not closures: with many publications on their way the garbage collector looks at all.
    __slots__ = ("_arguments", "_commands", "_keys", "_layer", "_on_reply", "_script")

    def __init__(
        self,
        layer: Any,
        commands: Commands,
        script: Script,
        arguments: tuple[Arguments, Arguments],
        on_reply: OnReply,
    ) -> None:
        self._layer = layer
        self._commands = commands
        self._script = script
        self._keys, self._arguments = arguments
        self._on_reply = on_reply

    def send(self) -> None:
        self._commands.send(self._build, self._answered)

    def _build(self, connection: RedisConnection) -> bytes:
        return pack(self._script.call(self._keys, connection.run_id, self._arguments))

    def _build_with_source(self, connection: RedisConnection) -> bytes:
        return pack(self._script.call_with_source(self._keys, connection.run_id, self._arguments))

    def _answered(self, reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            self._commands.send(self._build_with_source, self._answered)
        else:
            self._on_reply(self._explain(reply) if isinstance(reply, Exception) else reply)

    def _explain(self, error: Exception) -> Exception:
        told = explain(error, self._layer)
        if isinstance(error, ResponseError) and isinstance(told, ConnectionError):
            self._commands.stop()
        return told


class _Batch(NamedTuple):
    arguments: tuple[Arguments, Arguments]
    on_done: OnAppended
    key: str
    origin: str
    #: Since when it waits, on the loop's clock.
    given: float


class _Append(_Call):
    """
    One call for the batches of many groups: those that are added while it is in ``open_calls``,
    until it is written. Where Redis refuses it, each goes alone: what is wrong with one group
    is no matter of another's.
    """

    __slots__ = ("_batches", "_open_calls", "_renewals", "_size")

    def __init__(
        self,
        layer: Any,
        commands: Commands,
        renewals: Renewals,
        open_calls: "dict[Commands, _Append]",
    ) -> None:
        super().__init__(layer, commands, APPEND, NOTHING, self._take)
        self._renewals = renewals
        self._open_calls = open_calls
        self._batches: list[_Batch] = []
        self._size = 0

    def add(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._size += sum(map(len, batch.arguments[1]))
        if len(self._batches) == MAX_TOGETHER or self._size >= MAX_TOGETHER_BYTES:
            self._close()

    def _close(self) -> None:
        if self._open_calls.get(self._commands) is self:
            del self._open_calls[self._commands]

    def _build(self, connection: RedisConnection) -> bytes:
        self._close()
        self._keys, self._arguments = append_all(batch.arguments for batch in self._batches)
        return super()._build(connection)

    def _take(self, reply: Any) -> None:
        # Where there was no connection it was never written.
        self._close()
        if isinstance(reply, ResponseError) and len(self._batches) > 1:
            for batch in self._batches:
                alone = _Append(self._layer, self._commands, self._renewals, {})
                alone.add(batch)
                alone.send()
        elif isinstance(reply, Exception):
            for batch in self._batches:
                _tell(batch, reply)
        else:
            positions = answered_positions(reply)
            for batch, position in zip(self._batches, positions, strict=True):
                self._renewals.note(batch.key, batch.given)
                _tell(batch, position or StaleBatch(batch.origin))


def _tell(batch: _Batch, answer: Position | Exception) -> None:
    try:
        batch.on_done(answer)
    except Exception:
        # A bug in this package must cost this batch only.
        if _throttle.note("answer"):
            logger.exception("cannot handle an answer of Redis to %s", batch.key)


def _settle(answer: "asyncio.Future[Any]", reply: Any) -> None:
    if answer.done():
        return
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)


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
