"""
Queues what this hub publishes, and sends it to the layer in batches.

Messages that are published to a group while an earlier send to it is in progress are
sent together, as one batch: no delay when idle, one round trip for many under load::

    publish a      -> send [a]
    publish b, c      (in progress)
                   -> send [b, c]

During an outage of the layer they wait. A batch whose send failed may have arrived; it is
sent again with the same numbers, so that receivers recognise a repetition.
"""

import asyncio
import itertools
import queue
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ..codecs.frames import pack
from ..conf import conf, describe
from ..exceptions import PublishError
from ..layer.envelope import CONTROL, EXCLUDE, Batch, Item, Stamper, group_key
from ..layer.health import LOST
from ..threads.budget import Budget
from ..threads.tasks import Tasks, end_tasks

#: Most messages, and about the most bytes, of one batch.
MAX_BATCH = 256
MAX_BATCH_BYTES = 262_144
#: Attempts to send one batch, where the layer fails and recovers repeatedly.
MAX_SENDS = 5
#: During an outage, messages over ``PUBLISH_MAX_AGE`` are looked for this often, seconds.
AGE_CHECK = 0.1


#: Called with group and item of every publish, while a test captures them.
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
    ``message`` encoded for the layer; ``text`` says whether bytes are sent as text.

    Raises :exc:`PublishError` if it cannot be encoded, or is over ``MAX_MESSAGE_SIZE`` then.
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
    return "the control group" if group == CONTROL else f"{group!r:.80}"


#: A queued message, when it was queued (monotonic clock), and the future of its publisher.
Entry = tuple[Item, float, "asyncio.Future[None] | None"]


class PublishQueue:
    """
    One bounded queue for all groups, and one sending task per group with queued messages.

    At most once, in order per group: nothing overtakes a batch that is sent again, and
    receivers drop repetitions. What cannot be sent within ``PUBLISH_MAX_AGE`` is reported
    to its own ``done`` future or to ``on_failed``. ``wait_available(deadline)`` waits for
    the layer and returns whether it is available.
    """

    def __init__(
        self,
        tasks: Tasks,
        send: Callable[[Batch], Awaitable[None]],
        wait_available: Callable[[float], Awaitable[bool]],
        on_failed: Callable[[str, list[Item], PublishError], None],
    ) -> None:
        self._tasks = tasks
        self._send = send
        self._wait_available = wait_available
        self._on_failed = on_failed
        self._stamper = Stamper()
        self._waiting: dict[str, deque[Entry]] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        #: How many of them wait for the end of an outage.
        self._waiting_for_layer = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self.budget = Budget(limits_count=True)

    @property
    def size(self) -> int:
        """Messages that are queued, or admitted by another thread."""
        return self.budget.count

    def check_room(self, item: Item) -> None:
        """Raises :exc:`PublishError` if ``item`` could not be queued now."""
        try:
            self.budget.check(item.size)
        except queue.Full:
            raise self._full() from None

    def admit(self, item: Item) -> None:
        """
        Count ``item``, which :meth:`put_admitted` will queue; raises :exc:`PublishError` if
        the queue is full. From any thread.
        """
        try:
            self.budget.admit(item.size)
        except queue.Full:
            raise self._full() from None

    def _full(self) -> PublishError:
        return PublishError(
            f"the publish queue is full ({self.budget.count} messages, {self.budget.bytes} bytes):"
            " the channel layer is slower than what is published"
        )

    def put(self, group: str, item: Item, done: "asyncio.Future[None] | None" = None) -> None:
        """Queue ``item`` even if the queue is full; on the event loop only."""
        self.budget.add(item.size)
        self.put_admitted(group, item, done)

    def put_admitted(
        self, group: str, item: Item, done: "asyncio.Future[None] | None" = None
    ) -> None:
        """Queue what :meth:`admit` has counted; on the event loop only."""
        for capture in captures if group != CONTROL else ():
            capture(group, item)
        entry = item, time.monotonic(), done
        waiting = self._waiting.get(group)
        if waiting is not None:
            waiting.append(entry)
            return
        self._waiting[group] = deque([entry])
        task = self._tasks.start(partial(self._flush, group), f"fws-flush {group!r:.40}")
        self._flushing.add(task)
        task.add_done_callback(self._flushed)
        self._update_settled()

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushing.discard(task)
        self._update_settled()

    def _update_settled(self) -> None:
        if len(self._flushing) > self._waiting_for_layer:
            self._settled.clear()
        else:
            self._settled.set()

    async def _flush(self, group: str) -> None:
        waiting = self._waiting[group]
        key = group_key(group)
        while waiting:
            is_there = await self._wait_for_layer(_deadline(waiting) + AGE_CHECK)
            self._drop_stale(group, waiting)
            if is_there and waiting:
                await self._send_one(group, key, self._take(waiting))
        # No await since the loop's condition: nothing was queued meanwhile.
        del self._waiting[group]

    async def _wait_for_layer(self, deadline: float) -> bool:
        self._waiting_for_layer += 1
        self._update_settled()
        try:
            return await self._wait_available(deadline)
        finally:
            self._waiting_for_layer -= 1
            self._update_settled()

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
        """Fail messages over ``PUBLISH_MAX_AGE``; the oldest is first in the queue."""
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
            self._release(stale)

    async def _send_one(self, group: str, key: str, entries: list[Entry]) -> None:
        batch = self._stamper.stamp(key, [item for item, _, _ in entries])
        try:
            await self._send_until(batch, _deadline(entries))
        except BaseException as cause:
            error = PublishError(
                f"the channel layer did not confirm {len(entries)} messages to"
                f" {_name(group)}: {describe(cause)}"
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
            self._release(entries)

    async def _send_until(self, batch: Batch, deadline: float) -> None:
        """Send ``batch``, several times if need be; raises the last attempt's error."""
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
        without_future = [item for item, _, done in entries if done is None]
        if without_future:
            self._on_failed(group, without_future, error)

    def _release(self, entries: Sequence[Entry]) -> None:
        self.budget.release(sum(item.size for item, _, _ in entries), len(entries))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is queued, except for the end of an outage."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Return when nothing is queued, except for the end of an outage."""
        await self._settled.wait()

    async def sent(self) -> None:
        """Return when nothing is queued and no send is in progress."""
        while self._flushing:
            await asyncio.wait(self._flushing)

    async def give_up(self) -> None:
        """Fail what is queued, because the process or hub ends."""
        flushing, groups = tuple(self._flushing), tuple(self._waiting)
        await end_tasks(flushing)
        for group in groups:
            # Empty if a cancellation was lost, and the flush finished.
            left = list(self._waiting.pop(group, ()))
            if left:
                error = PublishError(
                    f"{len(left)} messages to {group!r:.80} were not sent:"
                    " this process ended while the channel layer was lost"
                )
                self._fail(group, left, error)
                self._release(left)


def _deadline(entries: Sequence[Entry]) -> float:
    """When the oldest of ``entries`` reaches ``PUBLISH_MAX_AGE``, on the monotonic clock."""
    max_age: float = conf.PUBLISH_MAX_AGE
    return entries[0][1] + max_age
