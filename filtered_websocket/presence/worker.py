"""
Presence for one hub: enters its connections, renews their leases, and tells joins and leaves.

::

    enter, leave -> Ledger -> the store -> joins and leaves, through the layer -> receive
                                                                                    |
    every third of a lease: renew -> revisions                                      v
                                        +-----------------------> Roster of a group -> tell
    a gap, the layer is back -----------+
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ..conf import conf
from ..layer.envelope import group_key, new_origin
from ..logs import LogThrottle, get_logger
from ..observe import totals
from ..threads.tasks import Tasks, end_tasks, pause
from .base import Event, Info, Members, Store, unpack_info
from .ledger import AT_ONCE, Ledger, Report
from .roster import Rosters

logger = get_logger(__name__)

#: So long after the layer is back rosters are compared: each process puts its own members
#: back meanwhile, of which otherwise a leave and a join would be told. Seconds.
SETTLE = 3.0


class Link(Protocol):
    """The part of the hub's connection to the layer that is used here."""

    @property
    def is_available(self) -> bool: ...
    def is_joined(self, key: str) -> bool: ...


class Worker:
    """
    Belongs to the hub's event loop; one task, until :meth:`stop`.

    ``tell`` gets what subscribers of a group in this process are to be told. The first events
    of a group are the joins of this process's own connections; who was there before is in
    :meth:`present`. ``publish`` sends events for a store that does not; ``made`` gets those
    that no other process was told of.
    """

    def __init__(
        self,
        tasks: Tasks,
        store: Store,
        link: Link,
        tell: Callable[[str, list[Event]], object],
        publish: Callable[[str, list[Event]], Awaitable[None]],
        made: Callable[[str, list[Event]], object] = lambda group, events: None,
    ) -> None:
        self.store = store
        self._link = link
        self._tell = tell
        self._publish = publish
        self._made = made
        self._loop = asyncio.get_running_loop()
        self._throttle = LogThrottle()
        self._ledger = Ledger(store, new_origin(), self._tells)
        #: Of the groups whose joins and leaves are told here.
        self._rosters = Rosters(self._ledger.members)
        #: Groups that the last connection of this process has left.
        self._left: set[str] = set()
        #: Group -> who waits, as of :meth:`entered`.
        self._waiting: dict[str, list[tuple[str | None, asyncio.Future[None]]]] = {}
        self._wake = asyncio.Event()
        self._compare_at = float("inf")
        self._failures = 0
        #: Done when the calls that are under way are answered.
        self._flushing: asyncio.Future[None] | None = None
        self._task = tasks.start(self._run, "fws-presence")
        self._task.add_done_callback(self._ended)

    # Called by the hub

    def enter(self, group: str, connection: str, info: Info, tells: bool, shown: str = "") -> None:
        """
        Enter a connection; ``tells`` where joins and leaves are told to its pipeline.
        ``shown`` as of :func:`.pack_info`; raises as that.
        """
        self._ledger.add(group, connection, info, shown)
        if tells:
            if group in self._left:
                # Of what came since, nobody here was told, and some may not have been heard.
                self._left.discard(group)
                self._rosters.remove(group)
            self._rosters.add(group)
        self._wake.set()

    def leave(self, group: str, connection: str) -> None:
        """Remove a connection."""
        self._ledger.remove(group, connection)
        if not self._ledger.members(group):
            self._left.add(group)
        self._wake.set()

    async def entered(self, group: str, connection: str | None = None) -> None:
        """
        Return when every change of the group is in the store, and :meth:`present` knows
        ``connection``: after ``LAYER_TIMEOUT`` in any case, at once where the layer is away.
        """
        if self._task.done() or not self._link.is_available:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(group, []).append((connection, done))
        self._wake.set()
        await asyncio.wait([done], timeout=conf.LAYER_TIMEOUT)

    def receive(self, group: str, events: list[Event]) -> None:
        """Joins and leaves have arrived through the layer, or from the store."""
        told = self._rosters.apply(group, events)
        if self._rosters.is_stale(group):
            self._wake.set()
        if told:
            self._tell(group, told)
            self._release_known(group)

    def miss(self, group: str) -> None:
        """Something that was published to the group may not have arrived."""
        self._rosters.miss(group)
        self._wake.set()

    def layer_back(self) -> None:
        """The layer was away: it may have lost everything."""
        self._ledger.rejoin()
        self._compare_at = self._loop.time() + SETTLE
        self._wake.set()

    def present(self, group: str) -> Mapping[str, Info]:
        """
        Connection -> its info: what the events that were told add up to. Empty where
        :meth:`enter` was not called with ``tells``.
        """
        members = tuple(self._rosters.present(group).items())
        return {key: unpack_info(packed) for key, packed in members}

    async def flushed(self) -> None:
        """:meth:`entered`, and left, for every group, and the answers have come."""
        await asyncio.gather(*map(self.entered, self._ledger.changed_groups))
        if self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def stop(self) -> None:
        """End the task. What is still in the store ends with its lease."""
        await end_tasks([self._task])
        await self.store.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """By :meth:`stop`, or because the event loop ends: nobody waits any longer."""
        for waiting in self._waiting.values():
            for _, done in waiting:
                done.set_result(None)
        self._waiting.clear()

    # The task

    def _tells(self, group: str) -> bool:
        return group in self._rosters

    async def _run(self) -> None:
        due = self._next_renewal()
        while True:
            await self._wait(min(due, self._compare_at))
            while not self._link.is_available:
                await self._wait(float("inf"))  # layer_back() wakes it
            if self._loop.time() >= self._compare_at:
                self._compare_at = float("inf")
                self._rosters.miss_all()
            is_renewed = True
            if self._loop.time() >= due:
                due = self._next_renewal()
                is_renewed = await self._renew()
            is_done = await self._flush() and await self._read() and is_renewed
            for group in tuple(self._waiting):
                self._release_known(group)
            self._retry(is_done)

    def _next_renewal(self) -> float:
        """At a random moment, so that not all processes look for ended leases at once."""
        return self._loop.time() + self.store.lease / 3 * random.uniform(0.8, 1.0)

    async def _wait(self, until: float) -> None:
        timer = self._loop.call_at(until, self._wake.set) if until < float("inf") else None
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._wake.clear()

    def _retry(self, is_done: bool) -> None:
        if is_done:
            self._failures = 0
        else:
            self._failures += 1
            self._loop.call_later(pause(self._failures), self._wake.set)

    async def _renew(self) -> bool:
        report = await self._ledger.renew()
        totals["presence_failed" if report.errors else "presence_renewed"] += 1
        for group, revision in report.revisions.items():
            self._rosters.check(group, revision)
        return await self._take(report)

    async def _flush(self) -> bool:
        """Send what has changed; whether all was taken."""
        flushing = self._flushing = self._loop.create_future()
        try:
            is_done = await self._take(await self._ledger.flush())
        finally:
            self._flushing = None
            flushing.set_result(None)
        # Not before, so that the leave of the last one was told.
        for group in [one for one in self._left if not self._ledger.is_changed(one)]:
            self._left.discard(group)
            if not self._ledger.members(group):
                self._rosters.remove(group)
        return is_done

    async def _take(self, report: Report) -> bool:
        for group, events in report.events:
            self._made(group, events)
        if not self.store.publishes:
            for group, events in report.events:
                if self._tells(group):
                    await self._publish(group, events)
        for group, error in list(report.errors.items())[:1]:
            self._log(group, error)
        return not report.errors

    def _log(self, group: str, error: BaseException) -> None:
        if self._throttle.note("presence"):
            logger.warning("presence of group %.80r is not up to date: %r", group, error)

    async def _read(self) -> bool:
        """Read the groups of stale rosters, and tell the differences; whether all was read."""
        # Other processes may not have put their members back yet.
        only_new = self._compare_at < float("inf")
        stale = self._rosters.begin(self._may_read, only_new)
        is_done = True
        for at in range(0, len(stale), AT_ONCE):
            some = stale[at : at + AT_ONCE]
            found = await asyncio.gather(*map(self.store.members, some), return_exceptions=True)
            for group, members in zip(some, found, strict=True):
                is_done = self._refresh(group, members) and is_done
        return is_done

    def _may_read(self, group: str) -> bool:
        """What is told before the layer has subscribed would be missed."""
        return self._link.is_joined(group_key(group))

    def _refresh(self, group: str, members: Members | BaseException) -> bool:
        if isinstance(members, BaseException):
            self._rosters.miss(group)
            self._log(group, members)
            return False
        told = self._rosters.refresh(group, members)
        if self._rosters.is_stale(group):
            # Something was missed meanwhile.
            self._wake.set()
        if told:
            self._tell(group, told)
        return True

    def _release_known(self, group: str) -> None:
        """Release those of the group who need not wait any longer."""
        if group not in self._waiting or self._ledger.is_changed(group):
            return
        left = []
        for connection, done in self._waiting.pop(group):
            if self._is_known(group, connection):
                done.set_result(None)
            else:
                left.append((connection, done))
        if left:
            self._waiting[group] = left

    def _is_known(self, group: str, connection: str | None) -> bool:
        """Whether :meth:`present` knows the connection, or never will."""
        is_told = group in self._rosters and connection in self._ledger.members(group)
        return not is_told or connection in self._rosters.present(group)
