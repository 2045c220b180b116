"""Queues what the connections and filters of one pipeline publish, from any thread."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from django.db import transaction

from .. import tracing
from ..codecs.frames import Encoded, text_event
from ..exceptions import PublishError
from ..history.base import Position
from ..layer.envelope import Item, check_group
from ..threads.result import Result, start
from .batches import Done, Keep
from .items import encoded_item, new_item
from .queue import PublishQueue


class Host(Protocol):
    """The part of a hub that is used here."""

    @property
    def publish_queue(self) -> PublishQueue: ...
    def publish_failed(self, group: str, items: list[Item], error: PublishError) -> None: ...


class Submits:
    """A part of a hub's view."""

    #: Calls a function on the hub's loop.
    call: Callable[..., None]

    if TYPE_CHECKING:

        @property
        def host(self) -> Host: ...
        @property
        def loop(self) -> asyncio.AbstractEventLoop: ...
        @property
        def is_current(self) -> bool: ...
        def keep(self, group: str, idempotency_key: str) -> Keep | None: ...

    def submit(
        self,
        message: Any,
        group: str,
        *,
        sender: str,
        exclude: Iterable[str],
        on_commit: bool,
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Check and queue one publish; PublishError for a mistake in it."""
        batches = self.host.publish_queue
        text = text_event.get()
        item = new_item(message, sender=sender, exclude=exclude, text=text, meta=meta)
        keep = self.keep(check_group(group), idempotency_key)
        if on_commit:
            batches.check_room(item)
            put = partial(self._put_committed, group, item, keep)
            transaction.on_commit(tracing.active.bind(put))
        else:
            batches.admit(item)
            item = tracing.active.published(group, item)
            self.call(batches.put_admitted, group, item, None, keep)

    def _put_committed(self, group: str, item: Item, keep: Keep | None) -> None:
        item = tracing.active.published(group, item)
        self.call(self.host.publish_queue.put, group, item, None, keep)

    def asubmit(
        self,
        message: Any,
        group: str,
        *,
        sender: str,
        exclude: Iterable[str],
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Result[Position | None]:
        """:meth:`submit`; awaiting the result waits until the layer has taken the message."""
        text = text_event.get()
        item = new_item(message, sender=sender, exclude=exclude, text=text, meta=meta)
        keep = self.keep(check_group(group), idempotency_key)
        self.host.publish_queue.admit(item)
        item = tracing.active.published(group, item)

        def not_awaited(error: Any) -> None:
            self.call(self.host.publish_failed, group, [item], error)

        result: Result[Position | None] = start(
            self, self._put, group, item, keep, on_error=not_awaited
        )
        return result

    def submit_now(
        self, message: Encoded, group: str, *, sender: str, info: str, keep: Keep | None, done: Done
    ) -> int:
        """
        :meth:`asubmit` on the hub's loop, to a group whose name is known to be one, and how it
        keeps messages: ``done`` gets what came of it. The id of the message, or PublishError for
        one that is too long, or where there is no room.
        """
        item = encoded_item(message, sender, info)
        batches = self.host.publish_queue
        batches.admit(item)
        item = tracing.active.published(group, item)
        batches.put_admitted(group, item, done, keep)
        return item.id

    def _put(self, group: str, item: Item, keep: Keep | None) -> "asyncio.Future[Position | None]":
        done: asyncio.Future[Position | None] = self.loop.create_future()
        self.host.publish_queue.put_admitted(group, item, done, keep)
        return done
