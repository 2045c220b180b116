"""
What one process has got of the history of one group, and what it has to ask for.

::

    take 7, 8      -> 7, 8
    take 11        -> nothing, and asks_page: 11 is held
    fill 9 .. 11   -> 9, 10, 11
"""

from typing import NamedTuple

from ..layer.envelope import Batch, Item
from .base import Page, Position

#: Most publications of a group, and about the most bytes, that wait for an earlier one. More
#: are not kept here: they are asked for.
MAX_HELD = 1024
MAX_HELD_BYTES = 4_194_304


class Run(NamedTuple):
    """
    Publications to be handed out now, in order; the first one has the offset ``first``. Without
    any, that is where the next run begins.
    """

    epoch: str
    first: int
    items: list[Item]


class Held(NamedTuple):
    """A publication that waits, and after how many questions to the store it came."""

    item: Item
    asked: int


class FirstAnswers:
    """What was asked, and found, before the position of a group is known."""

    __slots__ = ("awaited", "found", "open")

    def __init__(self) -> None:
        #: Questions without an answer, and those of them that were asked before the first answer
        #: came.
        self.open: set[int] = set()
        self.awaited: set[int] = set()
        #: The tops that were found, by question.
        self.found: dict[int, Position] = {}

    def note(self, asked: int, top: Position | None) -> None:
        """The answer to question ``asked``."""
        self.open.discard(asked)
        self.awaited.discard(asked)
        if top is not None:
            if not self.found:
                self.awaited = self.open.copy()
            self.found[asked] = top

    @property
    def lowest(self) -> Position | None:
        """The lowest top of the epoch that was found last, once all of them are known."""
        if self.awaited or not self.found:
            return None
        epoch = self.found[max(self.found)].epoch
        return min(top for top in self.found.values() if top.epoch == epoch)


