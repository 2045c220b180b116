"""One pipeline's part of a hub: the object that group and consumer filters get."""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from ..chains.stalls import Stalls
from ..codecs.frames import Frame, text_event, unpack
from ..conf import conf
from ..connections.client import Users
from ..connections.connection import Connection, Exclude, excluded_ids
from ..connections.subscription import Subscription
from ..connections.token_groups import use_token
from ..exceptions import Drop, NotAllowed, PublishError, ends_the_task
from ..groups import Action
from ..layer.envelope import EXCLUDE, Item
from ..pipelines.pipeline import Pipeline
from ..publishing.fan_out import make_frame, write, write_items
from ..publishing.queue import PublishQueue
from ..publishing.submitting import Submits
from ..storage_objects import get_storage_object
from ..threads.budget import Budget, size_of_event, wait_room
from ..threads.serial_queue import SerialQueue
from ..threads.tasks import Tasks
from ..types import Codec
from . import joining
from .events import EventQueue, Events
from .grants import Grants
from .groups import Groups


class Host(Protocol):
    """The part of a hub that its views use."""

    loop: asyncio.AbstractEventLoop
    tasks: Tasks
    backlog: Budget
    publish_queue: PublishQueue
    counts: Counter[str]
    events: Events
    grants: Grants
    groups: Groups

    thread: int

    def publish_failed(self, group: str, items: list[Item], error: PublishError) -> None: ...
    def call(self, function: Callable[..., object], *args: Any) -> None: ...


