"""One pipeline's part of a hub: the object that group and consumer filters get."""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..chains.calls import Calls
from ..chains.delivery import Delivery
from ..chains.running import Running
from ..chains.stalls import Stalls
from ..conf import conf
from ..connections.client import Users
from ..connections.connection import Connection, Exclude, excluded_ids
from ..connections.subscription import Subscription, Turn, in_chain, recovered
from ..connections.token_groups import use_token
from ..exceptions import Close, Drop, FilterError, NotAllowed, PublishError
from ..groups import Action
from ..history.base import Position
from ..history.lines import Recovery
from ..layer.envelope import Item
from ..pipelines.keeping import keep_by
from ..pipelines.pipeline import Pipeline
from ..presence.base import Event, Info, describe
from ..presence.of_hub import HubPresence
from ..publishing.batches import Keep
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
    connections: dict[str, Connection]
    presence: HubPresence
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
        protocol = pipeline.protocol
        #: What sends to subscribers, where clients speak a protocol.
        self.pushes: Any = None if protocol is None else protocol.pushes(hub.counts)
        #: The filters that run for its connections now.
        self.stalls = Stalls(hub.loop)
        self._delivery = Delivery(hub, self, pipeline)
        #: Handle messages of a group.
        self.deliver = self._delivery.deliver
        self.deliver_run = self._delivery.deliver_run
        self.prepare = self._delivery.prepare
        self.send_one, self.drop_unsent = self._delivery.send_one, self._delivery.drop_unsent

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

    def calls_of(self, connection: Connection) -> Calls:
        """The calls of ``connection``, one of this pipeline; for protocols."""
        if connection.calls is None:
            connection.calls = Calls(connection, self.pipeline, self.running_of(connection))
        return connection.calls

    def running_of(self, connection: Connection) -> Running:
        """What of ``connection`` goes on for a while once its socket is gone."""
        if connection.running is None:
            connection.running = Running(connection, self.pipeline)
        return connection.running

    # Groups

    def join(
        self, connection: Connection, group: str, trusted: bool = False, data: Any = None
    ) -> "bool | asyncio.Future[bool]":
        """See :meth:`Connection.join`; the result, or a future of it."""
        return joining.join(self, connection, group, trusted, data, None)

    def recover(
        self, connection: Connection, group: str, since: Position, trusted: bool, data: Any
    ) -> "asyncio.Future[Recovery]":
        """See :meth:`Connection.recover`."""
        joined = joining.join(self, connection, group, trusted, data, since)
        return connection.start_task(recovered(connection, group, joined), "fws-recover")

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
        joined = self._hub.groups.join(connection, self, group, subscription)
        if self.pushes is not None and group in connection.joined:
            self.pushes.joined(connection, group, joined)
        return joined

    def not_allowed(self, error: NotAllowed, where: Any) -> None:
        """Count a refusal, and log it: at most once in 10 s for the same place. Any thread."""
        self.call(self._hub.events.not_allowed, error, where)

    async def use_token(self, connection: Connection, key: str | None) -> Any:
        """See :meth:`Connection.use_token`."""
        return await use_token(self, connection, key)

    def leave(self, connection: Connection, group: str) -> None:
        ended = self._hub.groups.leave(connection, self, group)
        if self.pushes is not None:
            self.pushes.left(connection, group)
        self._delivery.left(connection, group)
        if ended is not None and self.pipeline.leave:
            running = self.running_of(connection)
            turn = connection.turns.take(group)
            running.begin(self._run_leave_chain(connection, ended, turn), "fws-leave")

    async def _run_leave_chain(
        self, connection: Connection, ended: Subscription, turn: Turn
    ) -> None:
        in_chain.set(True)
        async with turn:
            await self._run_leave_filters(connection, ended)

    async def _run_leave_filters(self, connection: Connection, ended: Subscription) -> None:
        """Every filter runs, also after one that raised or was cancelled."""
        for chain in self.pipeline.leave:
            try:
                await chain.pipe(connection, ended)
            except Drop as drop:
                self.dropped(drop, connection)
            except Close as close:
                connection.close(close.code, close.reason)
            except FilterError as error:
                self.pipeline.failed(error, connection)
            except asyncio.CancelledError:
                pass  # of this filter, which has not returned in time

    # Sending

    def keep(self, group: str, idempotency_key: str) -> Keep | None:
        """How a message to ``group`` is kept; PublishError for a key where nothing is."""
        return keep_by(self.pipeline.rules, group, idempotency_key)

    def publish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        on_commit: bool = False,
        idempotency_key: str = "",
    ) -> None:
        """:meth:`Connection.publish`, but not sent by a connection."""
        self.submit(
            message,
            self.pipeline.home if group is None else group,
            sender="",
            exclude=excluded_ids(exclude),
            on_commit=on_commit,
            idempotency_key=idempotency_key,
        )

    def fan_out(self, group: str, message: Any, *, exclude: Exclude = ()) -> None:
        """Push to the members of ``group`` here; each recipient's send chain sees it."""
        self._delivery.fan_out(group, message, excluded_ids(exclude))

    # Events

    def tell(self, group: str, events: Sequence[Event]) -> None:
        """Joins and leaves of a group, for consumer chain and clients where its rule says so."""
        rules = self.pipeline.rules
        match = None if rules is None else rules.find(group)
        if match is None or not match.rule.join_leave:
            return
        if self.pushes is not None:
            self.pushes.tell(group, events)
        if self.pipeline.consumer:
            self.post(describe(group, events))

    def present(self, group: str) -> Mapping[str, Info]:
        """
        Connection id -> ``Info(user, info)`` of everyone in ``group``: what its ``presence``
        events add up to. Empty where no connection of this process is in it, and without
        ``join_leave=True`` in its rule.
        """
        return self._hub.presence.present(group)

    def post(self, event: Any) -> None:
        """Queue an event for the consumer chain; dropped and counted if the queue is full."""
        try:
            self.events.put(event)
        except queue.Full:
            self._hub.counts["event_dropped"] += 1

    def dropped(self, drop: Drop, where: Any) -> None:
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
        return self.events.busy or self._delivery.busy

    async def settled(self) -> None:
        """Return when no event and no group message is being handled."""
        await self.events.settled()
        await self._delivery.settled()
