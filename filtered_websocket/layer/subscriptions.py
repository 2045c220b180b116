"""
Keeps the hub's channel in the right groups of the channel layer, through outages.

The hub decides at once which groups are *wanted*. One task makes the *joined* ones equal to
them; as nothing else changes those, no two changes can race.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from ..conf import conf
from ..threads.tasks import Tasks, end_tasks, pause
from ..transports import settle
from ..types import GroupLayer
from .health import LOST


class AbandonedChannel(NamedTuple):
    """A channel that could not be removed from all its groups when its hub ended."""

    layer: GroupLayer
    channel: str
    keys: set[str]


#: By event loop: channels_redis keeps separate state for each.
_abandoned: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[AbandonedChannel]]" = (
    weakref.WeakKeyDictionary()
)


class Subscriptions:
    """
    Guarantees: a wanted group is joined as soon as the layer accepts it, again after
    :meth:`rejoin`, and again before the layer's own expiry removes it. Every call to the
    layer ends within ``LAYER_TIMEOUT``.
    """

    at_once = 32  #: How many groups are joined or left concurrently.

    def __init__(
        self,
        layer: GroupLayer,
        on_joined_late: Callable[[str], None],
        on_error: Callable[[Exception], None],
        on_up_to_date: Callable[[], None],
    ) -> None:
        self._layer = layer
        self._on_joined_late = on_joined_late
        self._on_error = on_error
        self._on_up_to_date = on_up_to_date
        #: The hub's channel on the layer, once there is one.
        self.channel: str | None = None
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        #: The layer failed while one of these was left: it may be joined still.
        self._unclean: set[str] = set()
        self._to_report: set[str] = set()
        #: These were joined, and have to be joined again.
        self._interrupted: set[str] = set()
        self._changed: dict[str, None] = {}
        self._change = asyncio.Event()
        #: Set while the joined groups are the wanted ones.
        self.up_to_date = asyncio.Event()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        expiry = getattr(layer, "group_expiry", None)
        #: The core and in-memory layers expire a group_add after this; others do not.
        self._refresh = expiry / 3 if isinstance(expiry, int | float) else None

    async def open(self) -> str:
        """The channel: one that an earlier hub of this loop abandoned, or a new one."""
        abandoned = _abandoned.get(asyncio.get_running_loop(), [])
        for found in abandoned:
            if found.layer is self._layer:
                abandoned.remove(found)
                self.channel = found.channel
                self._unclean |= found.keys
                for key in found.keys:
                    self._mark_changed(key)
                break
        else:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                self.channel = await self._layer.new_channel()
        self._change.set()
        return self.channel

    def want(self, key: str) -> None:
        self._wanted.add(key)
        self._mark_changed(key)

    def unwant(self, key: str) -> None:
        self._wanted.discard(key)
        self._mark_changed(key)

    def is_joined(self, key: str) -> bool:
        return key in self._joined

    async def wait_joined(self, key: str) -> bool:
        """Wait at most ``LAYER_TIMEOUT`` until ``key`` is joined; returns whether it is."""
        if key in self._joined:
            return True
        waiter = self._waiters.get(key)
        if waiter is None:
            waiter = self._waiters[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait([waiter], timeout=conf.LAYER_TIMEOUT)
        return key in self._joined

    def report_when_joined(self, key: str) -> None:
        """Call ``on_joined_late`` once ``key`` is joined."""
        self._to_report.add(key)

    def report_interrupted(self, keys: Iterable[str]) -> None:
        """
        Call ``on_joined_late`` once for each group that is still to be joined again, except
        for ``keys``.
        """
        self._to_report |= self._interrupted.difference(keys)

    def rejoin(self) -> None:
        """Join every group again: the layer may have forgotten any of them."""
        self._unclean |= self._joined
        self._interrupted |= self._joined
        self._joined.clear()
        for key in self._wanted:
            self._mark_changed(key)

    def unsubscribe_all(self) -> None:
        """Leave every group."""
        self._wanted.clear()
        for key in (*self._joined, *self._unclean):
            self._mark_changed(key)

    def close(self, clean: bool, keeps: bool = True) -> None:
        """
        Give up the channel, after the task has ended.

        If it is still in a group, or ``clean`` is False, a layer that ``keeps`` channels may
        keep it; the next hub of this loop then uses it again.
        """
        keys = self._joined | self._unclean
        if keeps and self.channel is not None and (keys or not clean):
            abandoned = _abandoned.setdefault(asyncio.get_running_loop(), [])
            abandoned.append(AbandonedChannel(self._layer, self.channel, keys))
        self.channel = None
        for waiter in self._waiters.values():
            waiter.cancel()
        self._waiters.clear()

    # The task

    def _mark_changed(self, key: str) -> None:
        self._changed[key] = None
        self.up_to_date.clear()
        self._change.set()

    async def run(self) -> None:
        """Join and leave what has changed, until cancelled."""
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
                    await self._adjust_some(tuple(self._changed)[: self.at_once], self.channel)
                self.up_to_date.set()
                self._on_up_to_date()
            except Exception as error:
                self._on_error(error)
                failures += 1
                await asyncio.sleep(pause(failures))
                self._change.set()
            else:
                failures = 0

    async def _adjust_some(self, keys: tuple[str, ...], channel: str) -> None:
        """Adjust several groups concurrently; raises the first error when all have ended."""
        calls = [self._adjust(key, channel) for key in keys]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException):
                # A cancellation inside the layer must not end this task.
                raise result if isinstance(result, Exception) else ConnectionError(repr(result))

    async def _adjust(self, key: str, channel: str) -> None:
        """Join or leave one group, as is wanted now."""
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            if key in self._wanted:
                if key not in self._joined:
                    self._unclean.add(key)  # without an answer it may be joined later
                    await self._layer.group_add(key, channel)
                    self._joined.add(key)
            elif key in self._joined or key in self._unclean:
                if key in self._unclean:
                    # The pubsub layer removes a member before it unsubscribes. Where that
                    # failed, join first: only a member can leave.
                    await self._layer.group_add(key, channel)
                # Not joined from here on: a new member must wait for a new join.
                self._joined.discard(key)
                self._unclean.add(key)
                await self._layer.group_discard(key, channel)
            self._unclean.discard(key)
        self._finish(key)

    def _finish(self, key: str) -> None:
        """A call for this group has ended: if nothing is left to be done, say so."""
        if (key in self._wanted) == (key in self._joined) and key not in self._unclean:
            self._changed.pop(key, None)
            self._interrupted.discard(key)
            waiter = self._waiters.pop(key, None)
            if waiter is not None:
                settle(waiter)
            if key in self._to_report:
                self._to_report.discard(key)
                if key in self._joined:
                    self._on_joined_late(key)


# Groups of Channels

#: Called with the name of a group, and an event that was sent to it.
Receive = Callable[[str, Any], None]


class Boxes:
    """
    A channel for each group, from which events are received: as a layer of Channels has groups,
    for :class:`Subscriptions`. By a task each, on layers of which nothing else is known.
    """

    def __init__(self, layer: Any, tasks: Tasks, receive: Receive) -> None:
        self._layer, self._tasks, self._receive = layer, tasks, receive
        self.group_expiry = getattr(layer, "group_expiry", None)
        self._channels: dict[str, str] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def new_channel(self) -> str:
        """Each group has another one."""
        return ""

    async def group_add(self, group: str, channel: str) -> None:
        """Receive what is sent to ``group``."""
        if group not in self._channels:
            self._channels[group] = await self._open(group)
        await self._join(group, self._channels[group])

    async def group_discard(self, group: str, channel: str) -> None:
        """Undo :meth:`group_add`."""
        await self._part(group, self._channels[group])
        self._close(self._channels.pop(group))

    async def close(self) -> None:
        """Receive nothing any more."""
        for channel in self._channels.values():
            self._close(channel)
        await end_tasks(self._ending)

    async def _open(self, group: str) -> str:
        channel: str = await self._layer.new_channel()
        listen = partial(self._listen, group, channel)
        self._listening[channel] = self._tasks.start(listen, f"fws-bridge {group:.40}")
        return channel

    async def _join(self, group: str, channel: str) -> None:
        await self._layer.group_add(group, channel)

    async def _part(self, group: str, channel: str) -> None:
        await self._layer.group_discard(group, channel)

    def _close(self, channel: str) -> None:
        task = self._listening.pop(channel)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _listen(self, group: str, channel: str) -> None:
        failures = 0
        while True:
            try:
                event = await self._layer.receive(channel)
                failures = 0
            except Exception as error:
                event = error  # which is no event
                failures += 1
            if not isinstance(event, LOST):
                self._receive(group, event)
            await asyncio.sleep(pause(failures) if failures else 0)
