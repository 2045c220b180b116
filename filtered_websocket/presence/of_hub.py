"""What a hub knows of presence: nothing is made, and nothing runs, before a group needs it."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from channels.layers import get_channel_layer

from ..conf import conf
from ..exceptions import NotAllowed
from ..groups import GroupRule
from ..layer.envelope import group_key
from ..layer.links import Link, ProcessLink
from ..logs import get_logger
from ..threads.tasks import Tasks
from .base import Event, Info, Store, seal_events, unseal_events
from .hosts import open_host
from .memory import ProcessStore
from .redis import RedisStore
from .worker import Worker

logger = get_logger(__name__)


class Groups(Protocol):
    """The part of a hub's groups that is used here."""

    def name_of(self, key: str) -> str | None: ...


class Joins(Protocol):
    """The part of a subscription that is used here."""

    group: str
    info: Any
    rule: GroupRule | None


class Present(Protocol):
    """The part of a connection that is used here."""

    @property
    def id(self) -> str: ...
    @property
    def shown_info(self) -> str: ...
    def present_as(self, subscription: Any) -> Info: ...


class Host(Protocol):
    """The part of a hub that is used here."""

    tasks: Tasks

    @property
    def groups(self) -> Groups: ...
    @property
    def link(self) -> Link: ...


class HubPresence:
    """Belongs to the hub's event loop. ``tell`` as of :class:`.Worker`."""

    def __init__(self, hub: Host, tell: Callable[[str, list[Event]], object]) -> None:
        self._hub = hub
        self._tell = tell
        self._worker: Worker | None = None
        #: Called with a group and the joins and leaves that calls of this process have made: of
        #: each only one process is told. Private to this package.
        self.observers: set[Callable[[str, list[Event]], object]] = set()

    def admit(self, joins: Joins | None, connection: Present) -> bool:
        """
        :meth:`enter` where the group's rule says so; whether it does. NotAllowed for an info
        that is too long, TypeError for one that is not JSON.
        """
        if joins is None or joins.rule is None or not joins.rule.presence:
            return False
        info, tells = connection.present_as(joins), joins.rule.join_leave
        try:
            self.enter(joins.group, connection.id, info, tells, connection.shown_info)
        except ValueError as error:
            # Most likely what a filter has copied from what the client sent.
            raise NotAllowed(str(error), joins.group) from error
        return True

    def enter(self, group: str, connection: str, info: Info, tells: bool, shown: str = "") -> None:
        """As :meth:`.Worker.enter`."""
        if self._worker is None:
            self._worker = self._open()
        self._worker.enter(group, connection, info, tells, shown)

    def _open(self) -> Worker:
        link = self._hub.link
        store = _open_store(link, self._receive)
        return Worker(self._hub.tasks, store, link, self._tell, self._publish, self._made)

    def _made(self, group: str, events: list[Event]) -> None:
        for observe in self.observers:
            observe(group, events)

    @property
    def store(self) -> Store:
        """Asked over the hub's own connection, where one is needed."""
        if self._worker is None:
            self._worker = self._open()
        return self._worker.store

    def leave(self, group: str, connection: str) -> None:
        """As :meth:`.Worker.leave`."""
        if self._worker is not None:
            self._worker.leave(group, connection)

    async def entered(self, group: str, connection: str) -> None:
        """As :meth:`.Worker.entered`."""
        if self._worker is not None:
            await self._worker.entered(group, connection)

    async def entered_after(
        self, steps: Callable[[], Awaitable[bool]], group: str, connection: str
    ) -> bool:
        """Join with ``steps``, and return what came of that when others find it present."""
        is_joined = await steps()
        await self.entered(group, connection)
        return is_joined

    def present(self, group: str) -> Mapping[str, Info]:
        """As :meth:`.Worker.present`."""
        return {} if self._worker is None else self._worker.present(group)

    def receive(self, envelope: Any) -> None:
        """Joins and leaves from the layer. Raises :exc:`.BadEnvelope` for anything else."""
        key, events = unseal_events(envelope)
        group = self._hub.groups.name_of(key)
        if group is not None:
            self._receive(group, events)

    def _receive(self, group: str, events: list[Event]) -> None:
        if self._worker is not None:
            self._worker.receive(group, events)

    async def _publish(self, group: str, events: list[Event]) -> None:
        """For a store that does not; what is lost, the next renewals find."""
        key = group_key(group)
        with contextlib.suppress(Exception):
            await self._hub.link.send_envelope(key, seal_events(key, events))

    def miss(self, group: str) -> None:
        """As :meth:`.Worker.miss`."""
        if self._worker is not None:
            self._worker.miss(group)

    def layer_back(self) -> None:
        """As :meth:`.Worker.layer_back`."""
        if self._worker is not None:
            self._worker.layer_back()

    async def flushed(self) -> None:
        """As :meth:`.Worker.flushed`."""
        if self._worker is not None:
            await self._worker.flushed()

    async def stop(self) -> None:
        """The hub ends. The next :meth:`enter` begins again."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()


def _open_store(link: Link, on_events: Callable[[str, list[Event]], object]) -> Store:
    lease: float = conf.PRESENCE_LEASE
    if not isinstance(link, ProcessLink):
        layer = get_channel_layer(conf.CHANNEL_LAYER)
        host = open_host(layer)
        if host is not None:
            return RedisStore(host, lease)
        # manage.py check reports it (E026).
        logger.error(
            "%s cannot keep presence: only connections of this process are present",
            type(layer).__name__,
        )
    return ProcessStore(on_events, lease)
