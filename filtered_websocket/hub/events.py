"""
Events of a hub: counted, logged (throttled), and handed to the consumer chains; and what
other processes order.

Events come from the channel layer (lost, back, a gap), from publishing (failed) and from
the storage object (Redis pub/sub).
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from .. import tracing
from ..conf import conf
from ..connections.connection import Connection
from ..exceptions import NotAllowed, PublishError
from ..layer.envelope import CONTROL, Item, check_group
from ..logs import LogThrottle, fields_of, get_logger, place_of
from ..observe import outages
from ..pipelines.pipeline import Pipeline
from ..pipelines.route import known_routes
from ..threads.serial_queue import SerialQueue
from ..types import Identity

logger = get_logger(__name__)

#: Pause before ``listen()`` of a storage object that failed is called again, seconds.
LISTEN_AGAIN = 1.0

#: The kinds of control events that are orders. Processes of earlier versions take them for
#: changes of a row that nobody depends on.
ORDERS = ("subscribe", "unsubscribe", "expiry")
#: How many orders are remembered until they come back.
MAX_DONE = 1024


class View(Protocol):
    """The part of a hub's view that is used here."""

    def post(self, event: Any) -> None: ...


class QueueView(Protocol):
    """The part of a hub's view that its event queue uses."""

    pipeline: Pipeline
    events: SerialQueue[Any]

    def call(self, function: Callable[..., object], *args: Any) -> None: ...


class Host(Protocol):
    """The part of a hub that is used here."""

    counts: Counter[str]

    def view(self, pipeline: Pipeline) -> View: ...


class EventQueue:
    """Takes events for the consumer chain, from any thread."""

    def __init__(self, view: QueueView, connection: Connection | None = None) -> None:
        self._view = view
        #: The one that is not read while its events wait.
        self._connection = connection

    def put(self, event: Any, block: bool = True, timeout: float | None = None) -> None:
        """
        Hand ``event`` to the consumer chain; :exc:`queue.Full` if too many are waiting.

        Never waits: ``block`` and ``timeout`` are accepted as by :class:`queue.Queue`,
        which version 0.4 used here, and ignored.
        """
        view, connection = self._view, self._connection
        if not view.pipeline.consumer:
            return
        if connection is not None:
            connection.has_queued = True
        size = view.events.admit(event)
        view.call(view.events.put_admitted, event, size)


