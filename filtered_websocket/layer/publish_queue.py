"""
What this hub publishes, on its way to the layer.

What is published to a group while an earlier send to it is in flight leaves
together, as one batch: no delay when idle, one round trip for many under load::

    publish a      -> send [a]
    publish b, c      (in flight)
                   -> send [b, c]

While the layer is away, it waits. A batch whose send failed may have arrived; it is sent
again with the numbers it had, by which receivers know what they have seen.
"""

import asyncio
import contextvars
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from ..codecs.frames import pack
from ..conf import conf
from ..exceptions import PublishError
from .envelope import CONTROL, EXCLUDE, Batch, Item, Stamper, group_key
from .health import LOST

#: Most messages, and about the most bytes, of one batch.
MAX_BATCH = 256
MAX_BATCH_BYTES = 262_144
#: How often one batch is sent, where the layer keeps failing and coming back.
MAX_SENDS = 5
#: While the layer is away, what has grown too old fails this often, seconds.
SWEEP = 0.1


#: Called with the group and item of every publish, while a test captures them.
captures: list[Callable[[str, Item], None]] = []

_ids = itertools.count(1)


def new_item(
    message: Any,
    *,
    sender: str = "",
    exclude: Iterable[str] = (),
    text: bool | None = None,
) -> Item:
    """
    ``message`` as it will cross the layer; ``text`` is the kind of bare bytes.

    Checked here, before anybody else is touched: :exc:`PublishError` for what cannot
    be encoded, or is over ``MAX_MESSAGE_SIZE`` once it is.
    """
    try:
        kind, payload = pack(message, text)
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishError(f"cannot publish this message: {error}") from error
    if len(payload) > conf.MAX_MESSAGE_SIZE:
        raise PublishError(
            f"cannot publish {len(payload)} bytes: MAX_MESSAGE_SIZE is {conf.MAX_MESSAGE_SIZE}"
        )
    left_out = list(exclude)
    return Item(next(_ids), kind, sender, payload, {EXCLUDE: left_out} if left_out else {})


def _name(group: str) -> str:
    return "the house" if group == CONTROL else f"{group!r:.80}"


#: A message that waits for its batch, since when on the monotonic clock, and who waits for it.
Entry = tuple[Item, float, "asyncio.Future[None] | None"]


