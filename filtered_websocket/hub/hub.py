"""
One per event loop: who is connected here, which groups they joined, and the one
channel-layer mailbox that serves them all.

::

    connection.publish -> Batches -> the layer -> Link -> Hub._deliver
                                                            └ per pipeline: HubView.deliver
                                                                 group chain, encode once,
                                                                 every local member's transport
"""

import asyncio
import contextlib
import contextvars
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from ..chains.watchdog import Watchdog
from ..conf import conf
from ..connections.connection import Connection
from ..exceptions import PublishError
from ..layer.envelope import HOUSE, Batch, Item, Sequence, group_key
from ..layer.link import LayerLink, LocalLink
from ..layer.publish_queue import Batches, new_item
from ..logs import Seldom, get_logger
from ..pipelines.pipeline import Pipeline, known_routes
from ..storage_objects import get_storage_object
from .drain import Drain
from .grants import Rights
from .limits import Limits
from .view import HubView

logger = get_logger(__name__)


#: Pause before a storage object that failed is asked to listen again, seconds.
LISTEN_AGAIN = 1.0
#: How long a hub that nobody is connected to goes on to send what was published, seconds:
#: with what else takes time at the end, it fits into DRAIN_DEADLINE.
LINGER = 3.0


class Group:
    """The members of one group in this process, pipeline by pipeline."""

    __slots__ = ("key", "members", "name", "sequence")

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = group_key(name)
        self.members: dict[HubView, dict[str, Connection]] = {}
        self.sequence = Sequence()


