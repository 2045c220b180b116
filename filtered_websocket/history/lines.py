"""
What the members of one group have been sent, of one pipeline in one process; and who joins
with a position.

::

    members      ... 7   8   9   10   11
    joiner (6)     [ 7   8   9 ]            out of history, read once the subscription stands
                           [ 9   10 ]       sent to the members meanwhile
                   [ 7   8   9   10 ] 11    its answer; from here on it is a member
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple, TypeAlias

from ..conf import conf
from ..layer.envelope import EXCLUDE, Item
from ..threads.tasks import pause
from .base import Page, Position
from .feed import Feed

#: Most messages, and about the most bytes, that are sent to the members while a joiner waits
#: for what is older; beyond it asks anew.
MAX_BUFFER = 1024
MAX_BUFFER_BYTES = 4_194_304
#: So many times a joiner asks, where something is in its way each time.
MAX_ASKED = 3


class Passed(NamedTuple):
    """A publication after the group chain."""

    offset: int
    #: What the chain has made of it; None where it has dropped it.
    content: Any
    #: About the bytes that it takes.
    size: int = 0
    #: Ids of connections that do not get it.
    exclude: Collection[str] = ()

    @classmethod
    def of(cls, offset: int, item: Item, content: Any) -> "Passed":
        """What the chain has made of ``item``."""
        return cls(offset, content, item.size, item.meta.get(EXCLUDE, ()))


class Recovery(NamedTuple):
    """The answer to a join with a position."""

    #: Whether ``contents`` are all that was published since, in order.
    recovered: bool
    #: What follows is sent as it comes; None where the history could not be read.
    position: Position | None
    #: What the group chain has made of each.
    contents: list[Any]


class Waiting(NamedTuple):
    """A message that waits for a group chain that awaits."""

    #: None where only the position changes.
    item: Item | None
    position: Position | None = None
    #: Of a group with history.
    line: "Line | None" = None


#: The history could not be read.
NOT_RECOVERED = Recovery(False, None, [])
#: The connection has left the group, or asked again with another position.
SUPERSEDED = Recovery(False, None, [])
#: Runs publications of a page through the group chain.
Prepare: TypeAlias = Callable[[Page], Awaitable[list[Passed]]]
#: Queues a publication for the group chain, or the position alone; False where there is no room.
Put: TypeAlias = Callable[[Position, Item | None], bool]
#: Called with the answer, before anything that comes after it is sent to the joiner, which has
#: to be made a member there. Returns the answer, or another one where that cannot be sent.
OnAnswer: TypeAlias = Callable[[Recovery], Recovery]


class Line:
    """Belongs to one event loop."""

    __slots__ = ("_catching_up", "_prepared", "feed", "joiners", "sent")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        #: The place up to which the members were sent everything.
        self.sent = feed.position
        #: By id of the connection.
        self.joiners: dict[str, Joiner] = {}
        self._catching_up: asyncio.Task[None] | None = None
        #: What was made last of a page.
        self._prepared: tuple[Page, list[Passed]] | None = None

    async def prepare(self, page: Page, prepare: Prepare) -> list[Passed]:
        """Run a page through the group chain, once for all who have asked for it together."""
        if self._prepared is not None and self._prepared[0] is page:
            return self._prepared[1]
        passed = await prepare(page)
        self._prepared = page, passed
        # They have all got their answer in one turn of the event loop.
        asyncio.get_running_loop().call_soon(self._forget)
        return passed

    def _forget(self) -> None:
        self._prepared = None

    def note(self, epoch: str, passed: Passed) -> None:
        """A publication was sent to the members, or dropped by the chain."""
        self.sent = Position(epoch, passed.offset)
        for joiner in tuple(self.joiners.values()):
            joiner.note(passed)

    def handled(self, position: Position, item: Item | None, content: Any) -> None:
        """The chain has made ``content`` of ``item``; without one only the position changes."""
        if item is None:
            self.move(position)
        else:
            self.note(position.epoch, Passed.of(position.offset, item, content))

    def move(self, position: Position) -> None:
        """The members were sent everything up to ``position``, or told that something is lost."""
        self.sent = position
        for joiner in tuple(self.joiners.values()):
            joiner.look()

    def leave(self, id: str) -> None:
        """A connection leaves the group."""
        joiner = self.joiners.get(id)
        if joiner is not None:
            joiner.cancel()

    def lose(self) -> None:
        """What comes next does not follow: who waits for something older asks anew."""
        for joiner in tuple(self.joiners.values()):
            joiner.ask_again()

    # Where the members' chain is slower than what is published

    @property
    def is_behind(self) -> bool:
        """Whether what comes is read from the history later, as there was no room for it."""
        return self._catching_up is not None

    def fall_behind(self, last: Position, put: Put, room: Callable[[], Awaitable[None]]) -> None:
        """There is no room for what comes after ``last``; ``room`` waits for it."""
        self._catching_up = self.feed.start(lambda: self._catch_up(last, put, room))

    async def _catch_up(
        self, last: Position, put: Put, room: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            while True:
                await room()
                page = await self.feed.read(last)
                if page is not None and not page.recovered:
                    self.feed.lose()
                    put(self.feed.position or page.position, None)
                    return
                for offset, item in page.publications if page is not None else ():
                    position = Position(last.epoch, offset)
                    if not put(position, item):
                        break
                    last = position
                if last == self.feed.position:
                    return
                # Other groups may have taken the room, or the history cannot be read now.
                await asyncio.sleep(pause(MAX_ASKED))
        finally:
            self._catching_up = None


class Joiner:
    """A connection that joins with a position, or wants the last publication."""

    def __init__(self, line: Line, id: str, prepare: Prepare, on_answer: OnAnswer) -> None:
        self.id = id
        self._line = line
        self._prepare = prepare
        self._on_answer = on_answer
        #: Sent to the members meanwhile.
        self._buffer: list[Passed] = []
        self._bytes = 0
        self._again = False
        #: What the page has become, and up to where it goes.
        self._page: list[Passed] | None = None
        self._top = Position("", 0)
        self._recovered = False
        self._answer: Recovery | None = None
        self._change: asyncio.Future[None] | None = None
        line.joiners[id] = self

    # Called by the line

    def note(self, passed: Passed) -> None:
        self._bytes += passed.size
        if len(self._buffer) >= MAX_BUFFER or self._bytes >= MAX_BUFFER_BYTES:
            self.ask_again()
        else:
            self._buffer.append(passed)
            self.look()

    def ask_again(self) -> None:
        self._again = True
        self._wake()

    def cancel(self) -> None:
        """The connection leaves the group, or asks again."""
        self._line.joiners.pop(self.id, None)
        self._answer = SUPERSEDED
        self._wake()

    def look(self) -> None:
        """Answer, if the members have been sent as much as the page has."""
        sent, page = self._line.sent, self._page
        if page is None or self._again or self._answer is not None or sent is None:
            return
        if sent.epoch != self._top.epoch or sent.offset < self._top.offset:
            return
        later = [passed for passed in self._buffer if passed.offset > self._top.offset]
        if len(later) != sent.offset - self._top.offset:
            self.ask_again()
            return
        own = self._own([*page, *later]) if self._recovered else []
        self._give(Recovery(self._recovered, sent, own))

    def _own(self, some: list[Passed]) -> list[Any]:
        return [
            passed.content
            for passed in some
            if passed.content is not None and self.id not in passed.exclude
        ]

    def _give(self, answer: Recovery) -> None:
        self._line.joiners.pop(self.id, None)
        self._answer = answer
        self._answer = self._on_answer(answer)
        self._wake()

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    # Run by a task

    async def join(self, read: Callable[[], Awaitable[Page | None]]) -> Recovery:
        """
        Read what was missed, once the subscription stands, and answer. Where something is in
        its way each time, it is not recovered; where the history cannot be read, or not within
        ``LAYER_TIMEOUT``, the answer has no position either.
        """
        page: Page | None = None
        try:
            for _ in range(MAX_ASKED):
                page = await self._ask(read)
                if page is None:
                    break
                if self._answer is not None:
                    return self._answer
        finally:
            # Also where its task is cancelled, as the connection has ended.
            if self._line.joiners.get(self.id) is self:
                del self._line.joiners[self.id]
        if self._answer is None:
            # It is a member from the answer on: what comes after that place is sent to it.
            position = None if page is None else self._line.sent
            self._answer = self._on_answer(Recovery(False, position, []))
        return self._answer

    async def _ask(self, read: Callable[[], Awaitable[Page | None]]) -> Page | None:
        """Ask once, and wait until the members have been sent as much."""
        self._again, self._page, self._buffer, self._bytes = False, None, [], 0
        self._change = asyncio.get_running_loop().create_future()
        page = await read()
        if page is not None:
            self._recovered, self._top = page.recovered, page.position
            self._page = await self._line.prepare(page, self._prepare)
            self.look()
            if self._answer is None:
                await asyncio.wait([self._change], timeout=conf.LAYER_TIMEOUT)
        return page
