"""
The tees that are on in this process: what each wants to see, and sends to its viewer.

::

    control event -> Tap: watches -> records -> a batch every 0.1 s -> the viewer, by the layer
                       '-- ends by itself where nobody renews it

The viewer is in any process. Of what it cannot be sent, the number is told.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from ..chains.current import About
from ..codecs.frames import dump_json
from ..hub.hub import Hub
from ..hub.registry import process_name, told
from ..layer.envelope import EXCLUDE, Item, Stamper
from ..observe import WatchedChain
from ..pipelines.places import is_route_of, stages_at
from .records import Shown, shortened
from .tee import Spec, results_key
from .watching import known_id, watching

#: A tee that is not renewed for so long ends, seconds.
LEASE = 10.0
#: What is seen is sent this often, seconds; at most so many records and bytes.
FLUSH = 0.1
MAX_FLUSH, MAX_FLUSH_BYTES = 200, 262_144
#: At most so many tees at once in a process, and ids of trails that one remembers; a record that
#: has more bytes is shortened.
MAX_TEES, MAX_TRAILS, MAX_RECORD = 16, 1024, 65_536
_KEY = re.compile(r"[0-9a-f]{32}")

#: Key of a tee -> what it is here; also for a while after its end.
taps: "dict[str, Tap]" = {}


def _note(what: str, **fields: Any) -> bytes:
    """A record about the tee itself."""
    record = {"is": what, "at": round(time.time(), 6), "process": process_name(), **fields}
    return dump_json(record).encode()


class Outbox:
    """The records of one tee that wait to be sent: bounded. Belongs to the hub's event loop."""

    def __init__(self, hub: Hub, key: str) -> None:
        self._hub = hub
        self._key = results_key(key)
        self._stamper = Stamper()
        self._waiting: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_sending = False
        #: Records that were not told, all in all, and since the last that were sent.
        self.dropped = self._lost = 0
        self.sent = 0

    def has_room(self) -> bool:
        """Whether a record can be told now; if not, it is counted."""
        if len(self._waiting) < MAX_FLUSH and self._size < MAX_FLUSH_BYTES:
            return True
        self.dropped += 1
        self._lost += 1
        self._flush_soon()
        return False

    def put(self, payload: bytes) -> None:
        self._waiting.append(payload)
        self._size += len(payload)
        self.sent += len(payload)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._timer is None and not self._is_sending:
            # The hub may end with its last connection.
            delay = FLUSH if len(self._hub.connections) > 1 else 0.0
            self._timer = self._hub.loop.call_later(delay, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._hub.over:
            return  # its link is closed
        if self._lost:
            self._waiting.append(_note("lost", dropped=self._lost))
            self._lost = 0
        items = [Item(n, "j", "", payload, {}) for n, payload in enumerate(self._waiting)]
        self._waiting, self._size = [], 0
        self._is_sending = True
        self._hub.link.post(self._stamper.stamp(self._key, items), self._sent)

    def _sent(self, error: Exception | None) -> None:
        # Where the layer is away, they are lost: the viewer is told by its own connection.
        self._is_sending = False
        if self._waiting or self._lost:
            self._flush_soon()


class Tap:
    """One tee, in this process. Belongs to the hub's event loop."""

    def __init__(self, hub: Hub, key: str, spec: Spec) -> None:
        self.hub = hub
        self.key = key
        self.subject = spec.subject
        self.shown = Shown(spec.size, spec.payloads)
        self._spec = spec
        self._outbox = Outbox(hub, key)
        self.has_room = self._outbox.has_room
        self._told = 0
        self._is_on = False
        self._found: dict[Any, Callable[[], None]] = {}
        self._trails: dict[str, None] = {}
        self._places: WeakKeyDictionary[Any, frozenset[int]] = WeakKeyDictionary()
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Begin and end

    def renew(self, left: float) -> None:
        """Go on for as long as the viewer renews it, and at most ``left`` seconds."""
        self._deadline = self.hub.loop.time() + min(LEASE, left)
        if self._timer is None:
            self._begin()
        if self._is_on:
            self._look_for_more()

    def _begin(self) -> None:
        self._is_on = True
        watching.add(self)
        self._timer = self.hub.loop.call_at(self._deadline, self._check)
        self._look_for_more()
        self._outbox.put(_note("begin", found=self._count()))

    def _check(self) -> None:
        if self.hub.loop.time() < self._deadline and not self.hub.over:
            self._timer = self.hub.loop.call_at(self._deadline, self._check)
            return
        self.end("time")
        taps.pop(self.key, None)

    def end(self, why: str) -> None:
        """Watch nothing more. What is renewed afterwards stays over."""
        if not self._is_on:
            return
        self._is_on = False
        watching.remove(self)
        for undo in self._found.values():
            undo()
        self._found.clear()
        self._outbox.put(_note("end", why=why, dropped=self._outbox.dropped))

    # What it wants to see

    def _look_for_more(self) -> None:
        """Views and connections that have come since."""
        views = filter(self._sees_deliveries_of, tuple(self.hub.views.values()))
        found: list[tuple[Any, Any]] = [(view, watching.watch_view) for view in views]
        connection = self.hub.connections.get(self.subject.name)
        if self.subject.kind == "connection" and connection and connection.transport.is_open:
            found.append((connection, watching.watch_connection))
        for what, begin in found:
            if what not in self._found:
                self._found[what] = watching.use(what, begin)

    def _count(self) -> int:
        """How many places, connections or groups it has found."""
        kind, name, _ = self.subject
        if kind != "place":
            has = self.hub.connections if kind == "connection" else self.hub.groups.names
            return int(name in has)
        pipelines = (view.pipeline for view in self.hub.views.values())
        return sum(bool(self._stages_of(chain)) for one in pipelines for chain in one.chains)

    def _stages_of(self, chain: Any) -> frozenset[int]:
        """Of a tee on a place."""
        numbers = self._places.get(chain)
        if numbers is None:
            pipeline = chain.pipeline()
            numbers = frozenset()
            if pipeline is not None and is_route_of(pipeline, self.subject.name):
                numbers = stages_at(pipeline, self.subject.part).get(chain, numbers)
            self._places[chain] = numbers
        return numbers

    def stages(
        self, chain: WatchedChain, instance: Any, about: About | None
    ) -> frozenset[int] | None:
        """The filters that it shows of this event; None: it does not show the event."""
        kind, name, _ = self.subject
        who = getattr(instance, "id", "")
        if who in self._spec.skip:
            return None
        if kind == "place":
            return self._stages_of(chain) or None
        if kind == "group":
            wanted = about is not None and about.group == name
        elif chain.name == "group":
            wanted = about is not None and self._is_member(
                instance, about.group, about.meta.get(EXCLUDE, ())
            )
        else:
            wanted = who == name
        return frozenset(range(len(chain.filters))) if wanted else None

    def _is_member(self, view: Any, group: str, exclude: Iterable[str] = ()) -> bool:
        name = self.subject.name
        return name in self.hub.groups.members(view, group) and name not in exclude

    def _sees_deliveries_of(self, view: Any) -> bool:
        kind, name, part = self.subject
        return kind != "place" or (part in ("", "group") and is_route_of(view.pipeline, name))

    def sees_frames(self, connection: str) -> bool:
        return self.subject.kind == "connection" and connection == self.subject.name

    def sees_delivery(self, view: Any, group: str) -> bool:
        if self.subject.kind == "group":
            return group == self.subject.name
        if self.subject.kind == "connection":
            return self._is_member(view, group)
        return self._sees_deliveries_of(view)

    def sees_publish(self, group: str, item: Item) -> bool:
        kind, name, part = self.subject
        if not group or item.sender in self._spec.skip:
            return False
        if kind == "place":
            return not part and known_id(item.meta) in self._trails
        return name == (group if kind == "group" else item.sender)

    def follow(self, trail: str) -> None:
        """What comes of this trail belongs to it."""
        self._trails[trail] = None
        if len(self._trails) > MAX_TRAILS:
            del self._trails[next(iter(self._trails))]

    # What it tells

    def tell(self, record: dict[str, Any]) -> None:
        """Send ``record``, of any thread, to the viewer; the last one ends this tee."""
        self.hub.call(self._tell, {**record, "process": process_name()})

    def _tell(self, record: dict[str, Any]) -> None:
        if not self._is_on:
            return
        payload = dump_json(record).encode("utf-8", "replace")
        if len(payload) > MAX_RECORD:
            payload = dump_json(shortened(record)).encode("utf-8", "replace")
        self._outbox.put(payload)
        self._told += 1
        if self._told >= self._spec.messages:
            self.end("messages")
        elif self._outbox.sent >= self._spec.total:
            self.end("bytes")


def receive(hub: Hub, event: dict[str, Any]) -> None:
    """A viewer begins, renews or ends a tee. ValueError and the like for what no viewer sends."""
    key, wanted = event["nonce"], event["tee"]
    if not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise ValueError(f"the key of a tee: {key!r:.80}")
    tap = taps.get(key)
    if wanted is None:
        if tap is not None:
            taps.pop(key).end("closed")
        return
    spec = Spec.read(wanted)
    if tap is not None and tap.hub is not hub:
        if not tap.hub.over:
            return  # another event loop of this process shows it
        tap.end("closed")
    if tap is None or tap.hub is not hub:
        if len(watching.taps) >= MAX_TEES and tap is None:
            Outbox(hub, key).put(_note("end", why="too many", dropped=0))
            return
        tap = taps[key] = Tap(hub, key, spec)
    tap.renew(spec.left)


def _forget() -> None:
    """After a fork they are the parent's."""
    taps.clear()
    watching.taps = ()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)


def connect() -> None:
    """Have this process take part in tees."""
    told["tee"] = receive
