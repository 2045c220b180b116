"""
The queue of what this hub publishes: bounded in messages and bytes, for all groups together.

::

    admit (any thread) -> put_admitted -> Sender -> the channel layer
"""

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..exceptions import PublishError
from ..history.base import Position
from ..layer.envelope import CONTROL, Item
from ..threads.budget import Budget
from ..threads.tasks import Tasks
from .batches import Done, Entry, Histories, Keep, Link
from .items import captures, on_publish
from .sender import Sender


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
        self._sender = Sender(tasks, link, on_failed, self._release, histories)
        self.settled = self._sender.settled
        self.sent = self._sender.sent
        self.give_up = self._sender.give_up

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
        return self._sender.is_settled
