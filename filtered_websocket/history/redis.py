"""
The histories in Redis, for all processes: on the host where the layer has the group's channel.

One call of a script appends a batch, and where it can also publishes it. Each new connection
asks for the server's ``run_id``, which the scripts are given.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

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
    Script,
    answered_position,
    append_arguments,
    forget_arguments,
    read_arguments,
)

logger = get_logger(__name__)
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
        arguments = append_arguments(batch, items, retention, target, idempotency_key)
        on_reply = partial(_answer, on_done, batch.origin)
        _Call(self._layer, commands, APPEND, arguments, on_reply).send()

    async def read(
        self,
        key: str,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Page:
        reply = await self._ask(key, READ, read_arguments(key, since, limit, reverse))
        position = Position(reply[0].decode(), reply[1])
        if not reply[2]:
            return Page([], position, recovered=False)
        try:
            found = [
                Publication(offset, self._format.open(data))
                for offset, data in enumerate(reply[4], start=reply[3])
            ]
        except Exception:
            # Not this package's, or encrypted with a key that the layer no longer has.
            if _throttle.note("item"):
                logger.exception("cannot read what Redis keeps of the group %s", key)
            return Page([], position, recovered=False)
        return Page(found[::-1] if reverse else found, position)

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
        self._commands.send_built(self._build, self._answered)

    def _build(self, connection: RedisConnection) -> bytes:
        return pack(self._script.call(self._keys, connection.run_id, self._arguments))

    def _build_with_source(self, connection: RedisConnection) -> bytes:
        return pack(self._script.call_with_source(self._keys, connection.run_id, self._arguments))

    def _answered(self, reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            self._commands.send_built(self._build_with_source, self._answered)
        else:
            self._on_reply(self._explain(reply) if isinstance(reply, Exception) else reply)

    def _explain(self, error: Exception) -> Exception:
        told = explain(error, self._layer)
        if isinstance(error, ResponseError) and isinstance(told, ConnectionError):
            self._commands.stop()
        return told


def _answer(on_done: OnAppended, origin: str, reply: Any) -> None:
    if isinstance(reply, Exception):
        on_done(reply)
    else:
        on_done(answered_position(reply) or StaleBatch(origin))


def _settle(answer: "asyncio.Future[Any]", reply: Any) -> None:
    if answer.done():
        return
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)
