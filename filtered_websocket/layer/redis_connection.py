"""
One connection to Redis: many commands in one write, answers and messages by callback.

redis-py connects: host names, TLS, Unix sockets, Sentinel, authentication, the version of the
protocol and the database are its work, with a layer's own options. Then
:class:`RedisConnection` takes the place of redis-py's reader and writer, which for each
command and message cost many times what the reading and writing costs.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import hiredis
from redis.asyncio import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import Connection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from ..conf import conf
from ..logs import LogThrottle, get_logger

logger = get_logger(__name__)

#: Called once with the answer to a command, which may be an exception.
OnReply: TypeAlias = Callable[[Any], object]
#: Called with the channel and the content of a message.
OnMessage: TypeAlias = Callable[[bytes, bytes], object]
#: Called once, when a connection has ended, with the reason.
OnLost: TypeAlias = Callable[[Exception], object]
#: Makes a packed command when it is written; never raises.
Build: TypeAlias = Callable[["RedisConnection"], bytes]

#: About the most bytes of one write; the next one waits until Redis reads.
MAX_WRITE = 262_144
#: For so many seconds what arrives is handed over before other sockets have their turn.
TURN = 0.002

#: What redis-py connects, and this module takes over.
CLASSES = (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
#: Options with which a connection of redis-py may behave in other ways.
FOREIGN = ("parser_class", "encoder_class", "redis_connect_func")

#: How long connecting and an answer may take, seconds.
SOCKET_LIMITS = ("socket_connect_timeout", "socket_timeout")

#: What Redis says unasked in RESP3; hiredis before 3.2 has no class for it.
_PUSH = getattr(hiredis, "PushNotification", None)
#: A command in the form in which it is sent; hiredis 1 cannot do it.
pack: Callable[[tuple[bytes | str, ...]], bytes] = getattr(hiredis, "pack_command", None)  # type: ignore[assignment]
_NOTHING = object()
_throttle = LogThrottle()


def can_take_over(pool: Any) -> bool:
    """
    Whether connections that ``pool`` makes have the shape that is known here. Connects to
    nothing; raises what redis-py raises for options that it refuses.
    """
    connection = pool.make_connection()
    options = pool.connection_kwargs
    return (
        type(connection) in CLASSES
        and not any(options.get(name) for name in FOREIGN)
        # Authenticates again from time to time, on connections that redis-py knows of.
        and not hasattr(connection.credential_provider, "on_next")
        and connection.encoder.encoding.lower() in ("utf-8", "utf8")
        and all(hasattr(connection, name) for name in ("_reader", "_writer"))
        and hasattr(getattr(connection, "_parser", None), "parse_error")
        and pack is not None
    )


async def open_connection(
    pool: Any, on_lost: OnLost, on_message: OnMessage | None = None
) -> "RedisConnection":
    """
    A connection that redis-py has made for ``pool``, within ``LAYER_TIMEOUT``. Raises
    TimeoutError, and what redis-py raises. With ``on_message`` it is for subscriptions:
    the time of answers is not limited, as no publisher waits for them.
    """
    connection: Any = pool.make_connection()
    try:
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await connection.connect()
        finally:
            await _close_sentinels(pool)
        # After the handshake Redis says nothing unasked.
        if connection._reader.at_eof() or connection._writer.transport.is_closing():
            raise ConnectionError("Redis has closed the connection")
    except BaseException:
        with suppress(Exception):
            await connection.disconnect(nowait=True)
        raise
    # No await from here on: the caller must know it before it can be lost.
    return RedisConnection(connection, on_lost, on_message)


def limit_sentinels(host: Mapping[str, Any], limit: float, retry: object) -> dict[str, Any]:
    """
    One entry of a layer's hosts, in which no Sentinel takes more than its share of ``limit``
    seconds. redis-py asks one after the other: with its own limits and retries the first one
    that is gone could take all the time, at each attempt, and the others would never be asked.
    ``retry`` is redis-py's word for no retries, which its two clients have each.
    """
    if "address" in host or host.get("master_name") is None:
        return dict(host)
    given = host.get("sentinel_kwargs") or {}
    share = limit / (len(host["sentinels"]) + 1)
    limits = {name: min(given.get(name) or share, share) for name in SOCKET_LIMITS}
    return {**host, "sentinel_kwargs": {"retry": retry, **given, **limits}}


async def _close_sentinels(pool: Any) -> None:
    """Sentinels are asked for the master again at the next loss; until then nothing stays."""
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        with suppress(Exception):
            await sentinel.connection_pool.disconnect()


class RedisConnection(asyncio.Protocol):
    """
    Guarantees: each command's ``on_reply`` is called once, in order, never inside
    :meth:`send`; with an error if the connection ends first. If Redis leaves a command
    unanswered for ``LAYER_TIMEOUT``, the connection ends: answers would come late. Belongs
    to the running event loop, in this process: what is forked from it writes nothing.
    """

    def __init__(self, connection: Any, on_lost: OnLost, on_message: OnMessage | None) -> None:
        """Takes over ``connection``, which redis-py has just connected."""
        self._on_lost = on_lost
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._replies = hiredis.Reader(
            replyError=connection._parser.parse_error, notEnoughData=_NOTHING
        )
        #: When each command without an answer was given, and whom to call.
        self._pending: deque[tuple[float, OnReply]] = deque()
        #: Commands that are not written yet.
        self._unwritten: deque[bytes | Build] = deque()
        self._may_write = True
        self._timer: asyncio.TimerHandle | None = None
        self._is_draining = False
        self._ended = False
        #: How often anything has arrived.
        self.arrived = 0
        #: Which server this is, where whoever opens the connection has asked.
        self.run_id = ""
        #: Its end would close the transport.
        self._writer = connection._writer
        connection._reader = connection._writer = None
        self._transport: asyncio.Transport = self._writer.transport
        self._transport.set_protocol(self)

    def send(self, command: bytes | Build, on_reply: OnReply, given: float | None = None) -> None:
        """
        Send a packed ``command`` at the end of this turn of the event loop, with all others;
        ``given`` is since when it waits, on the loop's clock.
        """
        if given is None:
            given = self._loop.time()
        self._pending.append((given, on_reply))
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(command)
        if self._timer is None and self._on_message is None:
            self._timer = self._loop.call_at(given + conf.LAYER_TIMEOUT, self._check_time)

    def _write(self) -> None:
        unwritten = self._unwritten
        while unwritten and self._may_write:
            if os.getpid() != self._pid:
                raise RuntimeError("this connection to Redis is of the process before the fork")
            size, parts = 0, []
            while unwritten and size < MAX_WRITE:
                part = unwritten.popleft()
                parts.append(part if isinstance(part, bytes) else part(self))
                size += len(parts[-1])
            self._transport.write(b"".join(parts))

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._write()

    def _check_time(self) -> None:
        self._timer = None
        if not self._pending:
            return
        limit = conf.LAYER_TIMEOUT
        end = self._pending[0][0] + limit
        if end <= self._loop.time():
            self.abort(TimeoutError(f"Redis did not answer within {limit:g} s"))
        else:
            self._timer = self._loop.call_at(end, self._check_time)

    # Answers and messages

    def data_received(self, data: bytes) -> None:
        self.arrived += 1
        self._replies.feed(data)
        if not self._is_draining:
            self._drain()

    def _drain(self) -> None:
        """Hand over what has arrived; after ``TURN``, other sockets have theirs first."""
        end = time.monotonic() + TURN
        next_reply = self._replies.gets
        while not self._ended:
            try:
                reply = next_reply()
            except hiredis.HiredisError as error:
                self.abort(ConnectionError(f"what Redis sent cannot be read: {error}"))
                return
            if reply is _NOTHING:
                if self._is_draining:
                    self._is_draining = False
                    self._transport.resume_reading()
                return
            self._take(reply)
            if time.monotonic() > end:
                if not self._is_draining:
                    self._is_draining = True
                    self._transport.pause_reading()
                self._loop.call_soon(self._drain)
                return

    def _take(self, reply: Any) -> None:
        try:
            if self._on_message is not None and isinstance(reply, list):
                if reply[0] == b"message":
                    self._on_message(reply[1], reply[2])
                    return
                if reply[0] not in (b"subscribe", b"unsubscribe"):
                    return  # unasked, as "invalidate"
            elif type(reply) is _PUSH:
                return
            if not self._pending:
                self.abort(ConnectionError("Redis sent an answer to no command"))
                return
            self._pending.popleft()[1](reply)
        except Exception:
            self._log_exception()

    def _log_exception(self) -> None:
        # A bug in this package must cost this message only.
        if _throttle.note("callback"):
            logger.exception("cannot handle an answer or a message of Redis")

    # Ending

    @property
    def is_idle(self) -> bool:
        """Whether every command is answered."""
        return not self._pending

    def abort(self, error: Exception) -> None:
        """End the connection now: commands without an answer get ``error``."""
        if not self._ended:
            self._transport.abort()
            self._end(error)

    def drop(self) -> None:
        """End a connection that was never used: nobody is told."""
        self._ended = True
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended:
            lost = ConnectionError(f"lost the connection to Redis: {error or 'it was closed'}")
            lost.__cause__ = error
            self._end(lost)

    def _end(self, error: Exception) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._unwritten.clear()
        pending, self._pending = self._pending, deque()
        # First, so that what is sent meanwhile goes through another connection.
        self._on_lost(error)
        for _, on_reply in pending:
            try:
                on_reply(error)
            except Exception:
                self._log_exception()
