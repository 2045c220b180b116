"""
The hub of one event loop: its connections, and the one channel-layer mailbox for all.

::

    connection.publish -> PublishQueue -> the layer -> LayerLink -> Groups.deliver
                                                                 └ per pipeline: HubView.deliver
                                                                      group chain, encode once,
                                                                      every local member's socket
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from ..chains.watchdog import Watchdog
from ..connections.connection import Connection
from ..exceptions import PublishError
from ..history.feeds import Feeds
from ..history.stores import open_store
from ..layer.envelope import CONTROL, Batch, Item, group_key
from ..layer.links import Link, open_link
from ..observe import HubCounts
from ..pipelines.pipeline import Pipeline
from ..presence.of_hub import HubPresence
from ..publishing.items import control_item
from ..publishing.queue import PublishQueue
from ..storage_objects import get_storage_object
from ..threads.budget import Budget
from ..threads.tasks import Tasks, end_tasks
from ..threads.unawaited import log_unawaited
from ..transports.scheduling import served
from .drain import Drain
from .events import Events
from .grants import Grants
from .groups import Groups
from .limits import Limits
from .registry import active_hub, announce, hubs, withdraw
from .view import HubView

#: How long a hub that nobody is connected to goes on to send what was published, seconds:
#: with what else takes time at the end, it fits into DRAIN_DEADLINE.
LINGER = 3.0


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
        self.groups = Groups(self)
        self.presence = HubPresence(self, self.groups.tell)
        #: How often what happened: ``duplicate``, ``missed``, ...
        self.counts: Counter[str] = HubCounts()
        #: Starts the tasks that have to survive exceptions.
        self.tasks = Tasks(self.counts)
        #: Counts the bytes of what waits for group and consumer chains.
        self.backlog = Budget()
        self.feeds = Feeds(self, open_store)
        queue = PublishQueue(self.tasks, lambda: self.link, self.publish_failed, self.feeds)
        self.publish_queue = queue
        self.events = Events(self)
        #: What each connection's access depends on.
        self.grants = Grants(self)
        #: Whether the channel layer (Redis) cannot be reached.
        self.layer_is_lost = False
        self.drain = Drain(self)
        #: Counts connections against MAX_CONNECTIONS and the like.
        self.limits = Limits()
        self._control_key = group_key(CONTROL)
        self._control_joined: asyncio.Task[bool] | None = None
        #: Whether a control event could not be sent.
        self._control_failed = False
        self.watchdog = Watchdog(loop, self.counts)
        self.thread = threading.get_ident()
        self._link: Link | None = None
        self._running = self._ending = self._held = False
        self._listening: asyncio.Task[None] | None = None

    # Beginning and end

    def attach(self, connection: Connection) -> None:
        """A connection begins; the first one makes the hub listen."""
        self.connections[connection.id] = connection
        self._begin()

    def hold(self, quiet: bool = False) -> None:
        """
        Listen although nobody is connected, until :meth:`release`. With ``quiet`` only to
        the channel layer, without events of the storage object.
        """
        self._held = True
        self._begin(quiet)

    async def release(self) -> None:
        """Undo :meth:`hold`; the hub ends, unless somebody is connected."""
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
        announce(self)
        link.start()
        self.watchdog.start()
        log_unawaited()
        self.limits.begin()
        if not self._held:
            # The program that holds the hub handles signals itself.
            self.drain.watch()
        if not quiet:
            self._listen_to_storage()

    def _listen_to_storage(self) -> None:
        storage = get_storage_object()
        # From any thread.
        storage.attach(partial(self.call, self.events.hand_over))
        if storage.listens:
            self._listening = self.tasks.start(partial(self.events.listen, storage), "fws-pubsub")

    async def detach(self, connection: Connection) -> None:
        """A connection has ended and left its groups; with the last one the hub ends."""
        self.connections.pop(connection.id, None)
        if not self.connections and self._running and not self._held:
            await asyncio.shield(asyncio.ensure_future(self._end()))  # whoever is cancelled

    @property
    def over(self) -> bool:
        """Whether nobody is connected, and the hub has ended unless it is held."""
        has_ended = not self._running and not self._ending
        return not self.connections and (self._held or has_ended)

    async def _end(self) -> None:
        """Continues when the caller is cancelled: a server may cancel the last connection."""
        await asyncio.shield(self.loop.create_task(self._end_when_idle(), name="fws-end"))

    async def _end_when_idle(self) -> None:
        """Waits while the hub still serves; withdraws without awaiting, and ends its tasks."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await self.publish_queue.sent()
            if not self.connections and not self._held:
                await self.publish_queue.give_up()
            await self.settled()
            await self.grants.stop()
            if self.connections or self._held or not self._running:
                self.grants.go_on()
                return
            if not self.publish_queue.size:
                break
            # Another thread has published: let the loop run its callback.
            await asyncio.sleep(0)
        self._running = False
        withdraw(self)
        self._ending = True
        self.drain.unwatch()
        self.watchdog.stop()
        storage = get_storage_object()
        storage.attach(None)
        link, self._link = self.link, None
        self.groups.clear()
        self.views.clear()
        tasks = self._listening, self._control_joined
        self._listening = self._control_joined = None
        await end_tasks(filter(None, tasks))
        await self.presence.stop()
        if active_hub() is None:  # else another hub has begun, and uses the storage object
            await storage.aclose()
        await self.feeds.stop()
        await link.stop()
        self._ending = False

    async def settled(self) -> None:
        """Return when nothing is queued but what waits for a layer that cannot be reached."""
        while True:
            await self.presence.flushed()
            await self.publish_queue.settled()
            busy = [view for view in tuple(self.views.values()) if view.busy]
            if not busy and self.publish_queue.is_settled:
                return
            for view in busy:
                await view.settled()

    @property
    def link(self) -> Link:
        if self._link is None:
            self._link = open_link(
                self.tasks,
                on_batch=self._deliver,
                name_of=self.groups.name_of,
                on_lost=self._layer_lost,
                on_back=self._layer_back,
                on_bad_envelope=self.events.bad_envelope,
                on_joined_late=self._joined_late,
                on_events=self.presence.receive,
            )
        return self._link

    def view(self, pipeline: Pipeline) -> HubView:
        """The hub as ``pipeline`` sees it."""
        view = self.views.get(pipeline)
        if view is None:
            view = self.views[pipeline] = HubView(self, pipeline)
        return view

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function(*args)`` on the hub's loop: now if it runs there. From any thread."""
        if threading.get_ident() == self.thread:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)

    # Control events

    async def receive_control(self) -> None:
        """
        Subscribe to control events. Returns once subscribed, or after ``LAYER_TIMEOUT``;
        until the layer is back they are then missed.
        """
        if self._control_joined is None:
            self.link.want(self._control_key)
            self._control_joined = self.loop.create_task(self.link.wait_joined(self._control_key))
        if not self._control_joined.done():
            await asyncio.wait([self._control_joined])

    def send_control(self, event: dict[str, Any], item: Item | None = None) -> None:
        """Send ``event`` to the hubs of all processes; this one handles it at once."""
        self.grants.handle(event)
        self.publish_queue.put(CONTROL, item or control_item(event))

    # Received

    def _deliver(self, batch: Batch) -> None:
        if batch.origin != self.publish_queue.origin:
            served.last = None  # clients of other processes do not wait for long turns, either
        if batch.key == self._control_key:
            self.grants.receive(batch)
        else:
            self.groups.deliver(batch)

    # Events

    def _layer_lost(self, error: BaseException) -> None:
        self.layer_is_lost = True
        self.events.layer_lost(error, post=self._running)

    def _layer_back(self, seconds: float) -> None:
        self.layer_is_lost = False
        self.events.layer_back(seconds, post=self._running)
        if not self._running:
            return  # it only publishes: it missed no message
        self.grants.recheck_all()
        self.presence.layer_back()
        if self._control_failed:
            self._control_failed = False
            self.send_control({"is": "sweep"})
        self.groups.layer_back()

    def _joined_late(self, key: str) -> None:
        """Connections were accepted before the layer had subscribed to ``key``."""
        if key == self._control_key:
            self.grants.recheck_all()
        else:
            self.groups.joined_late(key)

    def publish_failed(self, group: str, items: list[Item], error: PublishError) -> None:
        self.events.publish_failed(group, items, error)
        if group == CONTROL:
            # When the layer is back, every process re-checks.
            self._control_failed = True


def get_hub() -> Hub:
    """The hub of the running event loop; created if there is none."""
    loop = asyncio.get_running_loop()
    hub = hubs.get(loop)
    if hub is None:
        hub = hubs[loop] = Hub(loop)
    return hub
