"""The histories of one process: where no channel layer leads to others, and in tests."""

import heapq
import itertools
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from ..layer.envelope import Batch
from .base import (
    EMPTY_TTL,
    POSITION_TTL,
    REMEMBERED,
    OnAppended,
    Page,
    Position,
    Publication,
    Retention,
    StaleBatch,
    find_range,
    new_epoch,
)

#: About the most bytes of all publications together; the oldest groups lose theirs first.
MAX_BYTES = 268_435_456
#: Most groups of which anything is known.
MAX_GROUPS = 100_000
#: Most idempotency keys of all groups together; the oldest are forgotten first.
MAX_KEYS = 100_000


class _Group:
    """What is kept of one group."""

    __slots__ = (
        "batches",
        "due",
        "ends",
        "epoch",
        "forgotten_at",
        "publications",
        "top",
    )

    def __init__(self) -> None:
        self.epoch = new_epoch()
        self.top = 0
        self.publications: deque[Publication] = deque()
        #: When the publications expire, and when all else does.
        self.ends = self.forgotten_at = float("inf")
        #: When the store looks at it next.
        self.due = float("inf")
        #: Origin -> its last batch, the answer, and until when it is remembered; the oldest
        #: first.
        self.batches: OrderedDict[str, tuple[int, Position, float]] = OrderedDict()

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.top)

    def find_due(self) -> float:
        """When something of it expires next."""
        due = self.ends if self.publications else self.forgotten_at
        for _, _, until in itertools.islice(self.batches.values(), 1):
            due = min(due, until)
        return due

    def drop_known(self, now: float) -> None:
        """Forget batches that are remembered no longer."""
        while self.batches and next(iter(self.batches.values()))[2] <= now:
            self.batches.popitem(last=False)


