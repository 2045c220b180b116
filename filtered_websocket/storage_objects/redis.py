"""
Redis sets, shared by every process, and Redis pub/sub into the consumer chain.

Each change is one command (SADD, SREM), so concurrent changes are never lost.
"""

import argparse
import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, cast
from urllib.parse import quote

import redis
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..logs import get_logger
from ..threads.tasks import pause
from .base import BaseStorageObject, Event, as_text

logger = get_logger(__name__)

#: How long a plain filter may block the event loop while it waits for Redis, seconds.
SYNC_TIMEOUT = 1.0
#: The same for async filters, and for a subscription without any message.
ASYNC_TIMEOUT = 2.0
#: A channel with one of these is a pattern (Redis' PSUBSCRIBE).
GLOB = frozenset("*?[")
LOST = (OSError, TimeoutError, redis.RedisError)


def redis_url(options: argparse.Namespace) -> str:
    """The Redis that ``--redis_url``, or host and port, name."""
    if options.redis_url:
        return str(options.redis_url)
    host: str = options.redis_host
    return f"redis://{f'[{host}]' if ':' in host else quote(host)}:{options.redis_port}"


class StorageObject(BaseStorageObject):
    """Sets under ``<redis_key>:<key>``; events of ``redis_channels``, "global" by default."""

    listens = True

    def __init__(self, options: argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        super().__init__(options, *args, **kwargs)
        self.url = redis_url(options)
        self._prefix: str = options.redis_key
        self._client = redis.Redis.from_url(
            self.url,
            socket_timeout=SYNC_TIMEOUT,
            socket_connect_timeout=SYNC_TIMEOUT,
            # A publish that is repeated could arrive twice.
            retry=Retry(NoBackoff(), 0),
        )
        # A connection of redis.asyncio belongs to the event loop that it was made in.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = (
            weakref.WeakKeyDictionary()
        )

    @classmethod
    def parser(cls, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        add = parser.add_argument_group("Redis").add_argument
        add("--redis_url", help="redis://..., instead of host and port")
        add("--redis_host", default="localhost")
        add("--redis_port", type=int, default=6379)
        add("--redis_channels", nargs="*", help="pub/sub channels and patterns to listen to")
        add("--redis_key", default="fws", help="what keys in Redis begin with")
        return parser

    def get_client(self) -> redis.Redis:
        """The synchronous client, as in 0.4."""
        return self._client

    def _key(self, key: Any) -> str:
        return f"{self._prefix}:{as_text(key)}"

    def get(self, item: Any) -> frozenset[str]:
        members = cast("set[Any]", self._client.smembers(self._key(item)))
        return frozenset(map(as_text, members))

    def add(self, key: Any, value: Any) -> None:
        self._client.sadd(self._key(key), as_text(value))

    def remove(self, key: Any, value: Any) -> None:
        self._client.srem(self._key(key), as_text(value))

    def publish(self, channel: Any, data: Any) -> None:
        self._client.publish(as_text(channel), data)

    # The same, awaited

    def _aclient(self) -> Redis:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = Redis.from_url(
                self.url,
                socket_timeout=ASYNC_TIMEOUT,
                socket_connect_timeout=ASYNC_TIMEOUT,
                retry=AsyncRetry(NoBackoff(), 0),
            )
        return client

    async def aget(self, item: Any) -> frozenset[str]:
        reading = cast("Awaitable[set[Any]]", self._aclient().smembers(self._key(item)))
        return frozenset(map(as_text, await reading))

    async def aadd(self, key: Any, value: Any) -> None:
        await self._aclient().sadd(self._key(key), as_text(value))

    async def aremove(self, key: Any, value: Any) -> None:
        await self._aclient().srem(self._key(key), as_text(value))

    async def apublish(self, channel: Any, data: Any) -> None:
        await self._aclient().publish(as_text(channel), data)

    async def aclose(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    # Pub/sub

    async def listen(self) -> AsyncGenerator[Event, None]:
        """
        Messages of the channels, never subscribe notices.

        Subscribes again, with back-off, whenever the connection to Redis is lost, and logs
        that once. What is published meanwhile is lost: Redis pub/sub stores nothing.
        """
        channels, patterns = self._names()
        if not channels and not patterns:
            return
        failures = 0
        while True:
            pubsub = self._aclient().pubsub()
            try:
                await _subscribe(pubsub, channels, patterns)
                if failures:
                    logger.warning("Redis pub/sub: connected again")
                    failures = 0
                watch = _Watch()
                while True:
                    # Not ignored by redis-py: a subscribe notice is a sign of life, too.
                    raw = await pubsub.get_message(timeout=ASYNC_TIMEOUT)
                    event = await watch.note(pubsub, raw)
                    if event is not None:
                        yield event
            except LOST as error:
                if not failures:
                    reason = self._explain(error)
                    logger.warning("Redis pub/sub: lost the connection (%r); trying again", reason)
                failures += 1
                await asyncio.sleep(pause(failures))
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _explain(self, error: Exception) -> Exception:
        """``error``; for a right that the user of Redis lacks, one that names what is needed."""
        if not isinstance(error, redis.exceptions.NoPermissionError):
            return error
        channels, patterns = self._names()
        needed = [f"&{name}" for name in (*channels, *patterns)]
        needed += ["+subscribe", "+unsubscribe"] if channels else []
        needed += ["+psubscribe", "+punsubscribe"] if patterns else []
        return PermissionError(
            f"Redis refuses it ({error}): its user needs {' '.join([*needed, '+ping'])}"
        )

    def _names(self) -> tuple[list[str], list[str]]:
        """Channels and patterns: none for an empty list, the default for None."""
        names = self.options.redis_channels
        if names is None:
            names = ["global"]
        patterns = [name for name in names if GLOB & set(name)]
        return [name for name in names if name not in patterns], patterns


async def _subscribe(pubsub: PubSub, channels: list[str], patterns: list[str]) -> None:
    if channels:
        await pubsub.subscribe(*channels)
    if patterns:
        await pubsub.psubscribe(*patterns)


class _Watch:
    """Finds out whether Redis is silent or has stopped: pings it, and expects an answer."""

    def __init__(self) -> None:
        self._pinged = False

    async def note(self, pubsub: PubSub, raw: dict[str, Any] | None) -> Event | None:
        """The event in ``raw``; TimeoutError where a PING was not answered."""
        if raw is not None:
            self._pinged = False
            return _event(raw) if raw["type"] in ("message", "pmessage") else None
        if self._pinged:
            raise TimeoutError("Redis does not answer")
        self._pinged = True
        await pubsub.ping()
        return None


def _event(raw: dict[str, Any]) -> Event:
    data, pattern = raw["data"], raw["pattern"]
    # With decode_responses in the URL it is text already.
    if isinstance(data, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            data = data.decode()
    return {
        "type": raw["type"],
        "channel": as_text(raw["channel"]),
        "data": data,
        "pattern": None if pattern is None else as_text(pattern),
    }
