"""
What is kept of a group, and what each store of it guarantees.

::

    append(batch) -> epoch e, offsets 8 and 9      read(since=(e, 7)) -> 8, 9, recovered

A group is named by its key on the channel layer, as in
:class:`~filtered_websocket.layer.envelope.Batch`.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..codecs.frames import Kind
from ..layer.envelope import EVENT, EXCLUDE, MAX_ORIGIN, TAGS, Batch, Item

#: For so many seconds after its last batch, a store remembers an origin, and for so many an
#: idempotency key.
REMEMBERED = 300
#: Epoch and top of a group are kept for so many seconds longer than its publications: who
#: comes back after those are gone and has missed nothing is told so.
POSITION_TTL = 604_800
#: A group in which nothing has been published is known for so many seconds after it was last
#: asked for: whoever joins names that nobody publishes to must leave nothing that lasts. A
#: process asks for those that have members more often.
EMPTY_TTL = 300


class Position(NamedTuple):
    """
    A place in the history of a group. Offsets begin at 1 and rise by 1; the epoch is a
    non-empty text that changes when publications may have been lost.
    """

    epoch: str
    offset: int
    #: Whether the idempotency key of the publication was known: it is not a new one.
    repeated: bool = False


def check_position(since: Any) -> Position:
    """``since`` as a position; TypeError if it is not a text and a whole number."""
    if isinstance(since, tuple) and len(since) >= 2:
        epoch, offset = since[:2]
        if isinstance(epoch, str) and isinstance(offset, int) and not isinstance(offset, bool):
            # No epoch is that long: whatever a client sends, it is not kept and not sent on.
            return Position(epoch if len(epoch) <= MAX_ORIGIN else "-", offset)
    raise TypeError(f"a position is (epoch, offset), a text and an int, not {since!r:.80}")


class Publication(NamedTuple):
    """A message that is kept: ``item`` has all that is needed to send it again."""

    offset: int
    item: Item

    @property
    def kind(self) -> Kind:
        return self.item.kind

    @property
    def data(self) -> bytes:
        return self.item.payload

    @property
    def sender(self) -> str:
        return self.item.sender

    @property
    def exclude(self) -> list[str]:
        """Ids of connections that must not get it."""
        ids: list[str] = self.item.meta.get(EXCLUDE, [])
        return ids

    @property
    def event(self) -> str:
        """Its name, or an empty text."""
        name: str = self.item.meta.get(EVENT, "")
        return name

    @property
    def tags(self) -> dict[str, str]:
        """Texts by name, which its publisher gave it."""
        tags: dict[str, str] = self.item.meta.get(TAGS, {})
        return tags


class Page(NamedTuple):
    """What :meth:`HistoryStore.read` found, and the position of the last publication kept."""

    publications: list[Publication]
    position: Position
    #: Whether nothing is missing between ``since`` and ``publications``. If not, there are
    #: none: never a part.
    recovered: bool = True


class Question:
    """A question to the store that many wait for. It ends with the last of them."""

    def __init__(self, steps: Coroutine[Any, Any, Page | None]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._readers: list[asyncio.Future[None]] = []
        self._waiting = 0
        self.asking = loop.create_task(steps, name="fws-read", context=contextvars.Context())
        self.asking.add_done_callback(self._wake)

    async def answer(self) -> Page | None:
        """Wait for the answer. Raises what the question raised."""
        reader: asyncio.Future[None] = self._loop.create_future()
        self._readers.append(reader)
        self._waiting += 1
        try:
            await reader
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.asking.cancel()  # the connection of the last one has ended
        return self.asking.result()

    def _wake(self, asking: "asyncio.Task[Page | None]") -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)


class Retention(NamedTuple):
    """
    How much is kept: the last ``size`` publications, all of them until no other has come for
    ``ttl`` seconds.
    """

    size: int
    ttl: float


class StaleBatch(Exception):
    """A later batch of the same origin has been appended: this one has arrived long ago."""


#: Called once with the position of the last item of the batch, or with why there is none.
OnAppended: TypeAlias = Callable[[Position | Exception], Any]


class HistoryStore(Protocol):
    """
    Guarantees of every store:

    - The publications of a group have consecutive offsets in the order in which they were
      appended, and are kept in this order; the oldest go first.
    - A page is whole: all that was asked for, in order, each once, or nothing and
      ``recovered=False``. Never a part.
    - The epoch changes with every event after which a publication that had an offset may be
      gone other than by size and ttl, or an offset may be given again: the store has lost
      its data, another server has taken its place, or the group was forgotten.
    """

    #: Whether :meth:`append` also hands the batch to the subscribers of the group. If not,
    #: the caller sends it with the position that it gets.
    publishes: bool

    def append(
        self,
        batch: Batch,
        retention: Retention,
        on_done: OnAppended,
        idempotency_key: str = "",
    ) -> None:
        """
        Append all items of ``batch``, or none. ``on_done`` is called once, maybe at once.

        The number of a batch (``first``) is higher than that of the last one of the same
        origin and group, or it is the same batch again: for ``REMEMBERED`` seconds that
        appends nothing, and answers as the first time. So a batch whose answer was lost is
        sent again unchanged, until there is one. A lower number appends nothing and is
        :exc:`StaleBatch`.

        With an ``idempotency_key`` the batch has one item. Where the key is known of a batch
        to this group less than ``REMEMBERED`` seconds ago, nothing is appended, and the
        position is that of then, with ``repeated``.

        Errors of the layer, as ``ConnectionError``: it may be appended or not.
        """

    async def read(
        self,
        key: str,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Page:
        """
        Publications after ``since``, or from the oldest one on; with ``reverse`` those before
        ``since``, or from the latest one on, the latest first. At most ``limit``.

        Recovered means that ``since + 1`` is still there, or ``since`` is the top; an empty
        epoch is compared by offset alone. With ``reverse`` it is ``since - 1``, unless none
        was before. A group without history gets an epoch, and so a position from which all
        that comes can be read: for ``EMPTY_TTL`` seconds after it was last asked for, then it
        gets another one. Raises what the layer raises.
        """

    async def tops(self, keys: Iterable[str]) -> dict[str, Position]:
        """The positions of many groups, asked for together; one after the last publication."""

    async def forget(self, key: str) -> None:
        """
        Remove the publications of a group. Its epoch is another one from here on, and its
        offsets go on; batches and idempotency keys stay known.
        """

    async def close(self) -> None:
        """Its hub has ended: close the connections that only this store uses."""


def new_epoch() -> str:
    """16 hex digits that no other epoch of a group has had."""
    return f"{random.getrandbits(64):016x}"


def find_range(
    top: Position, count: int, since: Position | None, limit: int | None, reverse: bool
) -> range | None:
    """
    The offsets of a page of a group that keeps ``count`` publications up to ``top``, the
    lowest first; None if they are not all there.
    """
    low, high = top.offset - count + 1, top.offset
    if since is not None:
        if since.epoch not in ("", top.epoch) or not 0 <= since.offset <= top.offset:
            return None
        if reverse:
            high = since.offset - 1
            if high < low and high > 0:
                return None
        else:
            if since.offset + 1 < low:
                return None
            low = since.offset + 1
    if limit is not None and reverse:
        low = max(low, high - limit + 1)
    elif limit is not None:
        high = min(high, low + limit - 1)
    return range(low, high + 1)