class HubView(Submits):
    """``fan_out``, ``publish`` and ``queue.put`` may be called from any thread."""

    def __init__(self, hub: Host, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        # Not properties: they are read for each message that a filter pushes.
        self.codec: Codec | None = pipeline.codec
        self.call = hub.call
        self.connections: dict[str, Connection] = {}
        #: id -> connection, of this process and pipeline.
        self.users = Users(self.connections)
        self.queue = EventQueue(self)
        self.events: SerialQueue[Any] = SerialQueue(
            hub.tasks,
            hub.backlog,
            self._handle_event,
            size_of_event,
            bound=conf.PUBLISH_QUEUE,
            name="fws-events",
        )
        self._hub = hub
        #: The filters that run for its connections now.
        self.stalls = Stalls(hub.loop)
        self._backlogs: dict[str, SerialQueue[tuple[str, Item]]] = {}

    @property
    def host(self) -> Host:
        """The hub, as far as it is used here."""
        return self._hub

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._hub.loop

    @property
    def is_current(self) -> bool:
        """Whether this thread is that of the hub's loop."""
        return threading.get_ident() == self._hub.thread

    @property
    def groups(self) -> frozenset[str]:
        """The names of the groups in which this pipeline has members here."""
        return self._hub.groups.names_of(self)

    @property
    def storage_object(self) -> Any:
        """The storage object of this process."""
        return get_storage_object()

    @property
    def grants(self) -> Grants:
        return self._hub.grants

    @property
    def is_crowded(self) -> bool:
        """Whether a queue of the hub that clients fill is more than half full."""
        return self._hub.publish_queue.budget.crowded or self._hub.backlog.crowded

    async def wait_room(self) -> None:
        """Return when no queue of the hub that clients fill is more than half full."""
        await wait_room(self._hub.publish_queue.budget, self._hub.backlog)

    def queue_of(self, connection: Connection) -> EventQueue:
        """See :attr:`Connection.queue`."""
        return EventQueue(self, connection)

    # Groups

    def join(
        self, connection: Connection, group: str, trusted: bool = False, data: Any = None
    ) -> "bool | asyncio.Future[bool]":
        """See :meth:`Connection.join`; the result, or a future of it."""
        return joining.join(self, connection, group, trusted, data)

    def enter(self, connection: Connection, group: str) -> "bool | asyncio.Future[bool]":
        """Join a group of the route, a token's, or the user's own: no rule is asked."""
        return joining.enter(self, connection, group, trusted=True)

    def allows(
        self, connection: Connection, action: Action, group: str
    ) -> "bool | asyncio.Future[bool]":
        """See :meth:`Connection.is_allowed`; the result, or a future of it."""
        return joining.allows(self, connection, action, group)

    def become_member(
        self, connection: Connection, group: str, subscription: Subscription | None = None
    ) -> "bool | asyncio.Future[bool]":
        """Join a group at once: whatever had to be asked has been asked."""
        return self._hub.groups.join(connection, self, group, subscription)

    def not_allowed(self, error: NotAllowed, where: str) -> None:
        """Count a refusal, and log it: at most once in 10 s for the same place. Any thread."""
        self.call(self._hub.events.not_allowed, error, where)

    async def use_token(self, connection: Connection, key: str | None) -> Any:
        """See :meth:`Connection.use_token`."""
        return await use_token(self, connection, key)

    def leave(self, connection: Connection, group: str) -> None:
        self._hub.groups.leave(connection, self, group)
        backlog = self._backlogs.get(group)
        if backlog is not None and not backlog.busy:
            del self._backlogs[group]

    # Sending

    def publish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        on_commit: bool = False,
    ) -> None:
        """:meth:`Connection.publish`, but not sent by a connection."""
        self.submit(
            message,
            self.pipeline.home if group is None else group,
            sender="",
            exclude=excluded_ids(exclude),
            on_commit=on_commit,
        )

    def fan_out(self, group: str, message: Any, *, exclude: Exclude = ()) -> None:
        """Push ``message`` to the members of ``group`` in this process and pipeline."""
        frame = make_frame(message, self.codec, {}, text_event.get())
        self.call(self._write, group, frame, excluded_ids(exclude))

    def _write(self, group: str, frame: Frame, exclude: Collection[str]) -> None:
        write(self._hub.groups.members(self, group), frame, exclude)

    # Receiving

    def deliver(self, group: str, items: Sequence[Item]) -> None:
        """Run group messages, in order, through the group chain; send them to the members."""
        chain = self.pipeline.group
        if not chain and self.pipeline.codec is None:
            write_items(self._hub.groups.members(self, group), items)
            return
        backlog = self._backlogs.get(group)
        if chain.awaits and backlog is None:
            backlog = self._backlogs[group] = SerialQueue(
                self._hub.tasks,
                self._hub.backlog,
                self._handle_item,
                lambda pair: pair[1].size,
                bound=conf.PUBLISH_QUEUE,
                name=f"fws-group {group!r:.40}",
            )
        for item in items:
            if backlog is None:
                self._pass_on(group, item)
                continue
            try:
                backlog.put((group, item))
            except queue.Full:
                self._hub.counts["group_dropped"] += 1

    def _pass_on(self, group: str, item: Item) -> None:
        """Handle one message with a group chain that does not await."""
        pipeline = self.pipeline
        token = None
        try:
            message, text = unpack(item.packed, pipeline.codec)
            token = text_event.set(text)
            self._finish(group, item, pipeline.group.run(self, message), text)
        except Drop as drop:
            self.dropped(drop, f"group {group!r:.80}")
        except BaseException as error:
            if ends_the_task(error):
                raise
            pipeline.failed(error, f"group {group!r:.80}")
        finally:
            if token is not None:
                text_event.reset(token)

    async def _handle_item(self, pair: tuple[str, Item]) -> None:
        """Handle one message with a group chain that awaits."""
        group, item = pair
        try:
            message, text = unpack(item.packed, self.codec)
            text_event.set(text)
            self._finish(group, item, await self.pipeline.group.arun(self, message), text)
        except Drop as drop:
            self.dropped(drop, f"group {group!r:.80}")
        except BaseException as error:
            if ends_the_task(error):
                raise
            self.pipeline.failed(error, f"group {group!r:.80}")
        if not self._hub.groups.members(self, group) and not len(self._backlogs.get(group, ())):
            # The last member left while it was busy: no message will come.
            self._backlogs.pop(group, None)

    def _finish(self, group: str, item: Item, message: Any, text: bool) -> None:
        frame = make_frame(message, self.codec, item.meta, text)
        self._write(group, frame, item.meta.get(EXCLUDE, ()))

    # Events

    def post(self, event: Any) -> None:
        """Queue an event for the consumer chain; dropped and counted if the queue is full."""
        try:
            self.events.put(event)
        except queue.Full:
            self._hub.counts["event_dropped"] += 1

    def dropped(self, drop: Drop, where: str) -> None:
        """A filter has ended an event: a :exc:`NotAllowed` is counted and logged."""
        if isinstance(drop, NotAllowed):
            self.not_allowed(drop, where)

    async def _handle_event(self, event: Any) -> None:
        try:
            await self.pipeline.consumer.pipe(self, event)
        except Drop as drop:
            self.dropped(drop, "the hub")
        except Exception as error:
            self.pipeline.failed(error, "the hub")

    # Waiting

    @property
    def busy(self) -> bool:
        return self.events.busy or any(line.busy for line in self._backlogs.values())

    async def settled(self) -> None:
        """Return when no event and no group message is being handled."""
        for line in (self.events, *self._backlogs.values()):
            await line.settled()
