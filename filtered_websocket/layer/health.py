"""
When the channel layer is away, and when it is back.

::

    a call failed, a probe is missing,
    a subscription was made anew        -> lost: what is published is kept
    a probe returned                    -> other processes get LAYER_SETTLE to listen too
    another one returned                -> back: what was kept is sent
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from ..conf import conf
from ..types import ChannelLayer
from .envelope import VERSION

#: What says that the layer is away, rather than that one message is bad.
LOST = (OSError, TimeoutError, RedisError)
#: Longest pause between two tries while the layer is away, seconds.
MAX_PAUSE = 1.0
#: How often a hub sends itself a probe, seconds: a layer may hide that it is deaf.
HEARTBEAT = 5.0
#: The key of a probe in its envelope.
PROBE = "probe"


def pause(failures: int) -> float:
    """Exponential back-off with full jitter, seconds."""
    return random.uniform(0.02, min(MAX_PAUSE, 0.05 * 2.0 ** min(failures, 10)))


class Outages:
    """Away or not; tells each change once, and finds out by itself about the end."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[Exception | None]],
        rejoin: Callable[[bool], Awaitable[None]],
        on_lost: Callable[[Exception], None],
        on_back: Callable[[float], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        self._probe = probe
        self._rejoin = rejoin
        self._on_lost = on_lost
        self._on_back = on_back
        self._spawn = spawn
        self._lost_at = 0.0
        self._over = asyncio.Event()
        self._over.set()
        self._ended = False

    @property
    def away(self) -> bool:
        return not self._over.is_set()

    def lose(self, error: Exception) -> None:
        """Note, once, that the layer is away."""
        if self.away or self._ended:
            return
        self._lost_at = time.monotonic()
        self._over.clear()
        # First, in case that who is told raises; it runs later in any case.
        self._spawn(self._find_back(), "fws-probe")
        self._on_lost(error)

    def end(self) -> None:
        """From here on nothing is an outage: connections may tell us of theirs for longer."""
        self._ended = True

    async def over(self, deadline: float) -> bool:
        """Wait for the layer, until ``deadline`` on the monotonic clock; whether it is there."""
        if self.away:
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._over.wait()
        return not self.away

    async def watch(self) -> None:
        """Find an outage that no call runs into, and that the layer hides."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            error = None if self.away else await self._probe()
            if isinstance(error, TimeoutError):
                # It may be behind much else, or a filter may have held up this loop.
                error = await self._probe()
            if error is not None:
                self.lose(error)

    async def _find_back(self) -> None:
        failures = 0
        await self._rejoin(True)
        while not await self._is_back():
            failures += 1
            await asyncio.sleep(pause(failures))
            await self._rejoin(False)
        self._over.set()
        self._on_back(time.monotonic() - self._lost_at)

    async def _is_back(self) -> bool:
        if await self._probe() is not None:
            return False
        # Other processes may listen again only later than this one.
        await asyncio.sleep(conf.LAYER_SETTLE)
        return await self._probe() is None


class Probes:
    """
    Messages to ourselves, one through each host of the layer.

    They go through groups of their own, joined as any other, so that one returns only
    if the layer still knows what was joined.
    """

    def __init__(self, layer: ChannelLayer, on_cut: Callable[[Exception], None]) -> None:
        self._layer = layer
        self._on_cut = on_cut
        self._sent: set[str] = set()
        self._returned = asyncio.Event()
        self.keys = _one_key_per_host(layer, f"{conf.NAMESPACE}.probe.{secrets.token_hex(8)}")

    async def send(self) -> None:
        """Send one of each; raises what the layer raises."""
        self._returned.clear()
        self._sent = {f"{key} {secrets.token_hex(8)}" for key in self.keys}
        for token in tuple(self._sent):
            key, _, _ = token.partition(" ")
            await self._layer.group_send(key, {"v": VERSION, PROBE: token})

    async def returned(self) -> None:
        """Return when all that were sent last have come back."""
        await self._returned.wait()

    def note(self, token: Any) -> None:
        """One has arrived, though perhaps of an earlier round."""
        if token in self._sent:
            self._sent.discard(token)
            if not self._sent:
                self._returned.set()

    def watch_connections(self) -> None:
        """
        Hear of every connection that the layer makes anew to listen.

        The pubsub layer of channels_redis subscribes again without a word, and what was
        published meanwhile is gone; redis-py tells whoever asks the connection. Where
        these attributes are not, the next probe that is missing has to do.
        """
        for connection in self._connections():
            connection.register_connect_callback(self._connected)

    async def cut(self) -> None:
        """
        End the connections that listen; the pubsub layer makes new ones. One whose other
        end has gone without a word would stay silent, and the layer deaf, for ever.
        """
        for connection in self._connections():
            with suppress(*LOST):
                await connection.disconnect(nowait=True)

    def _connections(self) -> list[Any]:
        """Of the pubsub layer, one for each host, where it has the shape we know."""
        pubsubs = [getattr(shard, "_pubsub", None) for shard in getattr(self._layer, "_shards", ())]
        found = [getattr(pubsub, "connection", None) for pubsub in pubsubs]
        return [one for one in found if hasattr(one, "register_connect_callback")]

    def _connected(self, connection: Any) -> None:
        self._on_cut(ConnectionError("the subscription was cut, and made anew"))


def _one_key_per_host(layer: ChannelLayer, base: str) -> list[str]:
    """Names of groups that together use every host, as far as the layer shows them."""
    hosts = len(getattr(layer, "_shards", ())) or getattr(layer, "ring_size", 1)
    keys: dict[object, str] = {}
    # A hash of 12 bits spreads them: a thousand names a host find it.
    for number in range(1000 * hosts):
        key = f"{base}.{number}"
        keys.setdefault(_host_of(layer, key), key)
        if len(keys) == hosts:
            break
    return list(keys.values())


def _host_of(layer: Any, key: str) -> object:
    """Which host carries a group, where the layer is one of channels_redis."""
    if hasattr(layer, "_get_shard"):
        return layer._get_shard(layer._get_group_channel_name(key))
    if hasattr(layer, "consistent_hash"):
        return layer.consistent_hash(key)
    return None
