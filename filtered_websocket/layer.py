"""
A hub's one mailbox on the channel layer: which groups it listens to, kept true while
the layer comes and goes.

Only one task changes subscriptions, so no two of them can race: what is *wanted* is
decided at once, by the hub; what is *joined* follows.
"""

import asyncio
import contextlib
import contextvars
import random
import secrets
import time
import weakref
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from .conf import conf
from .envelope import VERSION, BadEnvelope, Batch, seal, unseal
from .logs import get_logger
from .transports import settle
from .types import ChannelLayer

logger = get_logger(__name__)

#: What says that the layer is away, rather than that one message is bad.
LOST = (OSError, TimeoutError, RedisError)
#: Longest pause between two tries while the layer is away, seconds.
MAX_PAUSE = 1.0
#: How many groups are joined or left at the same time.
TOGETHER = 32
#: The key of a probe, which a hub sends to its own mailbox.
PROBE = "probe"


#: Layer -> groups, and the mailbox in them, that a link had to leave behind.
_left_behind: "weakref.WeakKeyDictionary[ChannelLayer, set[tuple[str, str]]]" = (
    weakref.WeakKeyDictionary()
)


class LocalLink:
    """Stands in for a layer where there is none: this loop is the whole world."""

    def __init__(self, on_batch: Callable[[Batch], None]) -> None:
        self._on_batch = on_batch

    def start(self) -> None:
        """Nothing to listen to."""

    def want(self, key: str) -> None:
        """Always joined."""

    def unwant(self, key: str) -> None:
        """Never joined elsewhere."""

    def is_joined(self, key: str) -> bool:
        return True

    async def joined(self, key: str) -> bool:
        return True

    async def send(self, batch: Batch) -> None:
        # Nobody else gets to run between put and flush without this: what one
        # event publishes to a group should still become one batch.
        await asyncio.sleep(0)
        self._on_batch(batch)

    async def round_trip(self) -> bool:
        return True

    async def stop(self) -> None:
        """Nothing to stop."""


