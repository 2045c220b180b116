"""
What this hub publishes, on its way to the layer.

What is published to a group while an earlier send to it is in flight leaves
together, as one batch: no delay when idle, one round trip for many under load::

    publish a      -> send [a]
    publish b, c      (in flight)
                   -> send [b, c]
"""

import asyncio
import contextvars
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from .codecs import pack
from .conf import conf
from .envelope import EXCLUDE, HOUSE, Batch, Item, Stamper, group_key
from .exceptions import PublishError

#: Most messages, and about the most bytes, of one batch.
MAX_BATCH = 256
MAX_BATCH_BYTES = 262_144


#: Called with the group and item of every publish, while a test captures them.
captures: list[Callable[[str, Item], None]] = []

_ids = itertools.count(1)


def new_item(
    message: Any,
    *,
    sender: str = "",
    exclude: Iterable[str] = (),
    text: bool | None = None,
    max_size: int | None = None,
) -> Item:
    """
    ``message`` as it will cross the layer; ``text`` is the kind of bare bytes.

    Checked here, before anybody else is touched: :exc:`PublishError` for what cannot
    be encoded, or is over ``MAX_MESSAGE_SIZE`` (``max_size``, where the caller knows it)
    once it is.
    """
    if max_size is None:
        max_size = conf.MAX_MESSAGE_SIZE
    try:
        kind, payload = pack(message, text)
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishError(f"cannot publish this message: {error}") from error
    if len(payload) > max_size:
        raise PublishError(f"cannot publish {len(payload)} bytes: MAX_MESSAGE_SIZE is {max_size}")
    left_out = list(exclude)
    return Item(next(_ids), kind, sender, payload, {EXCLUDE: left_out} if left_out else {})


def _name(group: str) -> str:
    return "the house" if group == HOUSE else f"{group!r:.80}"


class Entry(NamedTuple):
    """A message that waits for its batch."""

    item: Item
    queued_at: float
    done: "asyncio.Future[None] | None"


class Batches:
    """
    One bounded queue for all groups, and one flushing task per group that has
    something to send.

    At most once: a batch whose send fails is not sent again, because it may have
    arrived. Its messages are told to ``on_failed`` or to their own ``done``.
    """

    def __init__(
        self,
        send: Callable[[Batch], Awaitable[None]],
        on_failed: Callable[[str, list[Item], PublishError], None],
    ) -> None:
        self._send = send
        self._on_failed = on_failed
        self._stamper = Stamper()
        self._waiting: dict[str, deque[Entry]] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()
        self.size = 0
        self._read_limits()

    def _read_limits(self) -> None:
        self._bound: int = conf.PUBLISH_QUEUE
        self._max_size: int = conf.MAX_MESSAGE_SIZE

    @property
    def max_size(self) -> int:
        """
        ``MAX_MESSAGE_SIZE``. This and the queue's bound are read while nothing is queued:
        for every message a setting's look-up costs more than the rest of its checks.
        """
        if not self.size:
            self._read_limits()
        return self._max_size

    @property
    def crowded(self) -> bool:
        """Whether the queue is above half of its bound."""
        return not self._room.is_set()

    def check_room(self) -> None:
        """Raise :exc:`PublishError` where the queue is full."""
        # The bound is above 0: what is empty is not full, and may know an old one.
        if self.size and self.size >= self._bound:
            raise PublishError(
                f"the publish queue is full ({self.size} messages):"
                " the channel layer is slower than what is published"
            )

    def put(self, group: str, item: Item, done: "asyncio.Future[None] | None" = None) -> None:
        """Queue ``item``; on the event loop only."""
        for capture in captures if group != HOUSE else ():
            capture(group, item)
        if not self.size:
            self._read_limits()
        self.size += 1
        if self.size > self._bound // 2:
            self._room.clear()
        entry = Entry(item, time.monotonic(), done)
        waiting = self._waiting.get(group)
        if waiting is not None:
            waiting.append(entry)
            return
        self._waiting[group] = deque([entry])
        flush = self._flush(group)
        task = asyncio.get_running_loop().create_task(
            flush, name=f"fws-flush {group!r:.40}", context=contextvars.Context()
        )
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _flush(self, group: str) -> None:
        waiting = self._waiting[group]
        key = group_key(group)
        while waiting:
            entries = self._take(group, waiting)
            if entries:
                await self._send_one(group, key, entries)
        # No await since the last look: nothing was queued behind our back.
        del self._waiting[group]

    def _take(self, group: str, waiting: deque[Entry]) -> list[Entry]:
        """The next batch; what waited for too long fails here."""
        entries: list[Entry] = []
        stale: list[Entry] = []
        oldest = time.monotonic() - conf.PUBLISH_MAX_AGE
        size = 0
        while waiting and len(entries) < MAX_BATCH and size < MAX_BATCH_BYTES:
            entry = waiting.popleft()
            if entry.queued_at < oldest:
                stale.append(entry)
            else:
                entries.append(entry)
                size += len(entry.item.payload)
        if stale:
            error = PublishError(
                f"{len(stale)} messages to {_name(group)} waited over"
                f" {conf.PUBLISH_MAX_AGE} s for the channel layer"
            )
            self._fail(group, stale, error)
            self._shrink(len(stale))
        return entries

    async def _send_one(self, group: str, key: str, entries: list[Entry]) -> None:
        try:
            await self._send(self._stamper.stamp(key, [entry.item for entry in entries]))
        except Exception as cause:
            error = PublishError(
                f"the channel layer took {len(entries)} messages to {_name(group)}"
                f" not, or did not say so: {cause!r}"
            )
            error.__cause__ = cause
            self._fail(group, entries, error)
        else:
            for entry in entries:
                if entry.done is not None and not entry.done.done():
                    entry.done.set_result(None)
        finally:
            self._shrink(len(entries))

    def _fail(self, group: str, entries: list[Entry], error: PublishError) -> None:
        for entry in entries:
            if entry.done is not None and not entry.done.done():
                entry.done.set_exception(error)
        untold = [entry.item for entry in entries if entry.done is None]
        if untold:
            self._on_failed(group, untold, error)

    def _shrink(self, count: int) -> None:
        self.size -= count
        if self.size <= self._bound // 2:
            self._room.set()

    async def room(self) -> None:
        """Return when the queue is at most half full."""
        await self._room.wait()

    async def sent(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        while self._flushing:
            await asyncio.wait(self._flushing)
