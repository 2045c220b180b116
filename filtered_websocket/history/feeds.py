"""
Keeps the groups with history of one process up to date: asks the store for what has not come.

::

    a batch skips some      -> it is held, and what is missing is asked for, once per process
    every COMPARE seconds   -> positions are compared with the tops: a last word may be lost
    the layer is back       -> the same
    it is no longer kept    -> the members are told
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from ..layer.health import is_away
from ..logs import LogThrottle, get_logger
from ..threads.tasks import Tasks, end_tasks
from .base import HistoryStore, Position
from .feed import ON_ITS_WAY, Feed, Link
from .follower import Run
from .hosts import SlotMoving

logger = get_logger(__name__)

#: Seconds between two comparisons with the tops.
COMPARE = 25.0
#: So many positions are asked for together.
TOGETHER = 1000


class Host(Protocol):
    """The part of a hub that is used here."""

    tasks: Tasks
    counts: Counter[str]

    @property
    def link(self) -> Link: ...


class Feeds:
    """All groups with history that have members here. Belongs to one event loop."""

    def __init__(self, host: Host, open_store: Callable[[Any], HistoryStore | None]) -> None:
        self._host = host
        self.tasks = host.tasks
        self.counts = host.counts
        self.throttle = LogThrottle()
        self._open_store = open_store
        #: The link whose store it is.
        self._opened: Link | None = None
        self._store: HistoryStore | None = None
        self._feeds: dict[str, Feed] = {}
        self._watching: asyncio.Task[None] | None = None
        self._comparing: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link:
        return self._host.link

    @property
    def store(self) -> HistoryStore | None:
        """Where histories are kept; None with a layer that leads to no place for them."""
        link = self._host.link
        if link is not self._opened:
            self._opened, self._store = link, self._open_store(link)
        return self._store

    def open(
        self,
        key: str,
        on_run: Callable[[Run], object],
        on_lost: Callable[[], object],
        has_members: bool,
    ) -> Feed | None:
        """
        Follow the history of a group that this process joins; None if nothing is kept here.
        ``on_lost`` is called before a run that does not follow on the one before.
        ``has_members`` says whether somebody gets what comes already.
        """
        store = self.store
        if store is None:
            return None
        feed = self._feeds[key] = Feed(self, store, key, on_run, on_lost)
        feed.follower.keeps_all = has_members
        if self._watching is None:
            self._watching = self.tasks.start(self._watch, "fws-history")
        return feed

    def close(self, feed: Feed) -> None:
        """The last member of its group has left."""
        feed.close()
        self._feeds.pop(feed.key, None)

    def compare_soon(self) -> None:
        """The layer is back: something may have been missed."""
        if self._feeds and self._comparing is None:
            self._comparing = self.tasks.start(self.compare, "fws-history-compare")
            self._comparing.add_done_callback(self._compared)

    def _compared(self, task: "asyncio.Task[None]") -> None:
        self._comparing = None

    async def stop(self) -> None:
        """Forget everything, when the hub ends."""
        feeds, self._feeds = self._feeds, {}
        store, self._opened, self._store = self._store, None, None
        tasks = [task for feed in feeds.values() for task in feed.close()]
        tasks += filter(None, (self._watching, self._comparing))
        self._watching = None
        await end_tasks(tasks)
        if store is not None:
            await store.close()

    async def _watch(self) -> None:
        while self._feeds:
            await asyncio.sleep(COMPARE)
            await self.compare()
        self._watching = None

    async def compare(self) -> None:
        """Compare all positions with the tops, and ask for what is missing."""
        keys = list(self._feeds)
        try:
            tops = await self._tops(keys)
        except Exception as error:
            self.note_failed(error)
            return
        await asyncio.sleep(ON_ITS_WAY)
        for key, top in tops.items():
            feed = self._feeds.get(key)
            if feed is not None:
                feed.follower.note_top(top)
                feed.check()

    async def _tops(self, keys: list[str]) -> dict[str, Position]:
        store = self.store
        tops: dict[str, Position] = {}
        if store is not None:
            for start in range(0, len(keys), TOGETHER):
                tops |= await store.tops(keys[start : start + TOGETHER])
        return tops

    def note_failed(self, error: Exception) -> bool:
        """
        The store has answered with an error; whether it will pass. Then everything is compared
        again: when the layer is back, or after ``COMPARE`` while a cluster moves the keys.
        """
        if is_away(error):
            self.link.note_lost(error)
            return True
        if isinstance(error, SlotMoving):
            return True
        self.counts["history_failed"] += 1
        if self.throttle.note("history"):
            logger.error(
                "cannot read a history: %r; what is missed until it can be read is told to"
                " subscribers as a gap",
                error,
            )
        return False