class LayerLink:
    """
    Guarantees: a group wanted is joined as soon as the layer allows, again after every
    loss of the layer, and again before the layer forgets it; every call to the layer
    ends within ``LAYER_TIMEOUT``; no error of the layer ends the listener.
    """

    def __init__(
        self,
        layer: ChannelLayer,
        on_batch: Callable[[Batch], None],
        on_lost: Callable[[BaseException], None],
        on_back: Callable[[float], None],
        on_bad: Callable[[Exception], None],
        on_late: Callable[[str], None],
    ) -> None:
        self._layer = layer
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_back = on_back
        self._on_bad = on_bad
        self._on_late = on_late
        self._late: set[str] = set()
        self._all_adjusted = asyncio.Event()
        self._channel: str | None = None
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        #: Left, but the layer failed half-way.
        self._unclean: set[str] = set()
        self._changed: dict[str, None] = {}
        self._change = asyncio.Event()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost_at: float | None = None
        self._probe_returned = asyncio.Event()
        self._probe = ""
        expiry = getattr(layer, "group_expiry", None)
        #: The core and in-memory layers forget a group_add after this; others never.
        self._refresh = expiry / 3 if isinstance(expiry, int | float) else None

    # What the hub asks for

    def start(self) -> None:
        """Listen, until :meth:`stop`."""
        self._spawn(self._listen(), "fws-listen")
        self._spawn(self._reconcile(), "fws-subscribe")

    def want(self, key: str) -> None:
        self._wanted.add(key)
        self._note(key)

    def unwant(self, key: str) -> None:
        self._wanted.discard(key)
        self._note(key)

    def is_joined(self, key: str) -> bool:
        return key in self._joined

    async def joined(self, key: str) -> bool:
        """Wait for ``key``'s subscription, ``LAYER_TIMEOUT`` at most; whether it stands."""
        if key in self._joined:
            return True
        waiter = self._waiters.get(key)
        if waiter is None:
            waiter = self._waiters[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait([waiter], timeout=conf.LAYER_TIMEOUT)
        if key in self._joined:
            return True
        self._late.add(key)
        return False

    async def send(self, batch: Batch) -> None:
        """One ``group_send``. Raises what the layer raises, TimeoutError included."""
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._layer.group_send(batch.key, seal(batch))
        except LOST as error:
            self._lose(error)
            raise

    async def round_trip(self) -> bool:
        """
        Whether a message to ourselves comes back through our own subscription.

        What was published before by this hub has then been delivered here, on a
        layer that keeps the order.
        """
        if self._channel is None:
            return False
        self._probe = secrets.token_hex(8)
        self._probe_returned.clear()
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._layer.send(self._channel, {"v": VERSION, PROBE: self._probe})
                await self._probe_returned.wait()
        except Exception:
            logger.debug("the channel layer is still away", exc_info=True)
            return False
        return True

    async def stop(self) -> None:
        """
        Leave the layer; every task has ended when this returns, and goes on to do so
        where the caller is cancelled.
        """
        await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        # A layer keeps memberships although their reader goes: the task that made them
        # takes them back, for as long as one call may last.
        self._wanted.clear()
        for key in (*self._joined, *self._unclean):
            self._note(key)
        if self._channel is not None and self._changed and self._tasks:
            self._all_adjusted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(conf.LAYER_TIMEOUT):
                    await self._all_adjusted.wait()
        pending = set(self._tasks)
        while pending:
            # More than once: until Python 3.12 asyncio.wait_for, which redis-py uses, may
            # swallow a cancellation.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        if self._channel is not None and (self._joined or self._unclean):
            left = _left_behind.setdefault(self._layer, set())
            left.update((key, self._channel) for key in self._joined | self._unclean)
        self._channel = None
        for waiter in self._waiters.values():
            waiter.cancel()
        self._waiters.clear()

    # How it is kept true

    def _spawn(self, coroutine: Any, name: str) -> None:
        # In a context of its own, not that of whoever came first.
        context = contextvars.Context()
        task = asyncio.get_running_loop().create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note(self, key: str) -> None:
        self._changed[key] = None
        self._change.set()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                if self._channel is None:
                    async with asyncio.timeout(conf.LAYER_TIMEOUT):
                        self._channel = await self._layer.new_channel()
                    self._change.set()
                envelope = await self._layer.receive(self._channel)
            except LOST as error:
                self._lose(error)
                failures += 1
                await asyncio.sleep(_pause(failures))
            except Exception as error:
                # Bytes that do not deserialise: one bad message, whoever sent it.
                self._on_bad(error)
                failures += 1
                await asyncio.sleep(0 if failures == 1 else _pause(failures))
            else:
                failures = 0
                self._open(envelope)
                # A layer with more to read does not wait; sockets must be written to.
                await asyncio.sleep(0)

    def _open(self, envelope: Any) -> None:
        try:
            if isinstance(envelope, dict) and envelope.get("v") == VERSION and PROBE in envelope:
                if envelope[PROBE] == self._probe:
                    self._probe_returned.set()
                return
            batch = unseal(envelope)
        except BadEnvelope as error:
            self._on_bad(error)
            return
        self._on_batch(batch)

    async def _reconcile(self) -> None:
        failures = 0
        refreshed = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._refresh):
                    await self._change.wait()
            except TimeoutError:
                pass
            if self._refresh is not None and time.monotonic() - refreshed >= self._refresh:
                refreshed = time.monotonic()
                self._rejoin()
            self._change.clear()
            if self._channel is None:
                continue
            try:
                await self._take_back()
                while self._changed:
                    await self._adjust_some(tuple(self._changed)[:TOGETHER], self._channel)
                self._all_adjusted.set()
            except Exception as error:
                self._lose(error)
                failures += 1
                await asyncio.sleep(_pause(failures))
                self._change.set()
            else:
                failures = 0

    async def _take_back(self) -> None:
        """What an earlier link of this layer could not leave, as the layer was away."""
        left = _left_behind.get(self._layer, set())
        for key, channel in tuple(left):
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._layer.group_discard(key, channel)
            self._unclean.add(key)
            self._note(key)
            left.discard((key, channel))

    async def _adjust_some(self, keys: tuple[str, ...], channel: str) -> None:
        """Several groups side by side; raises the first error when all have ended."""
        calls = [self._adjust(key, channel) for key in keys]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException):
                # A cancellation that is not ours must not end the task.
                raise result if isinstance(result, Exception) else ConnectionError(repr(result))

    async def _adjust(self, key: str, channel: str) -> None:
        """Make the layer's state of one group what is wanted now."""
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            if key in self._wanted:
                if key not in self._joined:
                    await self._layer.group_add(key, channel)
                    self._joined.add(key)
            elif key in self._joined or key in self._unclean:
                if key in self._unclean:
                    # The pubsub layer forgets a member before it unsubscribes: where that
                    # failed, only a member can leave again.
                    await self._layer.group_add(key, channel)
                # Not joined from here on: who comes now must wait for a new join.
                self._joined.discard(key)
                self._unclean.add(key)
                await self._layer.group_discard(key, channel)
            self._unclean.discard(key)
        if (key in self._wanted) == (key in self._joined) and key not in self._unclean:
            self._changed.pop(key, None)
            waiter = self._waiters.pop(key, None)
            if waiter is not None:
                settle(waiter)
            if key in self._late:
                self._late.discard(key)
                if key in self._joined:
                    self._on_late(key)

    def _rejoin(self) -> None:
        """Join every group again; of what the layer still knows, nothing is certain."""
        self._unclean |= self._joined
        self._joined.clear()
        for key in self._wanted:
            self._note(key)

    # Away and back

    def _lose(self, error: BaseException) -> None:
        """Note, once, that the layer is away; a probe finds out when it is back."""
        if self._lost_at is not None or not self._tasks:
            return
        self._lost_at = time.monotonic()
        self._on_lost(error)
        self._spawn(self._find_back(self._lost_at), "fws-probe")

    async def _find_back(self, lost_at: float) -> None:
        failures = 0
        while not await self.round_trip():
            failures += 1
            await asyncio.sleep(_pause(failures))
        # Other processes may listen again only later than this one.
        await asyncio.sleep(conf.LAYER_SETTLE)
        self._lost_at = None
        self._rejoin()
        self._on_back(time.monotonic() - lost_at)


def _pause(failures: int) -> float:
    """Exponential back-off with full jitter, seconds."""
    return random.uniform(0.02, min(MAX_PAUSE, 0.05 * 2.0 ** min(failures, 10)))