class Hub:
    """
    Belongs to one event loop. Unless it says otherwise, a method is called there.

    Lives from the first connection, or publish, until the last connection has left
    and nothing is queued; then its tasks have ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.connections: dict[str, Connection] = {}
        self.views: dict[Pipeline, HubView] = {}
        self.groups: dict[str, Group] = {}
        self._by_key: dict[str, Group] = {}
        #: What happened that no filter saw: duplicates, bad envelopes, missed, ...
        self.counts: Counter[str] = Counter()
        self.batches = Batches(self._send, self._layer_there, self._publish_failed)
        #: On what connections rest, and their end when that ends.
        self.rights = Rights(self)
        #: Whether the channel layer is away.
        self.layer_is_lost = False
        self.drain = Drain(self)
        #: How many connections there may be.
        self.limits = Limits()
        self._house = group_key(HOUSE)
        self._hearing: asyncio.Future[bool] | None = None
        #: Whether an event of the house did not leave.
        self._unsaid = False
        self._seldom = Seldom()
        self._watchdog = Watchdog(loop, self.counts)
        self._thread = threading.get_ident()
        self._link: LayerLink | LocalLink | None = None
        self._running = False
        self._ending = False
        self._held = False
        self._listening: asyncio.Task[None] | None = None

    # Life

    def attach(self, connection: Connection) -> None:
        """A connection begins; the first one makes the hub listen."""
        self.connections[connection.id] = connection
        self._begin()

    def hold(self, quiet: bool = False) -> None:
        """
        Listen although nobody is connected, until :meth:`release`; ``quiet`` listens to
        the house alone, and runs no consumer chain.
        """
        self._held = True
        self._begin(quiet)

    async def release(self) -> None:
        """End the hub, unless somebody is connected."""
        self._held = False
        if self.connections:
            return
        if self._running:
            await self._end()
        elif self._link is not None:
            link, self._link = self._link, None
            await link.stop()

    def _begin(self, quiet: bool = False) -> None:
        if self._running:
            return
        link = self.link
        self._running = True
        _announce(self)
        link.start()
        self._watchdog.start()
        self.limits.begin()
        if not self._held:
            # Who holds the hub serves, and ends it.
            self.drain.watch()
        if not quiet:
            self._listen_to_storage()

    def _listen_to_storage(self) -> None:
        storage = get_storage_object()
        storage.attach(self._storage_event)
        if storage.listens:
            self._listening = self.loop.create_task(
                self._listen(storage), name="fws-pubsub", context=contextvars.Context()
            )

    async def detach(self, connection: Connection) -> None:
        """A connection has ended and left its groups; with the last one the hub ends."""
        self.connections.pop(connection.id, None)
        if not self.connections and self._running and not self._held:
            await self._end()

    @property
    def over(self) -> bool:
        """Whether nobody is connected, and the hub has ended unless it is held."""
        has_ended = not self._running and not self._ending
        return not self.connections and (self._held or has_ended)

    async def _end(self) -> None:
        """
        What takes time comes first, while who attaches still finds a hub that works; then,
        without a pause, this one is out of reach; then it is taken down.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await self.batches.sent()
            if not self.connections and not self._held:
                await self.batches.give_up()
            await self.settled()
            await self.rights.stop()
            if self.connections or self._held or not self._running:
                return
            if not self.batches.size:
                break
            # What another thread has published is on its way here.
            await asyncio.sleep(0)
        self._running = False
        _withdraw(self)
        self._ending = True
        self.drain.unwatch()
        self._watchdog.stop()
        storage = get_storage_object()
        storage.attach(None)
        link, self._link = self.link, None
        self.groups.clear()
        self._by_key.clear()
        self.views.clear()
        waiting = [task for task in (self._listening, self._hearing) if task is not None]
        self._listening = self._hearing = None
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
        if active_hub() is None:
            # Not under one that has begun meanwhile.
            await storage.aclose()
        await link.stop()
        self._ending = False

    async def settled(self) -> None:
        """
        Return when nothing is queued: publishes, but for those a layer that is away keeps
        waiting; group messages; events.
        """
        while True:
            await self.batches.settled()
            busy = [view for view in tuple(self.views.values()) if view.busy]
            if not busy and self.batches.is_settled:
                return
            for view in busy:
                await view.settled()

    @property
    def link(self) -> LayerLink | LocalLink:
        if self._link is None:
            alias = conf.CHANNEL_LAYER
            layer = get_channel_layer(alias)
            if layer is None and alias != DEFAULT_CHANNEL_LAYER:
                raise ImproperlyConfigured(
                    f"FILTERED_WEBSOCKET['CHANNEL_LAYER'] is {alias!r}, which CHANNEL_LAYERS"
                    " does not have."
                )
            if layer is None:
                self._link = LocalLink(self._deliver)
            else:
                self._link = LayerLink(
                    layer,
                    self._deliver,
                    self._layer_lost,
                    self._layer_back,
                    self._bad_envelope,
                    self._joined_late,
                )
        return self._link

    def view(self, pipeline: Pipeline) -> HubView:
        """The hub as ``pipeline`` sees it."""
        view = self.views.get(pipeline)
        if view is None:
            view = self.views[pipeline] = HubView(self, pipeline)
        return view

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """``function(*args)`` on the hub's loop: now from there, else soon. Any thread."""
        if threading.get_ident() == self._thread:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)

    # The house

    async def hear_house(self) -> None:
        """
        Have events of the house arrive; return when they do, or when the layer has had
        its time once. Then they are missed until it is back.
        """
        if self._hearing is None:
            self.link.want(self._house)
            self._hearing = asyncio.ensure_future(self.link.joined(self._house))
        if not self._hearing.done():
            await asyncio.wait([self._hearing])

    def tell_house(self, event: dict[str, Any], item: Item | None = None) -> None:
        """Say ``event`` to the hubs of all processes; this one acts on it at once."""
        self.rights.obey(event)
        self.batches.put(HOUSE, item or new_item(event))

    # Groups

    async def join(self, connection: Connection, view: HubView, name: str) -> bool:
        """Whether the layer's subscription stands; the membership does, in any case."""
        if connection.id not in self.connections:
            return False
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name)
            self._by_key[group.key] = group
            self.link.want(group.key)
        group.members.setdefault(view, {})[connection.id] = connection
        connection.joined.add(name)
        return self.link.is_joined(group.key) or await self.link.joined(group.key)

    def leave(self, connection: Connection, view: HubView, name: str) -> None:
        """At once; the layer is told by the hub's own task."""
        group = self.groups.get(name)
        if group is None or name not in connection.joined:
            return
        connection.joined.discard(name)
        members = group.members[view]
        del members[connection.id]
        if not members:
            del group.members[view]
        if not group.members:
            del self.groups[name]
            del self._by_key[group.key]
            self.link.unwant(group.key)

    def members(self, view: HubView, name: str) -> Mapping[str, Connection]:
        """Of one pipeline, in this process."""
        group = self.groups.get(name)
        return {} if group is None else group.members.get(view, {})

    def group_names(self, view: HubView) -> frozenset[str]:
        return frozenset(name for name, group in self.groups.items() if view in group.members)

    async def _send(self, batch: Batch) -> None:
        await self.link.send(batch)

    async def _layer_there(self, deadline: float) -> bool:
        return await self.link.there(deadline)

    # In

    def _deliver(self, batch: Batch) -> None:
        if batch.key == self._house:
            self.rights.hear(batch)
            return
        group = self._by_key.get(batch.key)
        if group is None:
            return
        missed = group.sequence.note(batch)
        if missed is None:
            self.counts["duplicate"] += len(batch.items)
            return
        if missed:
            self.counts["missed"] += missed
            self.post_gap(group.name, batch.origin, missed)
        for view in tuple(group.members):
            view.deliver(group.name, batch.items)

    def message_dropped(self) -> None:
        """``SLOW_READER`` dropped a message on its way to one connection."""
        self.counts["dropped"] += 1
        if self._seldom.note("dropped"):
            logger.warning(
                "dropped messages to clients that read too slowly (%d so far)",
                self.counts["dropped"],
            )

    # Events of the house, and of pub/sub

    async def _listen(self, storage: Any) -> None:
        """Hand on what a storage object hears; whatever it raises, ask it again."""
        while True:
            try:
                async for event in storage.listen():
                    self._post(event)
                return
            except Exception:
                if self._seldom.note("listen"):
                    logger.exception("%s failed to listen", type(storage).__module__)
            await asyncio.sleep(LISTEN_AGAIN)

    def _storage_event(self, event: Any) -> None:
        """An event of this process's own storage object, from any thread."""
        self.call(self._post, event)

    def post(self, kind: str, data: Any) -> None:
        """Hand an event of the house to the consumer chain of every pipeline."""
        self._post({"type": kind, "data": data})

    def _post(self, event: Any) -> None:
        for pipeline in {route.built for route in known_routes()}:
            if pipeline is not None and pipeline.consumer:
                # Its own: what one pipeline's filter does to it is not the others' affair.
                self.view(pipeline).post(dict(event) if isinstance(event, dict) else event)

    def post_gap(self, group: str, origin: str | None, missed: int | None) -> None:
        self.post("gap", {"origin": origin, "missed": missed, "group": group})

    def _layer_lost(self, error: BaseException) -> None:
        self.layer_is_lost = True
        logger.warning("the channel layer is away: %r", error)
        if self._running:
            self.post("layer_lost", {"error": repr(error)})

    def _layer_back(self, seconds: float) -> None:
        self.layer_is_lost = False
        logger.warning("the channel layer is back after %.1f s", seconds)
        if not self._running:
            return  # a publisher: it has no chain to tell, and missed nothing
        self.post("layer_back", {"seconds": seconds})
        self.rights.sweep()
        if self._unsaid:
            self._unsaid = False
            self.tell_house({"is": "sweep"})
        for group in tuple(self.groups):
            self.post_gap(group, None, None)

    def _joined_late(self, key: str) -> None:
        """Members were accepted before they could hear their group."""
        if key == self._house:
            self.rights.sweep()
            return
        self.post_gap(self._by_key[key].name, None, None)

    def _bad_envelope(self, error: Exception) -> None:
        self.counts["bad_envelope"] += 1
        if self._seldom.note("bad_envelope"):
            logger.warning("skipped what is no envelope of ours on the channel layer: %r", error)

    def _publish_failed(self, group: str, items: list[Item], error: PublishError) -> None:
        self.counts["publish_failed"] += len(items)
        if self._seldom.note("publish_failed"):
            logger.error("%s (%d messages so far)", error, self.counts["publish_failed"])
        if group == HOUSE:
            # No filter's message. When the layer is back, everybody is to ask.
            self._unsaid = True
            return
        self.post("publish_failed", {"group": group, "messages": len(items), "error": str(error)})


_hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()
#: Hubs with connections, for publishers on other threads; replaced, never changed.
_active: tuple[Hub, ...] = ()
_lock = threading.Lock()


def _announce(hub: Hub) -> None:
    global _active
    with _lock:
        _active = (*_active, hub)


def _withdraw(hub: Hub) -> None:
    global _active
    with _lock:
        _active = tuple(other for other in _active if other is not hub)
    # A hub refers to its loop, which would keep this entry alive for ever.
    _hubs.pop(hub.loop, None)


def _forget() -> None:
    """After a fork: hubs, and the loops they belong to, are the parent's."""
    global _active
    _active = ()
    _hubs.clear()


os.register_at_fork(after_in_child=_forget)


def get_hub() -> Hub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub(loop)
    return hub


def active_hub() -> Hub | None:
    """A hub of this process that has connections: this loop's if it can be. Any thread."""
    hubs = _active
    try:
        mine = _hubs.get(asyncio.get_running_loop())
    except RuntimeError:
        mine = None
    if mine in hubs:
        return mine
    return hubs[-1] if hubs else None