class PublishQueue:
    """
    One bounded queue for all groups, and one flushing task per group that has
    something to send.

    At most once, in order per group: nothing overtakes a batch that is sent again, and
    receivers drop a repetition. What cannot be sent within ``PUBLISH_MAX_AGE`` is told to
    ``on_failed`` or to its own ``done``. ``there(deadline)`` waits for the layer and
    returns whether it is there.
    """

    def __init__(
        self,
        send: Callable[[Batch], Awaitable[None]],
        there: Callable[[float], Awaitable[bool]],
        on_failed: Callable[[str, list[Item], PublishError], None],
    ) -> None:
        self._send = send
        self._there = there
        self._on_failed = on_failed
        self._stamper = Stamper()
        self._waiting: dict[str, deque[Entry]] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        #: How many of them wait for a layer that is away.
        self._held = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self._room = asyncio.Event()
        self._room.set()
        #: How many messages are queued, or on their way from another thread.
        self.size = 0
        self._counting = threading.Lock()
        #: Whether the queue is above half of its bound.
        self.crowded = False

    def check_room(self) -> None:
        """Raise :exc:`PublishError` where the queue is full."""
        if self.size >= conf.PUBLISH_QUEUE:
            raise PublishError(
                f"the publish queue is full ({self.size} messages):"
                " the channel layer is slower than what is published"
            )

    def admit(self) -> None:
        """
        Count a message that :meth:`put_admitted` will queue; :exc:`PublishError` where the
        queue is full. Any thread: counted on the loop, many would find the last place.
        """
        with self._counting:
            self.check_room()
            self.size += 1

    def put(self, group: str, item: Item, done: "asyncio.Future[None] | None" = None) -> None:
        """Queue ``item``, full or not; on the event loop only."""
        with self._counting:
            self.size += 1
        self.put_admitted(group, item, done)

    def put_admitted(
        self, group: str, item: Item, done: "asyncio.Future[None] | None" = None
    ) -> None:
        """Queue what :meth:`admit` has counted; on the event loop only."""
        for capture in captures if group != CONTROL else ():
            capture(group, item)
        if self.size > conf.PUBLISH_QUEUE // 2:
            self.crowded = True
            self._room.clear()
        entry = item, time.monotonic(), done
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
        task.add_done_callback(self._flushed)
        self._note_settled()

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushing.discard(task)
        self._note_settled()

    def _note_settled(self) -> None:
        if len(self._flushing) > self._held:
            self._settled.clear()
        else:
            self._settled.set()

    async def _flush(self, group: str) -> None:
        waiting = self._waiting[group]
        key = group_key(group)
        while waiting:
            is_there = await self._wait_for_layer(_deadline(waiting) + SWEEP)
            self._drop_stale(group, waiting)
            if is_there and waiting:
                await self._send_one(group, key, self._take(waiting))
        # No await since the last look: nothing was queued behind our back.
        del self._waiting[group]

    async def _wait_for_layer(self, deadline: float) -> bool:
        self._held += 1
        self._note_settled()
        try:
            return await self._there(deadline)
        finally:
            self._held -= 1
            self._note_settled()

    def _take(self, waiting: deque[Entry]) -> list[Entry]:
        """The next batch."""
        entries: list[Entry] = []
        size = 0
        while waiting and len(entries) < MAX_BATCH and size < MAX_BATCH_BYTES:
            entry = waiting.popleft()
            entries.append(entry)
            size += len(entry[0].payload)
        return entries

    def _drop_stale(self, group: str, waiting: deque[Entry]) -> None:
        """Fail what waited for too long; the oldest comes first."""
        stale: list[Entry] = []
        now = time.monotonic()
        while waiting and _deadline(waiting) < now:
            stale.append(waiting.popleft())
        if stale:
            error = PublishError(
                f"{len(stale)} messages to {_name(group)} waited over"
                f" {conf.PUBLISH_MAX_AGE} s for the channel layer"
            )
            self._fail(group, stale, error)
            self._shrink(len(stale))

    async def _send_one(self, group: str, key: str, entries: list[Entry]) -> None:
        batch = self._stamper.stamp(key, [item for item, _, _ in entries])
        try:
            await self._send_until(batch, _deadline(entries))
        except BaseException as cause:
            error = PublishError(
                f"the channel layer took {len(entries)} messages to {_name(group)}"
                f" not, or did not say so: {cause!r}"
            )
            error.__cause__ = cause
            self._fail(group, entries, error)
            if not isinstance(cause, Exception):
                raise
        else:
            for _, _, done in entries:
                if done is not None and not done.done():
                    done.set_result(None)
        finally:
            self._shrink(len(entries))

    async def _send_until(self, batch: Batch, deadline: float) -> None:
        """Send ``batch``, again and again; raise what the last try raised."""
        sends = 1
        while True:
            try:
                return await self._send(batch)
            except LOST:
                if sends == MAX_SENDS or not await self._wait_for_layer(deadline):
                    raise
            sends += 1

    def _fail(self, group: str, entries: list[Entry], error: PublishError) -> None:
        for _, _, done in entries:
            if done is not None and not done.done():
                done.set_exception(error)
        untold = [item for item, _, done in entries if done is None]
        if untold:
            self._on_failed(group, untold, error)

    def _shrink(self, count: int) -> None:
        with self._counting:
            self.size -= count
        if self.crowded and self.size <= conf.PUBLISH_QUEUE // 2:
            self.crowded = False
            self._room.set()

    async def room(self) -> None:
        """Return when the queue is at most half full."""
        await self._room.wait()

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits, but for a layer that is away."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Return when nothing waits, but for a layer that is away."""
        await self._settled.wait()

    async def sent(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        while self._flushing:
            await asyncio.wait(self._flushing)

    async def give_up(self) -> None:
        """Fail what waits now, because nobody stays to send it."""
        flushing, groups = tuple(self._flushing), tuple(self._waiting)
        for task in flushing:
            task.cancel()
        if flushing:
            await asyncio.wait(flushing)
        for group in groups:
            # Empty where a cancellation was swallowed, and the flush came to its end.
            left = list(self._waiting.pop(group, ()))
            if left:
                error = PublishError(
                    f"{len(left)} messages to {group!r:.80} were not sent:"
                    " this process stopped publishing while the channel layer was away"
                )
                self._fail(group, left, error)
                self._shrink(len(left))


def _deadline(entries: Sequence[Entry]) -> float:
    """When the first of ``entries`` has waited for too long, on the monotonic clock."""
    max_age: float = conf.PUBLISH_MAX_AGE
    return entries[0][1] + max_age