class MemoryHistory:
    """
    A :class:`~filtered_websocket.history.base.HistoryStore` in this process. Any thread; what
    it keeps is bounded, and what is over the bound is told as any loss is.
    """

    publishes = False

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int = MAX_BYTES,
        max_groups: int = MAX_GROUPS,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_groups = max_groups
        self._max_keys = max_keys
        self._lock = threading.Lock()
        #: The group that was used last is the last one.
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        #: Those of them in which nothing has been published; the same order.
        self._empty: OrderedDict[str, _Group] = OrderedDict()
        #: Those of them with publications; the one that was published to last is the last.
        self._filled: OrderedDict[str, _Group] = OrderedDict()
        #: Group and idempotency key -> the answer, and until when it is remembered; the oldest
        #: first.
        self._keys: OrderedDict[tuple[str, str], tuple[Position, float]] = OrderedDict()
        #: When to look at which group; the entry that is not as its ``due`` is an old one.
        self._due: list[tuple[float, int, str, _Group]] = []
        self._numbers = itertools.count()
        #: About the bytes of all publications.
        self.bytes = 0

    def append(
        self,
        batch: Batch,
        retention: Retention,
        on_done: OnAppended,
        idempotency_key: str = "",
    ) -> None:
        """As every store does; and a batch of no origin is never sent again."""
        with self._lock:
            answer = self._append(batch, retention, idempotency_key)
        on_done(answer)

    def _append(self, batch: Batch, retention: Retention, key: str) -> Position | StaleBatch:
        now = self._clock()
        group = self._find(batch.key, now)
        group.drop_known(now)
        if batch.origin in group.batches:
            number, answer, _ = group.batches[batch.origin]
            if batch.first <= number:
                return answer if batch.first == number else StaleBatch(batch.origin)
        known = self._keys.get((batch.key, key)) if key else None
        if known is not None:
            position = known[0]._replace(repeated=True)
        else:
            position = self._keep(batch, group, retention, now)
            if key:
                self._remember(batch.key, key, position, now)
        if batch.origin:
            group.batches[batch.origin] = batch.first, position, now + REMEMBERED
            group.batches.move_to_end(batch.origin)
        self._look_at(batch.key, group)
        return position

    def _keep(self, batch: Batch, group: _Group, retention: Retention, now: float) -> Position:
        for item in batch.items:
            group.top += 1
            group.publications.append(Publication(group.top, item))
            self.bytes += item.size
        while len(group.publications) > retention.size:
            self._drop_oldest(group)
        group.ends = now + retention.ttl
        group.forgotten_at = group.ends + POSITION_TTL
        self._empty.pop(batch.key, None)
        self._filled[batch.key] = group
        self._filled.move_to_end(batch.key)
        while self.bytes > self._max_bytes:
            key, oldest = next(iter(self._filled.items()))
            self._drop_oldest(oldest)
            if not oldest.publications:
                del self._filled[key]
        return group.position

    def _remember(self, group: str, key: str, position: Position, now: float) -> None:
        self._keys[group, key] = position, now + REMEMBERED
        if len(self._keys) > self._max_keys:
            self._keys.popitem(last=False)

    async def read(
        self,
        key: str,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Page:
        return self.read_now(key, since, limit, reverse)

    def read_now(self, key: str, since: Position | None, limit: int | None, reverse: bool) -> Page:
        """:meth:`read`, without an event loop."""
        with self._lock:
            group = self._find(key, self._clock())
            top, publications = group.position, group.publications
            offsets = find_range(top, len(publications), since, limit, reverse)
            if offsets is None:
                return Page([], top, recovered=False)
            before = offsets.start - (top.offset - len(publications) + 1)
            found = list(itertools.islice(publications, before, before + len(offsets)))
        return Page(found[::-1] if reverse else found, top)

    async def tops(self, keys: Iterable[str]) -> dict[str, Position]:
        with self._lock:
            now = self._clock()
            return {key: self._find(key, now).position for key in keys}

    async def forget(self, key: str) -> None:
        self.forget_now(key)

    def forget_now(self, key: str) -> None:
        """:meth:`forget`, without an event loop."""
        with self._lock:
            group = self._find(key, self._clock())
            group.epoch = new_epoch()
            self._clear(key, group)

    # What is kept

    async def close(self) -> None:
        """The next hub of this process finds what is kept."""

    def _find(self, key: str, now: float) -> _Group:
        """The group, without what has expired; a new one if nothing is known of it."""
        self._expire(now)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._max_groups:
                # Who only asks must not push out what somebody has published.
                self._remove(next(iter(self._empty or self._groups)))
            group = self._groups[key] = self._empty[key] = _Group()
        self._groups.move_to_end(key)
        if not group.top:
            group.ends = group.forgotten_at = now + EMPTY_TTL
            self._empty.move_to_end(key)
            self._look_at(key, group)
        return group

    def _remove(self, key: str) -> None:
        """Nothing is known of it from here on."""
        self._empty.pop(key, None)
        self._clear(key, self._groups.pop(key))
        if len(self._due) > 2 * self._max_groups:
            # Most are of groups that were pushed out.
            self._due = [one for one in self._due if self._groups.get(one[2]) is one[3]]
            heapq.heapify(self._due)

    def _look_at(self, key: str, group: _Group) -> None:
        """Have :meth:`_expire` look at ``group`` when something of it expires."""
        due = group.find_due()
        if due < group.due:
            group.due = due
            heapq.heappush(self._due, (due, next(self._numbers), key, group))

    def _expire(self, now: float) -> None:
        while self._keys and next(iter(self._keys.values()))[1] <= now:
            self._keys.popitem(last=False)
        while self._due and self._due[0][0] <= now:
            due, _, key, group = heapq.heappop(self._due)
            if self._groups.get(key) is not group or due != group.due:
                continue
            group.due = float("inf")
            group.drop_known(now)
            if group.forgotten_at <= now:
                self._remove(key)
                continue
            if group.ends <= now:
                self._clear(key, group)
            self._look_at(key, group)

    def _clear(self, key: str, group: _Group) -> None:
        self._filled.pop(key, None)
        while group.publications:
            self._drop_oldest(group)

    def _clear_all(self) -> None:
        self._groups.clear()
        self._empty.clear()
        self._filled.clear()
        self._keys.clear()
        self._due.clear()
        self.bytes = 0

    def _drop_oldest(self, group: _Group) -> None:
        self.bytes -= group.publications.popleft().item.size


# Made here: two threads that ask at once must not get two.
_of_process = MemoryHistory()


def process_history() -> MemoryHistory:
    """What all hubs and threads of this process share."""
    return _of_process


def forget_all() -> None:
    """After a fork: what is kept is the parent's."""
    global _of_process
    _of_process = type(_of_process)()


def use_history(history: MemoryHistory) -> None:
    """What all share from now on: in a process that runs tests, their own."""
    global _of_process
    _of_process = history


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=forget_all)