class Events:
    """Belongs to the hub's event loop."""

    def __init__(self, hub: Host) -> None:
        self._hub = hub
        self._throttle = LogThrottle()

    def post(self, kind: str, data: Any) -> None:
        """Hand an event of this package to the consumer chain of every pipeline."""
        self.hand_over({"type": kind, "data": data})

    def hand_over(self, event: Any) -> None:
        """Hand any event to the consumer chain of every pipeline."""
        for pipeline in {route.built for route in known_routes()}:
            if pipeline is not None and pipeline.consumer:
                # A copy for each: a filter of one pipeline may change it.
                own = dict(event) if isinstance(event, dict) else event
                self._hub.view(pipeline).post(own)

    def layer_lost(self, error: BaseException, post: bool) -> None:
        """Redis cannot be reached; ``post`` is False for a hub without connections."""
        self._hub.counts["layer_lost"] += 1
        logger.warning(
            "lost the channel layer (Redis): %r; messages are queued for up to %g s",
            error,
            conf.PUBLISH_MAX_AGE,
        )
        if post:
            self.post("layer_lost", {"error": repr(error)})

    def layer_back(self, seconds: float, post: bool) -> None:
        """Redis can be reached again, after so many seconds."""
        outages.note(seconds)
        logger.warning("the channel layer (Redis) is back after %.1f s", seconds)
        if post:
            self.post("layer_back", {"seconds": seconds})

    def gap(self, group: str, origin: str | None, missed: int | None) -> None:
        """Messages of ``group`` were missed; ``missed`` is None if their number is unknown."""
        self._hub.counts["gap"] += 1
        if missed:
            self._hub.counts["missed"] += missed
        self.post("gap", {"origin": origin, "missed": missed, "group": group})

    async def listen(self, storage: Any) -> None:
        """Hand over the events of a storage object; if it raises, listen again after a pause."""
        while True:
            try:
                async for event in storage.listen():
                    self.hand_over(event)
                return
            except Exception:
                if self._throttle.note("listen"):
                    logger.exception("%s failed to listen", type(storage).__module__)
            await asyncio.sleep(LISTEN_AGAIN)

    def bad_envelope(self, error: Exception) -> None:
        """A message on the channel layer is not an envelope of this package."""
        self._hub.counts["bad_envelope"] += 1
        if self._throttle.note("bad_envelope"):
            logger.warning(
                "skipped a message on the channel layer that this package did not send: %r", error
            )

    def publish_failed(self, group: str, items: list[Item], error: PublishError) -> None:
        """Messages were queued and could not be sent; those of filters are told to filters."""
        self._hub.counts["publish_failed"] += len(items)
        if self._throttle.note("publish_failed"):
            logger.error("%s (%d messages so far)", error, self._hub.counts["publish_failed"])
        if group != CONTROL:
            tracing.active.unsent(group, items, error)
            data = {"group": group, "messages": len(items), "error": str(error)}
            self.post("publish_failed", data)

    def not_allowed(self, error: NotAllowed, where: Any) -> None:
        """A connection asked for something that it may not do; ``where`` as of ``place_of``."""
        self._hub.counts["not_allowed"] += 1
        place, count = place_of(where), self._hub.counts["not_allowed"]
        if self._throttle.note(f"not allowed {place}"):
            told = fields_of(where)
            logger.info("%s: %s (%d refusals so far)", place, error, count, extra=told)

    def message_dropped(self) -> None:
        """``SLOW_READER`` dropped a message on its way to one connection."""
        self._hub.counts["dropped"] += 1
        if self._throttle.note("dropped"):
            logger.warning(
                "dropped messages to clients that read too slowly (%d so far)",
                self._hub.counts["dropped"],
            )


class Orders:
    """
    Joins, leaves and expiries that are ordered from anywhere in Django. ``add`` and ``remove`` are
    those of what the access of a connection depends on.
    """

    def __init__(self, add: Callable[..., None], remove: Callable[..., None]) -> None:
        self._add, self._remove = add, remove
        #: Those that this process sent and has carried out: they come back by the layer.
        self._done: dict[str, None] = {}

    def handle(self, event: dict[str, Any], connections: Iterable[Connection]) -> None:
        """Carry out an order; a join or a leave once."""
        if event["kind"] == "expiry":
            at, until = event["at"], None
            if at is not None:
                until = Identity(expires_at=datetime.fromtimestamp(at, UTC))
            for connection in connections:
                if connection.renew(at):
                    continue
                if until is None:
                    self._remove(connection, "ordered")
                else:
                    self._add(connection, until, math.inf, "ordered")
            return
        group, number = check_group(event["group"]), str(event["n"])
        if number in self._done:
            del self._done[number]
            return
        self._done[number] = None
        if len(self._done) > MAX_DONE:
            del self._done[next(iter(self._done))]
        for connection in connections:
            if event["kind"] == "unsubscribe":
                connection.leave(group)
                continue
            try:
                connection.join(group, trusted=True)
            except Exception as error:
                # That of one connection must not keep the others, and other processes, from it.
                connection.call_failed(error)


def named_by(event: dict[str, Any], connections: Iterable[Connection]) -> list[Connection]:
    """
    Those that an event is about: where it names one of a user's connections, that one if it is
    theirs; none that it says to keep.
    """
    client, kept = event.get("client"), list(event.get("keep", ()))
    return [
        one
        for one in connections
        if (client is None or (one.id == client and (one.user_id or "") == event["id"]))
        and one.id not in kept
    ]
