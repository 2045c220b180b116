"""
One group with history, in one process: hands its publications out in order, and asks the store
for those that have not come.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..layer.envelope import Batch
from ..threads.tasks import Tasks, pause
from .base import HistoryStore, Page, Position, Question
from .follower import Follower, Run

#: Seconds for what is on its way: what comes meanwhile is not asked for.
ON_ITS_WAY = 0.2
#: After so many answers that do not explain what has come, it counts as lost.
MAX_USELESS = 5


class Link(Protocol):
    """The part of a hub's link to the layer that is used here."""

    async def wait_joined(self, key: str) -> bool: ...
    def note_lost(self, error: Exception) -> None: ...


class Host(Protocol):
    """What is the same for all groups."""

    tasks: Tasks
    counts: Counter[str]

    @property
    def link(self) -> Link: ...
    def note_failed(self, error: Exception) -> bool: ...


class Feed:
    """One group with history, in one process. Belongs to the event loop that makes it."""

    __slots__ = (
        "_host",
        "_on_lost",
        "_on_run",
        "_questions",
        "_store",
        "_tasks",
        "_updating",
        "_waiters",
        "follower",
        "is_open",
        "key",
    )

    def __init__(
        self,
        host: Host,
        store: HistoryStore,
        key: str,
        on_run: Callable[[Run], object],
        on_lost: Callable[[], object],
    ) -> None:
        self.key = key
        self.follower = Follower()
        self._host = host
        self._store = store
        self._on_run = on_run
        self._on_lost = on_lost
        self.is_open = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._updating: asyncio.Task[None] | None = None
        #: Who waits for the same question of :meth:`read`, until it is put.
        self._questions: dict[Position | None, Question] = {}
        #: Of those who wait for the first position.
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def position(self) -> Position | None:
        """What was handed out last; None before the subscription stands."""
        return self.follower.position

    def take(self, batch: Batch) -> None:
        """A batch has come from the layer."""
        follower = self.follower
        before = follower.position
        run = follower.take(batch)
        if run is not None:
            self._on_run(run)
        elif before is not None and not follower.asks_page:
            self._host.counts["duplicate"] += len(batch.items)
        if follower.asks_page or before is None:
            self.check()

    def check(self) -> None:
        """Ask for what is missing, unless that is in progress."""
        follower = self.follower
        asks = follower.asks_top or follower.asks_page
        if asks and self.is_open and self._updating is None:
            self._updating = self.start(self._update)

    async def begun(self) -> Position | None:
        """Wait for the first position; None where it cannot be had now."""
        if self.is_open and self.position is None:
            self.check()
            await self._wait()
            self.follower.keeps_all |= self.position is None
        return self.position

    async def _wait_begun(self) -> None:
        """Wait for the questions of others that decide where this group begins."""
        while self.is_open and self.position is None:
            await self._wait()

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """A task of this group, which ends with it."""
        task = self._host.tasks.start(run, "fws-history-group")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> "set[asyncio.Task[None]]":
        """No member is left here. Returns tasks that were cancelled."""
        self.is_open = False
        for task in self._tasks:
            task.cancel()
        self._wake()
        return self._tasks

    # Asking

    async def _update(self) -> None:
        try:
            await self._ask()
        finally:
            # No await since there was nothing to ask: what comes from here on starts another.
            self._updating = None
            self._wake()

    async def _ask(self) -> None:
        useless = 0
        while self.follower.asks_top or self.follower.asks_page:
            try:
                if self.follower.asks_top:
                    # Until it is joined, nothing comes; then whoever joins late checks again.
                    if not await self._host.link.wait_joined(self.key):
                        return
                    await self._ask_top()
                elif await self._fetch():
                    useless = 0
                elif useless < MAX_USELESS:
                    useless += 1
                    await asyncio.sleep(pause(useless))
                else:
                    self._skip()
            except Exception as error:
                if not self._host.note_failed(error):
                    self._skip()
                # When the layer is back, everything is compared.
                return

    async def _fetch(self) -> bool:
        """Ask for all since the position; whether that has changed something."""
        follower = self.follower
        if not (self._store.publishes and follower.has_skipped):
            # It may be on its way; and of different publishers batches come in any order. Where
            # some of it has come, what is missing now has not been waited for as long.
            reached = follower.position
            await asyncio.sleep(ON_ITS_WAY)
            if not follower.asks_page or follower.position != reached:
                return True
        before, asked = follower.position, follower.ask()
        page = await self._store.read(self.key, before)
        if page.recovered:
            self._hand_out(follower.fill(page, asked))
        elif follower.position == before:
            self.lose()
            self._hand_out(follower.begin(page.position, asked))
        return follower.position != before or not follower.asks_page

    async def _ask_top(self) -> None:
        asked, top = self.follower.ask(), None
        try:
            [top] = (await self._store.tops([self.key])).values()
        finally:
            self._answer(top, asked)
        await self._wait_begun()

    def _answer(self, top: Position | None, asked: int) -> None:
        """The subscription stands, and this was the top after that; None if nobody can say."""
        run = self.follower.answer(top, asked)
        if run is not None:
            self._hand_out(run)
            self._wake()

    async def read(self, since: Position | None) -> Page | None:
        """
        For a joiner: all since there, or the last one; None where it cannot be read. What
        nobody here has got yet is handed out before this returns.

        Those who ask for the same in one turn of the event loop share the question, which is
        put in the next one: of what is sent to the members from here on, they all know.
        """
        if not await self._host.link.wait_joined(self.key):
            self.follower.keeps_all = True
            return None
        question = self._questions.get(since)
        if question is None:
            question = self._questions[since] = Question(self._read(since))
        return await question.answer()

    async def _read(self, since: Position | None) -> Page | None:
        # Before any of its readers can be cancelled, who would end it.
        del self._questions[since]
        follower = self.follower
        asked, top = follower.ask(), None
        try:
            if since is None:
                page = await self._store.read(self.key, limit=1, reverse=True)
            else:
                page = await self._store.read(self.key, since)
            top = page.position
        except Exception as error:
            self._host.note_failed(error)
            follower.keeps_all = True
            return None
        finally:
            self._answer(top, asked)
        await self._wait_begun()
        if page.recovered and since is not None and self._has(since, page):
            self._hand_out(follower.fill(page, asked))
        follower.note_top(page.position)
        self.check()
        return page

    def _has(self, since: Position, page: Page) -> bool:
        """Whether ``page`` has all that nobody here has got."""
        position = self.follower.position
        return (
            position is not None
            and position.epoch == page.position.epoch
            and since.offset <= position.offset
        )

    def _skip(self) -> None:
        """Nobody can say what is missing."""
        self.lose()
        self._hand_out(self.follower.skip())

    def lose(self) -> None:
        """Tell the members that what follows does not follow on what they got."""
        self._host.counts["history_lost"] += 1
        self._on_lost()

    def _hand_out(self, run: Run | None) -> None:
        if run is not None:
            self._on_run(run)