class Follower:
    """
    Guarantees: what its runs hand out has consecutive offsets of one epoch, each once, until
    :meth:`begin` says that some are lost. Knows no clock and no store: whoever holds it
    looks at :attr:`asks_top` and :attr:`asks_page`, asks, and tells the answer.
    """

    __slots__ = ("_asked", "_bytes", "_first", "_held", "_top", "keeps_all", "position")

    def __init__(self) -> None:
        #: What was handed out last; None until the top was told with :meth:`answer`.
        self.position: Position | None = None
        #: By epoch and offset.
        self._held: dict[tuple[str, int], Held] = {}
        self._bytes = 0
        self._asked = 0
        #: How far the history goes, as was found after so many questions.
        self._top: tuple[Position, int] | None = None
        #: Until there is a position: a process may follow many groups.
        self._first: FirstAnswers | None = FirstAnswers()
        #: Whether somebody gets what comes who is told no position: what has come before there
        #: is one is handed out, too.
        self.keeps_all = False

    @property
    def asks_top(self) -> bool:
        """Whether :meth:`answer` has to be told the top before anything is handed out."""
        return self.position is None

    @property
    def asks_page(self) -> bool:
        """Whether something before what has come is missing: all since ``position``."""
        return self.position is not None and (self.has_skipped or self.is_behind)

    @property
    def has_skipped(self) -> bool:
        """Whether something has come before which something is missing."""
        return bool(self._held)

    @property
    def is_behind(self) -> bool:
        """Whether the history goes further than what was handed out."""
        if self._top is None or self.position is None:
            return False
        top, position = self._top[0], self.position
        return top.epoch != position.epoch or top.offset > position.offset

    def take(self, batch: Batch) -> Run | None:
        """What can be handed out, now that ``batch`` has come."""
        position = self.position
        if position is not None and batch.epoch == position.epoch:
            if batch.first == position.offset + 1 and not self._held:
                # Nearly always.
                self.position = Position(batch.epoch, position.offset + len(batch.items))
                return Run(batch.epoch, batch.first, batch.items)
            if batch.first + len(batch.items) - 1 <= position.offset:
                return None
        self._hold(batch)
        return self._next_run()

    def answer(self, top: Position | None, asked: int) -> Run | None:
        """
        Question ``asked``, put when the subscription stood, has found ``top``, or nothing.
        With the first position, what has come after it.

        That is the lowest top that the first questions have found: whoever asked has got all
        that is before it, and all that is after it comes by the subscription. Questions that
        are asked after the first answer find no lower one, and are not waited for.
        """
        first = self._first
        if first is None:
            return None
        if top is not None:
            if self.keeps_all:
                return self.begin(top, asked)
            self._supersede(top, asked)
        first.note(asked, top)
        lowest = first.lowest
        return None if lowest is None else self._begin_at(lowest)

    def _begin_at(self, top: Position) -> Run:
        for epoch, offset in tuple(self._held):
            if epoch == top.epoch and offset <= top.offset:
                self._drop((epoch, offset))
        self._first, self.position = None, Position(top.epoch, top.offset)
        return self._next_run() or Run(top.epoch, top.offset + 1, [])

    def begin(self, top: Position, asked: int) -> Run:
        """
        What was handed out has no continuation, or nobody knows what was: go on after
        ``top``, or earlier where what has come follows. ``top`` is the answer to question
        ``asked``.
        """
        self._supersede(top, asked)
        first = min(
            (offset for epoch, offset in self._held if epoch == top.epoch), default=top.offset + 1
        )
        self._first, self.position = None, Position(top.epoch, min(first - 1, top.offset))
        return self._next_run() or Run(top.epoch, self.position.offset + 1, [])

    def skip(self) -> Run | None:
        """Nobody can be asked for what is missing: go on with what came last."""
        self._top = None
        if not self._held:
            return None
        epoch = next(reversed(self._held))[0]
        first = min(offset for other, offset in self._held if other == epoch)
        return self.begin(Position(epoch, first - 1), self.ask())

    def note_top(self, top: Position) -> None:
        """The history goes up to ``top``."""
        self._top = top, self._asked

    def ask(self) -> int:
        """The number of the question that the store is asked now."""
        self._asked += 1
        if self._first is not None:
            self._first.open.add(self._asked)
        return self._asked

    def fill(self, page: Page, asked: int) -> Run | None:
        """
        The answer to question ``asked`` with all publications since ``position`` of then, or
        since an earlier place; for one that is not ``recovered`` see :meth:`begin`.
        """
        self._supersede(page.position, asked)
        if page.publications:
            items = [publication.item for publication in page.publications]
            first = page.publications[0].offset
            self._hold(Batch("", "", first, items, page.position.epoch), always=True)
        return self._next_run()

    def _supersede(self, top: Position, asked: int) -> None:
        """
        ``top`` is the answer to question ``asked``: of what came before that, forget what is of
        another epoch. It is of another server than what is kept, and nobody can say where it
        belongs.
        """
        for key, held in tuple(self._held.items()):
            if key[0] != top.epoch and held.asked < asked:
                self._drop(key)
        if self._top is None or self._top[1] < asked:
            self._top = top, asked

    def _hold(self, batch: Batch, always: bool = False) -> None:
        position = self.position
        last = position.offset if position and position.epoch == batch.epoch else 0
        for offset, item in enumerate(batch.items, batch.first):
            if offset <= last or (batch.epoch, offset) in self._held:
                continue
            if not always and (len(self._held) >= MAX_HELD or self._bytes >= MAX_HELD_BYTES):
                self.note_top(Position(batch.epoch, batch.first + len(batch.items) - 1))
                return
            self._held[batch.epoch, offset] = Held(item, self._asked)
            self._bytes += item.size

    def _drop(self, key: tuple[str, int]) -> Item:
        item = self._held.pop(key).item
        self._bytes -= item.size
        return item

    def _next_run(self) -> Run | None:
        """Of what is held, all that follows on what was handed out."""
        if self.position is None:
            return None
        epoch, last = self.position.epoch, self.position.offset
        items: list[Item] = []
        while (epoch, last + len(items) + 1) in self._held:
            items.append(self._drop((epoch, last + len(items) + 1)))
        if not items:
            return None
        self.position = Position(epoch, last + len(items))
        return Run(epoch, last + 1, items)
