"""
The queue of what this hub publishes: bounded in messages and bytes, for all groups together.

::

    admit (any thread) -> put_admitted -> Sender -> the channel layer
                                            '-> Forwarder -> a group of Channels, if it has one
"""

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from ..conf import conf
from ..exceptions import PublishError
from ..history.base import Position
from ..layer.envelope import CONTROL, Item
from ..layer.names import event_of, names
from ..layer.redis_layer import redis_layer
from ..logs import LogThrottle, get_logger
from ..observe import totals
from ..threads.budget import Budget
from ..threads.serial_queue import SerialQueue
from ..threads.tasks import Tasks, runs_a_loop
from .batches import Done, Entry, Histories, Keep, Link
from .items import captures, on_publish
from .sender import Sender

logger = get_logger(__name__)
_throttle = LogThrottle()


class PublishQueue:
    """
    One bounded queue for all groups.

    At most once, in order per group: nothing overtakes a batch that is sent again, and
    receivers drop repetitions. What cannot be sent within ``PUBLISH_MAX_AGE`` is reported
    to its own ``done`` future or to ``on_failed``. Belongs to one event loop.
    """

    def __init__(
        self,
        tasks: Tasks,
        link: Callable[[], Link],
        on_failed: Callable[[str, list[Item], PublishError], None],
        histories: Histories | None = None,
    ) -> None:
        self.budget = Budget(limits_count=True)
        #: What was sent goes on to groups of Channels, if any.
        self.forwarder = Forwarder(tasks)
        forward = self.forwarder.put
        self._sender = Sender(tasks, link, on_failed, self._release, histories, forward)

    @property
    def origin(self) -> str:
        """Of what is published by this queue now."""
        return self._sender.stamper.origin

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

    def put(
        self, group: str, item: Item, done: Done | None = None, keep: Keep | None = None
    ) -> None:
        """Queue ``item`` even if the queue is full; on the event loop only."""
        self.budget.add(item.size)
        self.put_admitted(group, item, done, keep)

    def put_admitted(
        self, group: str, item: Item, done: Done | None = None, keep: Keep | None = None
    ) -> None:
        """
        Queue what :meth:`admit` has counted; on the event loop only. ``keep`` says how it is
        kept in a history, and ``done`` gets the position there.
        """
        if captures and group != CONTROL:
            for capture in captures:
                capture(group, item)
        for watcher in on_publish:
            watcher(group, item)
        self._sender.put(group, (item, time.monotonic(), done), keep)

    def put_and_tell(
        self, group: str, item: Item, keep: Keep | None, told: "Future[Position | None]"
    ) -> None:
        """:meth:`put_admitted`, and tell another thread what came of it."""
        done: asyncio.Future[Position | None] = asyncio.get_running_loop().create_future()

        def tell(done: "asyncio.Future[Position | None]") -> None:
            error = done.exception()
            if not told.set_running_or_notify_cancel():
                return
            if error is None:
                told.set_result(done.result())
            else:
                told.set_exception(error)

        done.add_done_callback(tell)
        self.put_admitted(group, item, done, keep)

    def _release(self, entries: Sequence[Entry]) -> None:
        self.budget.release(sum([item.size for item, _, _ in entries]), len(entries))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is queued, except for the end of an outage."""
        return self._sender.is_settled and not self.forwarder.busy

    async def settled(self) -> None:
        """Return when nothing is queued, except for the end of an outage."""
        await self._sender.settled()
        await self.forwarder.settled()

    async def sent(self) -> None:
        """Return when nothing is queued and no send is in progress."""
        await self._sender.sent()
        await self.forwarder.settled()

    async def give_up(self) -> None:
        """Fail what is queued, because the process or hub ends."""
        await self._sender.give_up()
        await self.forwarder.give_up()


class Forwarder:
    """
    Sends what was published to a group on to that of Channels with the same name, if the site
    forwards it: in order, each once, or not at all where that fails. Belongs to one event loop.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._queue: SerialQueue[tuple[str, Item, str, float]] = SerialQueue(
            tasks,
            Budget(),
            self._send,
            lambda waiting: waiting[1].size,
            bound=conf.PUBLISH_QUEUE,
            name="fws-forward",
        )
        self._has_ended = False

    def put(self, group: str, items: Sequence[Item]) -> None:
        """Messages were published to ``group``."""
        kind = names().type_of(group)
        for item in items if kind else ():
            try:
                self._queue.put((group, item, str(kind), time.monotonic()))
            except queue.Full:
                not_forwarded(group, "too many wait for the channel layer")

    async def _send(self, waiting: tuple[str, Item, str, float]) -> None:
        group, item, kind, since = waiting
        layer: Any = get_channel_layer(conf.CHANNEL_LAYER)
        if layer is None:
            return  # manage.py check reports it
        try:
            if self._has_ended or time.monotonic() - since > conf.PUBLISH_MAX_AGE:
                raise TimeoutError("the channel layer took too long")
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await (redis_layer(layer) or layer).group_send(group, event_of(group, item, kind))
        except Exception as error:
            not_forwarded(group, repr(error))

    @property
    def busy(self) -> bool:
        return self._queue.busy

    async def settled(self) -> None:
        """Return when nothing waits."""
        await self._queue.settled()

    async def give_up(self) -> None:
        """Drop what waits."""
        self._has_ended = True
        await self.settled()
        self._has_ended = False


def not_forwarded(group: str, why: str) -> None:
    """A message did not go on to the group of Channels, which is counted and logged."""
    totals["not_forwarded"] += 1
    if _throttle.note("forward"):
        count = totals["not_forwarded"]
        logger.error(
            "not forwarded to the group %.99r of Channels: %s (%d so far)", group, why, count
        )


def forward_now(group: str, item: Item, send: Callable[[dict[str, Any]], object]) -> None:
    """Call ``send`` with the event for what no hub has queued, if the site forwards it."""
    kind = names().type_of(group)
    if kind is not None:
        try:
            send(event_of(group, item, kind))
        except Exception as error:
            not_forwarded(group, repr(error))


def forward_here(group: str, item: Item, layer: Any, get_hub: Callable[[], Any]) -> None:
    """:func:`forward_now` to consumers of this process, by a layer that leads to no other."""
    if runs_a_loop():
        get_hub().publish_queue.forwarder.put(group, [item])
    else:
        forward_now(group, item, partial(async_to_sync(layer.group_send), group))
