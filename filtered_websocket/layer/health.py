"""
Detects outages of the channel layer, and when they are over.

::

    a call failed, a probe is missing,
    the subscriber had to reconnect     -> lost: messages to publish are queued
    a probe returned                    -> wait LAYER_SETTLE: others have to subscribe, too
    another probe returned              -> back: queued messages are sent
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.exceptions import RedisError

from ..conf import conf
from ..threads.tasks import Start, pause

#: Errors that mean an outage of the layer, not one bad message.
LOST = (OSError, TimeoutError, RedisError)
#: Interval of probes, seconds: a layer may hide that it receives nothing any more.
HEARTBEAT = 5.0


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
            error = None if self.is_lost else await self._probe()
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
        return await self._probe() is None
