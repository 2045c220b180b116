"""
A hub's one mailbox on the channel layer: which groups it listens to, kept true while
the layer comes and goes.

Only one task changes subscriptions, so no two of them can race: what is *wanted* is
decided at once, by the hub; what is *joined* follows.
"""

import asyncio
import contextlib
import contextvars
import time
import weakref
from collections.abc import Callable
from typing import Any

from .conf import conf
from .envelope import VERSION, BadEnvelope, Batch, seal, unseal
from .outages import LOST, PROBE, Outages, Probes, pause
from .transports import settle
from .types import ChannelLayer

#: How many groups are joined or left at the same time.
TOGETHER = 32


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

    async def there(self, deadline: float) -> bool:
        return True

    async def round_trip(self) -> bool:
        return True

    async def stop(self) -> None:
        """Nothing to stop."""


class LayerLink:
    """
    Guarantees: a group wanted is joined as soon as the layer allows, again after every
    loss of the layer, and again before the layer forgets it; every call to the layer
    ends within ``LAYER_TIMEOUT``; no error of the layer ends the listener; a layer that
    is away is noticed, by who only listens too.
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
        self._on_bad = on_bad
        self._on_late = on_late
        self._late: set[str] = set()
        self._all_adjusted = asyncio.Event()
        self._listens = False
        self._channel: str | None = None
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        #: Left, but the layer failed half-way.
        self._unclean: set[str] = set()
        self._changed: dict[str, None] = {}
        self._change = asyncio.Event()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outages = Outages(self._probe, self._join_again, on_lost, on_back, self._spawn)
        self._probes = Probes(layer, self._outages.lose)
        expiry = getattr(layer, "group_expiry", None)
        #: The core and in-memory layers forget a group_add after this; others never.
        self._refresh = expiry / 3 if isinstance(expiry, int | float) else None

    # What the hub asks for

    def start(self) -> None:
        """Listen, until :meth:`stop`."""
        self._listens = True
        for key in self._probes.keys:
            self.want(key)
        self._spawn(self._listen(), "fws-listen")
        self._spawn(self._reconcile(), "fws-subscribe")
        self._spawn(self._outages.watch(), "fws-heartbeat")

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
        if await self._stands(key):
            return True
        self._late.add(key)
        return False

    async def _stands(self, key: str) -> bool:
        if key in self._joined:
            return True
        waiter = self._waiters.get(key)
        if waiter is None:
            waiter = self._waiters[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait([waiter], timeout=conf.LAYER_TIMEOUT)
        return key in self._joined

    async def send(self, batch: Batch) -> None:
        """
        One ``group_send``. Raises what the layer raises, TimeoutError included; where that
        is one of ``LOST`` the batch may have arrived, and may be sent again, as it is,
        when the layer is :meth:`there`.
        """
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._layer.group_send(batch.key, seal(batch))
        except LOST as error:
            self._outages.lose(error)
            raise

    async def there(self, deadline: float) -> bool:
        """Wait for the layer, until ``deadline`` on the monotonic clock; whether it is there."""
        return await self._outages.over(deadline)

    async def round_trip(self) -> bool:
        """
        Whether a message to ourselves comes back through our own subscription.

        What was published before by this hub has then been delivered here, on a
        layer that keeps the order.
        """
        return await self._probe() is None

    async def _probe(self) -> Exception | None:
        """Why the layer does not answer, or None. Who does not listen can only send."""
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                if self._listens:
                    for key in self._probes.keys:
                        await self._stands(key)
                await self._probes.send()
                if self._listens:
                    await self._probes.returned()
        except Exception as error:
            return error
        return None

    async def stop(self) -> None:
        """
        Leave the layer; every task has ended when this returns, and goes on to do so
        where the caller is cancelled.
        """
        await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        # A layer keeps memberships although their reader goes: the task that made them
        # takes them back, for as long as one call may last.
        self._listens = False
        self._wanted.clear()
        for key in (*self._joined, *self._unclean):
            self._note(key)
        if self._channel is not None and self._changed and self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(conf.LAYER_TIMEOUT):
                    await self._all_adjusted.wait()
        while pending := set(self._tasks):
            # More than once: until Python 3.12 asyncio.wait_for, which redis-py uses, may
            # swallow a cancellation.
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.1)
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
        self._all_adjusted.clear()
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
                self._outages.lose(error)
                failures += 1
                await asyncio.sleep(pause(failures))
            except Exception as error:
                # Bytes that do not deserialise: one bad message, whoever sent it.
                self._on_bad(error)
                failures += 1
                await asyncio.sleep(0 if failures == 1 else pause(failures))
            else:
                failures = 0
                self._outages.arrived += 1
                self._open(envelope)
                # A layer with more to read does not wait; sockets must be written to.
                await asyncio.sleep(0)

    def _open(self, envelope: Any) -> None:
        try:
            if isinstance(envelope, dict) and envelope.get("v") == VERSION and PROBE in envelope:
                self._probes.note(envelope[PROBE])
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
                self._probes.watch_connections()
            except Exception as error:
                self._outages.lose(error)
                failures += 1
                await asyncio.sleep(pause(failures))
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

    async def _join_again(self, at_once: bool) -> None:
        """
        Join every group anew, where that is not under way, and wait a while for it: what
        is published before reaches nobody here.
        """
        if not self._listens:
            return
        if at_once or self._all_adjusted.is_set():
            self._rejoin()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._all_adjusted.wait()
