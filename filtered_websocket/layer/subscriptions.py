"""
Which groups a hub's mailbox is in on the channel layer, kept true while the layer comes
and goes.

Only one task changes them, so no two changes can race: what is *wanted* is decided at
once, by the hub; what is *joined* follows.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from ..conf import conf
from ..transports import settle
from ..types import ChannelLayer
from .health import pause

#: How many groups are joined or left at the same time.
TOGETHER = 32


class Mailbox(NamedTuple):
    """One that had to be left behind, and the groups it may still be in."""

    layer: ChannelLayer
    channel: str
    keys: set[str]


#: By event loop, as a layer of channels_redis is another one on each.
_left_behind: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Mailbox]]" = (
    weakref.WeakKeyDictionary()
)


class Subscriptions:
    """
    Guarantees: a group wanted is joined as soon as the layer allows, again after
    :meth:`rejoin`, and again before the layer forgets it; every call to the layer ends
    within ``LAYER_TIMEOUT``.
    """

    def __init__(
        self,
        layer: ChannelLayer,
        on_late: Callable[[str], None],
        on_error: Callable[[Exception], None],
        on_adjusted: Callable[[], None],
    ) -> None:
        self._layer = layer
        self._on_late = on_late
        self._on_error = on_error
        self._on_adjusted = on_adjusted
        #: The mailbox, once there is one.
        self.channel: str | None = None
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        #: Left, but the layer failed half-way.
        self._unclean: set[str] = set()
        self._late: set[str] = set()
        self._changed: dict[str, None] = {}
        self._change = asyncio.Event()
        #: Set while nothing is left to do.
        self.adjusted = asyncio.Event()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        expiry = getattr(layer, "group_expiry", None)
        #: The core and in-memory layers forget a group_add after this; others never.
        self._refresh = expiry / 3 if isinstance(expiry, int | float) else None

    async def open(self) -> str:
        """The mailbox: the one that had to be left behind here, or a new one."""
        left = _left_behind.get(asyncio.get_running_loop(), [])
        for mailbox in left:
            if mailbox.layer is self._layer:
                left.remove(mailbox)
                self.channel = mailbox.channel
                self._unclean |= mailbox.keys
                for key in mailbox.keys:
                    self._note(key)
                break
        else:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                self.channel = await self._layer.new_channel()
        self._change.set()
        return self.channel

    def want(self, key: str) -> None:
        self._wanted.add(key)
        self._note(key)

    def unwant(self, key: str) -> None:
        self._wanted.discard(key)
        self._note(key)

    def is_joined(self, key: str) -> bool:
        return key in self._joined

    async def stands(self, key: str) -> bool:
        """Wait for ``key``'s subscription, ``LAYER_TIMEOUT`` at most; whether it stands."""
        if key in self._joined:
            return True
        waiter = self._waiters.get(key)
        if waiter is None:
            waiter = self._waiters[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait([waiter], timeout=conf.LAYER_TIMEOUT)
        return key in self._joined

    def tell_when_joined(self, key: str) -> None:
        """``on_late`` is to hear of it."""
        self._late.add(key)

    def rejoin(self) -> None:
        """Join every group again; of what the layer still knows, nothing is certain."""
        self._unclean |= self._joined
        self._joined.clear()
        for key in self._wanted:
            self._note(key)

    def unsubscribe_all(self) -> None:
        """Nothing is wanted any more."""
        self._wanted.clear()
        for key in (*self._joined, *self._unclean):
            self._note(key)

    def close(self, clean: bool) -> None:
        """
        Let go of the mailbox, when the task has ended; of one that is in a group still, or
        whose end was not ``clean``, the layer may know longer than anybody listens.
        """
        keys = self._joined | self._unclean
        if self.channel is not None and (keys or not clean):
            left = _left_behind.setdefault(asyncio.get_running_loop(), [])
            left.append(Mailbox(self._layer, self.channel, keys))
        self.channel = None
        for waiter in self._waiters.values():
            waiter.cancel()
        self._waiters.clear()

    # How it is kept true

    def _note(self, key: str) -> None:
        self._changed[key] = None
        self.adjusted.clear()
        self._change.set()

    async def keep(self) -> None:
        """The task."""
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
                self.rejoin()
            self._change.clear()
            if self.channel is None:
                continue
            try:
                while self._changed:
                    await self._adjust_some(tuple(self._changed)[:TOGETHER], self.channel)
                self.adjusted.set()
                self._on_adjusted()
            except Exception as error:
                self._on_error(error)
                failures += 1
                await asyncio.sleep(pause(failures))
                self._change.set()
            else:
                failures = 0

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
