"""
The histories in Redis, for all processes: on the host where the layer has the group's channel.

One call of a script appends a batch, and where it can also publishes it. Each new connection
asks for the server's ``run_id``, which the scripts are given.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

from channels_redis.serializers import MsgPackSerializer
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from ..conf import conf
from ..layer.envelope import Batch, Item, open_item
from ..layer.names import needed_rights
from ..layer.redis_connection import OnLost, OnReply, RedisConnection, open_connection, pack
from ..layer.redis_host import Commands
from ..layer.redis_layer import RedisLayer
from ..logs import LogThrottle, get_logger
from .base import OnAppended, Page, Position, Publication, Retention, StaleBatch
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

#: What the scripts do, and the question for the ``run_id``, in the words of Redis' ACL.
RIGHTS = "+info +eval +evalsha +get +mget +set +del +llen +lrange +rpush +ltrim +pexpire +publish"


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
            connection.run_id = _find_run_id(await answer)
        except BaseException:
            connection.abort(ConnectionError("the server did not say its run_id"))
            raise
    return connection


def _find_run_id(info: bytes) -> str:
    for line in info.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "run_id" and value:
            return value
    raise RuntimeError(
        "INFO of this Redis has no run_id: after a failover nobody could tell whether"
        " publications were lost, so nothing is kept here"
    )


class RedisHistory:
    """
    A :class:`~filtered_websocket.history.base.HistoryStore` in the Redis of a pubsub layer.
    Belongs to the event loop of ``redis``, and is closed with it.
    """

    def __init__(self, layer: Any, redis: RedisLayer) -> None:
        """``redis`` is that of ``layer``. Raises AttributeError for a layer of another shape."""
        self._layer = layer
        self._find = redis.more_commands(open_identified)
        serializer = layer._serializer
        self._crypter = serializer.crypter
        self.publishes = (
            type(serializer) is MsgPackSerializer
            and self._crypter is None
            and not serializer.random_prefix_length
        )

    def append(
        self,
        batch: Batch,
        retention: Retention,
        on_done: OnAppended,
        idempotency_key: str = "",
    ) -> None:
        channel, commands = self._find(batch.key)
        items = [self._seal(item) for item in batch.items]
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
                Publication(offset, self._open(data))
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

    # Items

    def _seal(self, item: Item) -> bytes:
        data: bytes = MsgPackSerializer.as_bytes(item)
        return data if self._crypter is None else self._crypter.encrypt(data)

    def _open(self, data: bytes) -> Item:
        if self._crypter is not None:
            data = self._crypter.decrypt(data)
        return open_item(MsgPackSerializer.from_bytes(data))

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
        if isinstance(error, NoPermissionError):
            rights = f"{needed_rights(self._layer)} ~{conf.NAMESPACE}:* {RIGHTS}"
            return PermissionError(f"Redis refuses it ({error}): its user needs {rights}")
        # Redis 6 has the word in the text only, where it comes from a script.
        if isinstance(error, ResponseError) and "read only replica" in str(error):
            # Another server is the master now: only a new connection finds it.
            self._commands.stop()
            return ConnectionError(f"this Redis is no longer the master: {error}")
        return error


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
