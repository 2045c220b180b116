"""
A batch: messages to one group that are sent together, from their queue to the layer; and how one
is sent that is kept in the history of its group. The store appends it, and hands it to the
subscribers where it can, else it is sent with the position that it got.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, cast

from ..history.base import HistoryStore, Position, Retention
from ..history.memory import process_history
from ..layer.envelope import CONTROL, Batch, Item
from ..layer.health import is_away
from ..layer.links import hand_over

#: Most messages, and about the most bytes, of one batch.
MAX_BATCH = 256
MAX_BATCH_BYTES = 262_144
#: Most messages have no idempotency key.
NO_KEYS: Mapping[int, str] = {}
#: Nor are most messages left out of a history.
NO_IDS: frozenset[int] = frozenset()


class Done(Protocol):
    """
    Gets the position of a message in the history of its group, or None, when the layer has it;
    or the error. A future is one. Once, unless it is done.
    """

    def done(self) -> bool: ...
    def set_result(self, result: Position | None, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


#: A queued message, when it was queued (monotonic clock), and the future of its publisher.
Entry: TypeAlias = tuple[Item, float, Done | None]


class Keep(NamedTuple):
    """How a message is kept in the history of its group."""

    retention: Retention
    idempotency_key: str = ""


class Sending:
    """A batch that the layer has not confirmed yet."""

    __slots__ = ("batch", "entries", "error", "group", "keep", "sends")

    def __init__(
        self, group: str, batch: Batch, entries: Sequence[Entry], keep: Keep | None = None
    ) -> None:
        self.group = group
        #: Of a group with history.
        self.keep = keep
        self.batch = batch
        self.entries = entries
        #: Attempts so far, and the error of the last one.
        self.sends = 0
        self.error: Exception | None = None


class Keeps:
    """How what waits to be sent is kept, for the groups with history."""

    def __init__(self) -> None:
        self.by_group: dict[str, Keep] = {}
        #: Id of a message -> its idempotency key: it is sent alone.
        self.keys: dict[int, str] = {}
        #: Ids of messages to these groups that are not kept all the same.
        self.left_out: set[int] = set()

    def add(
        self, group: str, item: Item, keep: Keep | None, waiting: Sequence[Entry] | None = None
    ) -> None:
        """``item`` is sent after those that are ``waiting`` for the same group."""
        if keep is None:
            self.left_out.add(item.id)
            return
        if waiting and group not in self.by_group:
            self.left_out.update([entry[0].id for entry in waiting])
        self.by_group[group] = keep
        if keep.idempotency_key:
            self.keys[item.id] = keep.idempotency_key

    def take(self, group: str, items: Sequence[Item], is_last: bool) -> Keep | None:
        """How a batch is kept; ``is_last`` where nothing else waits for its group."""
        if group not in self.by_group:
            return None
        keep = self.by_group.pop(group) if is_last else self.by_group[group]
        if self.left_out and items[0].id in self.left_out:
            self.left_out.difference_update([item.id for item in items])
            return None
        return Keep(keep.retention, self.keys.pop(items[0].id, ""))

    def drop(self, group: str, entries: Sequence[Entry], is_last: bool) -> None:
        """Those are not sent."""
        if is_last:
            self.by_group.pop(group, None)
        for item, _, _ in entries:
            self.keys.pop(item.id, None)
            self.left_out.discard(item.id)


def first_batch(
    waiting: list[Entry],
    keys: Mapping[int, str] = NO_KEYS,
    left_out: Collection[int] = NO_IDS,
) -> tuple[list[Entry], list[Entry]]:
    """
    What of ``waiting`` is sent together, and the rest. A message whose id is in ``keys`` is
    sent alone; one that is ``left_out`` of the history with others that are, too.
    """
    if len(waiting) == 1:
        return waiting, []
    size, is_out = 0, waiting[0][0].id in left_out
    for count, entry in enumerate(waiting):
        if count == MAX_BATCH or size >= MAX_BATCH_BYTES:
            return waiting[:count], waiting[count:]
        if keys and entry[0].id in keys:
            return waiting[: count or 1], waiting[count or 1 :]
        if left_out and (entry[0].id in left_out) != is_out:
            return waiting[:count], waiting[count:]
        size += len(entry[0].payload)
    return waiting, []


def name_of(group: str) -> str:
    """A group as an error message calls it."""
    return "the control group" if group == CONTROL else f"{group!r:.80}"


# Sending

#: Called with the position of the last message, with an error, or with None for a batch that
#: is not kept.
OnSent = Callable[[Position | Exception | None], object]


class Link(Protocol):
    """The part of a connection to the channel layer that sends."""

    @property
    def is_available(self) -> bool: ...
    def post(self, batch: Batch, on_sent: Callable[[Exception | None], object]) -> None: ...
    def note_lost(self, error: Exception) -> None: ...
    async def wait_available(self, deadline: float) -> bool: ...


class Histories(Protocol):
    """What knows where publications are kept."""

    @property
    def store(self) -> HistoryStore | None: ...


def append(
    link: Link, histories: Histories | None, batch: Batch, keep: Keep, on_sent: OnSent
) -> None:
    """
    Append ``batch``, and have it sent. The same batch again appends nothing, and is sent
    again: receivers drop what they have. Where nothing can be kept, it is only sent.
    """
    store = None if histories is None else histories.store
    if store is None:
        link.post(batch, on_sent)
    elif store.publishes:
        store.append(batch, keep.retention, partial(_appended, link, on_sent), keep.idempotency_key)
    else:
        on_done = partial(_send, link, batch, on_sent)
        store.append(batch, keep.retention, on_done, keep.idempotency_key)


def _appended(link: Link, on_sent: OnSent, answer: Position | Exception) -> None:
    if isinstance(answer, Exception) and is_away(answer):
        link.note_lost(answer)
    on_sent(answer)


def _send(link: Link, batch: Batch, on_sent: OnSent, answer: Position | Exception) -> None:
    if isinstance(answer, Exception) or answer.repeated:
        _appended(link, on_sent, answer)
        return
    first = answer.offset - len(batch.items) + 1
    placed = batch._replace(first=first, epoch=answer.epoch)
    link.post(placed, partial(_sent, on_sent, answer))


def _sent(on_sent: OnSent, position: Position, error: Exception | None) -> None:
    on_sent(position if error is None else error)


async def append_once(store: HistoryStore, batch: Batch, keep: Keep) -> Position:
    """Append ``batch``, which may be sent by the store. Raises what the store answers."""
    appended: asyncio.Future[Position] = asyncio.get_running_loop().create_future()

    def on_done(answer: Position | Exception) -> None:
        if appended.done():
            return
        if isinstance(answer, Exception):
            appended.set_exception(answer)
        else:
            appended.set_result(answer)

    store.append(batch, keep.retention, on_done, keep.idempotency_key)
    return await appended


def append_here(key: str, item: Item, keep: Keep) -> Position:
    """
    Append ``item`` to the history that this process keeps, where no hub queues it. A hub that
    has just joined the group gets it, too. Any thread.
    """
    batch = Batch("", key, 0, [item])
    answers: list[Position | Exception] = []
    # It answers before it returns, and a batch of no origin is not a repetition.
    process_history().append(batch, keep.retention, answers.append, keep.idempotency_key)
    position = cast(Position, answers[0])
    if not position.repeated:
        hand_over(batch._replace(first=position.offset, epoch=position.epoch))
    return position
