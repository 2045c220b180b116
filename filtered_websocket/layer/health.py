"""
Detects outages of the channel layer, and when they are over, by messages to this hub itself;
and, before it serves, mistakes in how the layer is written.

::

    a call failed, a probe is missing,
    the subscriber had to reconnect     -> lost: messages to publish are queued
    a probe returned                    -> wait LAYER_SETTLE: others have to subscribe, too
    another probe returned              -> back: queued messages are sent
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from django.conf import settings
from redis.exceptions import ClusterDownError, ReadOnlyError, RedisError, ResponseError

from ..conf import SettingError, conf, import_object
from ..observe import clock, round_trips
from ..threads.tasks import Start, pause
from ..types import GroupLayer
from .envelope import VERSION, BadEnvelope

#: Errors that mean an outage of the layer, not one bad message.
LOST = (OSError, TimeoutError, RedisError)
#: An answer that passes by itself, of which redis-py has no class: another script runs. Not that
#: a master has too few replicas (NOREPLICAS), which may last: it carries all that is not kept.
PASSING = "BUSY "
#: Interval of probes, seconds: a layer may hide that it receives nothing any more.
HEARTBEAT = 5.0
#: The key of a probe in its envelope.
PROBE = "probe"
#: What an entry of CHANNEL_LAYERS may have.
_KEYS = ("BACKEND", "CONFIG", "TEST_CONFIG")
#: What redis-py takes for an address.
_SCHEMES = ("redis://", "rediss://", "unix://")
_HOSTS = 'Write hosts as [{"address": "redis://127.0.0.1:6379/0", "socket_timeout": 2}].'
_LAYER = 'Write {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", ...}}.'


class LayerError(SettingError):
    """The channel layer is written so that it cannot be made or reached."""


def require_written_layer() -> None:
    """:exc:`LayerError` with the first of the mistakes, unless their check is silenced."""
    for words, hint in layer_mistakes():
        if "filtered_websocket.E037" not in settings.SILENCED_SYSTEM_CHECKS:
            raise LayerError(words, hint)


def layer_mistakes() -> Iterable[tuple[str, str]]:
    """Mistakes in how the layer is written, and their cures. No text may have a password."""
    layers, alias = getattr(settings, "CHANNEL_LAYERS", {}), conf.CHANNEL_LAYER
    if "BACKEND" in layers:
        yield "CHANNEL_LAYERS has a BACKEND, and no name for that layer.", _LAYER
    elif alias in layers:  # one that is not there is told by other checks
        for words, hint in _mistakes_of(layers[alias]):
            yield f"CHANNEL_LAYERS[{alias!r}]{words}", hint


def _mistakes_of(entry: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for key in sorted(set(entry) - set(_KEYS)):
        yield f" has {key!r}, which nothing reads.", 'Write it into its "CONFIG": {...}.'
    backend = entry.get("BACKEND", "")
    try:
        made = import_object(backend) if backend else None
    except SettingError as error:
        yield f": its BACKEND {backend!r}: {error.message}", error.hint
    else:
        if not callable(made):
            yield f": its BACKEND is {backend!r}, which is no class.", _LAYER
    if backend.startswith("channels_redis."):
        yield from _mistakes_of_hosts(entry.get("CONFIG", {}).get("hosts") or [])


def _mistakes_of_hosts(hosts: Any) -> Iterable[tuple[str, str]]:
    if isinstance(hosts, str | bytes | dict):
        yield f": its hosts are a {type(hosts).__name__}, not a list.", _HOSTS
        return
    for host in hosts:
        address = host.get("address") if isinstance(host, dict) else host
        if isinstance(address, str) and not address.startswith(_SCHEMES):
            yield f": an address begins with none of {', '.join(_SCHEMES)}.", _HOSTS


def is_replica(error: object) -> bool:
    """Whether this answer is of a Redis that is no master: only a new connection finds that."""
    if not isinstance(error, ResponseError):
        return False
    # Redis 6 has the word in the text only, where it comes from a script.
    words = ("read only replica", "Link with MASTER is down")
    return isinstance(error, ReadOnlyError) or any(one in str(error) for one in words)


def is_away(error: BaseException) -> bool:
    """
    Whether Redis cannot be reached, or says that it is not ready: it starts, or a replica takes
    the place of its master. Not where it refuses something.
    """
    if isinstance(error, ResponseError):
        is_down = isinstance(error, ClusterDownError) or str(error).startswith(PASSING)
        return is_down or is_replica(error)
    return isinstance(error, LOST) and not isinstance(error, PermissionError)


async def _nothing_else() -> bool:
    return True


class LayerHealth:
    """Whether the layer is lost. Reports each change once; probes until an outage is over."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[Exception | None]],
        rejoin: Callable[[bool], Awaitable[None]],
        on_lost: Callable[[Exception], None],
        on_back: Callable[[float], None],
        start: Start,
    ) -> None:
        self._probe = probe
        self._rejoin = rejoin
        self._on_lost = on_lost
        self._on_back = on_back
        self._start = start
        self._lost_at = 0.0
        self._available = asyncio.Event()
        self._available.set()
        self._ended = False
        self._others_answer: Callable[[], Awaitable[bool]] = _nothing_else

    @property
    def is_lost(self) -> bool:
        return not self._available.is_set()

    def note_lost(self, error: Exception) -> None:
        """An outage was seen; reported if it is a new one."""
        if self.is_lost or self._ended:
            return
        self._lost_at = time.monotonic()
        self._available.clear()
        # Before the callback, which may raise. It starts running after it in any case.
        self._start(self._probe_until_back, "fws-probe")
        self._on_lost(error)

    def wait_also(self, answers: Callable[[], Awaitable[bool]]) -> None:
        """
        No outage is over before ``answers()`` is True, or ``PUBLISH_MAX_AGE`` is: Redis carries
        messages while it loads its data, and while a cluster is down, but keeps nothing.
        """
        self._others_answer = answers

    def stop(self) -> None:
        """Ignore outages from now on: connections may still report theirs."""
        self._ended = True

    async def wait_available(self, deadline: float) -> bool:
        """Wait until ``deadline`` (monotonic clock) at most; returns whether it is available."""
        if self.is_lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._available.wait()
        return not self.is_lost

    async def watch(self) -> None:
        """Send probes at intervals: detects an outage that makes no call fail."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            if self.is_lost:
                continue
            began = clock()
            error = await self._probe()
            if error is None:
                round_trips.note(clock() - began)
            if isinstance(error, TimeoutError):
                # Other messages may have delayed it, or a filter blocked this event loop.
                error = await self._probe()
            if error is not None:
                self.note_lost(error)

    async def _probe_until_back(self) -> None:
        if not self.is_lost:
            return  # started again, because the callback failed
        failures = 0
        await self._rejoin(True)
        while not await self._is_back():
            failures += 1
            await asyncio.sleep(pause(failures))
            await self._rejoin(False)
        self._available.set()
        self._on_back(time.monotonic() - self._lost_at)

    async def _is_back(self) -> bool:
        if await self._probe() is not None:
            return False
        # Other processes may subscribe again later than this one.
        await asyncio.sleep(conf.LAYER_SETTLE)
        if await self._probe() is not None:
            return False
        # What has waited for longer has failed; messages that need no others go on.
        waited = time.monotonic() - self._lost_at
        return await self._others_answer() or waited > conf.PUBLISH_MAX_AGE


class Probes:
    """
    One message to this hub through each host of the layer.

    Each goes through a group of its own, joined like any other: it returns only if the
    layer still knows that this hub has joined.
    """

    def __init__(self, layer: GroupLayer, on_reconnected: Callable[[Exception], None]) -> None:
        self._layer = layer
        self._on_reconnected = on_reconnected
        self._sent: set[str] = set()
        self._returned = asyncio.Event()
        self.keys = _one_key_per_host(layer, f"{conf.NAMESPACE}.probe.{secrets.token_hex(8)}")

    async def send(self) -> None:
        """Send one through each host; raises what the layer raises."""
        self._returned.clear()
        self._sent = {f"{key} {secrets.token_hex(8)}" for key in self.keys}
        for token in tuple(self._sent):
            key, _, _ = token.partition(" ")
            await self._layer.group_send(key, {"v": VERSION, PROBE: token})

    async def wait_returned(self) -> None:
        """Return when all of the last :meth:`send` have come back."""
        await self._returned.wait()

    def handle(self, token: Any) -> None:
        """
        A probe has arrived; one of an earlier :meth:`send` is ignored.

        Raises :exc:`BadEnvelope` for anything that no hub sends as a probe.
        """
        if not isinstance(token, str) or not token.startswith(f"{conf.NAMESPACE}.probe."):
            raise BadEnvelope(f"not a probe: {type(token).__name__} {token!r:.80}")
        if token in self._sent:
            self._sent.discard(token)
            if not self._sent:
                self._returned.set()

    def watch_connections(self) -> None:
        """
        Have every reconnect of the layer's subscriber connections reported.

        The pubsub layer of channels_redis reconnects and subscribes again without an event,
        and what was published meanwhile is lost. redis-py connections accept a callback.
        Where these attributes are missing, the next missing probe detects it.
        """
        for connection in self._connections():
            connection.register_connect_callback(self._connected)

    async def close_connections(self) -> None:
        """
        Close the subscriber connections; the pubsub layer opens new ones. Otherwise a
        connection whose other end has vanished would never receive anything again.
        """
        for connection in self._connections():
            with suppress(*LOST):
                await connection.disconnect(nowait=True)

    def _connections(self) -> list[Any]:
        """The pubsub layer's subscriber connections, where it has the known attributes."""
        pubsubs = [getattr(shard, "_pubsub", None) for shard in getattr(self._layer, "_shards", ())]
        found = [getattr(pubsub, "connection", None) for pubsub in pubsubs]
        return [one for one in found if hasattr(one, "register_connect_callback")]

    def _connected(self, connection: Any) -> None:
        self._on_reconnected(ConnectionError("the subscriber connection was cut and reconnected"))


def _one_key_per_host(layer: GroupLayer, base: str) -> list[str]:
    """Group names that together use every host, as far as the layer shows its hosts."""
    hosts = len(getattr(layer, "_shards", ())) or getattr(layer, "ring_size", 1)
    keys: dict[object, str] = {}
    # The layer hashes names to 12 bits: a thousand names per host are enough.
    for number in range(1000 * hosts):
        key = f"{base}.{number}"
        keys.setdefault(_host_of(layer, key), key)
        if len(keys) == hosts:
            break
    return list(keys.values())


def _host_of(layer: Any, key: str) -> object:
    """Which host a group is on, for the layers of channels_redis."""
    if hasattr(layer, "_get_shard"):
        return layer._get_shard(layer._get_group_channel_name(key))
    if hasattr(layer, "consistent_hash"):
        return layer.consistent_hash(key)
    return None
