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
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from ..conf import conf

#: What says that the layer is away, rather than that one message is bad.
LOST = (OSError, TimeoutError, RedisError)
#: Longest pause between two tries while the layer is away, seconds.
MAX_PAUSE = 1.0
#: How often a hub sends itself a probe, seconds: a layer may hide that it is deaf.
HEARTBEAT = 5.0


def pause(failures: int) -> float:
    """Exponential back-off with full jitter, seconds."""
    return random.uniform(0.02, min(MAX_PAUSE, 0.05 * 2.0 ** min(failures, 10)))


class Health:
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
