"""
Sees what passes in this process, for the tees that are on here::

    frame -> data chain -> message chain -> publish ~~ the layer ~~> group chain -> send chain
    '------------------------- one trail, with one id -----------------------------------'

The id of a trail crosses the layer in the ``meta`` of a message. What was published where no tee
is on gets one that is the same in all processes. While no tee is on, nothing of this is called.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from .. import observe
from ..chains.current import About, about_event
from ..codecs.frames import Bundle, Encoded, Frame
from ..connections.connection import Connection
from ..layer.envelope import CONTROL, Item
from ..protocols.connection import ClientEvent, client_event
from ..publishing import items
from ..publishing.items import TRAIL
from ..transports import watch_writes
from .records import Run, Shown, delivery, record, secrets_of, secrets_of_sender

#: The order in which a frame passes through them.
FRAME, DATA, MESSAGE = range(3)
STEPS = {"data": DATA, "message": MESSAGE}
#: Chains of group messages.
OF_GROUPS = ("group", "send")
#: The longest id that a message may bring along, in characters.
MAX_ID = 32

OnItems = Callable[[str, Sequence[Item]], None]


class Trail:
    """The way of one message, as far as it has come in this context."""

    __slots__ = ("id", "step")

    def __init__(self, key: str = "", step: int = FRAME) -> None:
        self.id = key or secrets.token_hex(8)
        self.step = step


#: Kept in the tasks and threads of filters.
trail_event: ContextVar[Trail | None] = ContextVar("fws_trail", default=None)
#: Of what clients publish: their protocol does, when the chains have ended.
said: WeakKeyDictionary[ClientEvent, Trail | None] = WeakKeyDictionary()


class Tap(Protocol):
    """One tee, in this process."""

    shown: Shown

    def stages(
        self, chain: observe.WatchedChain, instance: Any, about: About | None
    ) -> frozenset[int] | None: ...
    def sees_frames(self, connection: str) -> bool: ...
    def sees_publish(self, group: str, item: Item) -> bool: ...
    def sees_delivery(self, view: Any, group: str) -> bool: ...
    def has_room(self) -> bool: ...
    def follow(self, trail: str) -> None: ...
    def tell(self, record: dict[str, Any]) -> None: ...


def known_id(meta: Mapping[str, Any]) -> str:
    """The id that a message has brought along; empty if it has none. Anybody may have sent it."""
    known = meta.get(TRAIL)
    return known if isinstance(known, str) and len(known) <= MAX_ID else ""


def id_of(item: Item) -> str:
    """The id of its trail: that which it has, or one that is equal in all processes."""
    about = f"{item.id} {item.sender} {item.kind} ".encode("utf-8", "surrogatepass")
    return known_id(item.meta) or blake2b(about + item.payload, digest_size=8).hexdigest()


def _trail(name: str, about: About | None) -> Trail:
    """That of an event of the chain with this name."""
    if about is not None:
        return Trail(known_id(about.meta))
    trail, step = trail_event.get(), STEPS.get(name)
    if step is None:
        return Trail()
    if trail is None or trail.step >= step:
        return Trail(step=step)
    trail.step = step
    return trail


class Passing:
    """One event of a chain, for the tees that show it."""

    def __init__(
        self, name: str, runs: Sequence[tuple[Tap, Run]], token: Token[Trail | None]
    ) -> None:
        self._name, self._runs, self._token = name, runs, token
        self._path = ""

    def begin_stage(self, path: str, data: Any) -> None:
        self._path = path

    def end_stage(self, data: Any, seconds: float, error: BaseException | None) -> None:
        for _, run in self._runs:
            run.stage(self._path, data, seconds, error)

    def end(self, data: Any, error: BaseException | None) -> None:
        if self._name not in STEPS:
            trail_event.reset(self._token)
        elif self._name == "message" or error is not None:
            if (event := client_event.get()) is not None:
                said[event] = trail_event.get()
            trail_event.set(None)
        for tap, run in self._runs:
            tap.tell(run.end(error))


class Watching:
    """One per process, for all its tees. Watches all chains while one is on."""

    def __init__(self) -> None:
        self.taps: tuple[Tap, ...] = ()
        #: How many tees are on something, and what undoes it with the last one.
        self._users: Counter[Any] = Counter()
        self._undo: dict[Any, Callable[[], object]] = {}

    def add(self, tap: Tap) -> None:
        if not self.taps:
            observe.watch(self)
            items.carriers.append(self._carry)
            items.on_publish.append(self._publishing)
        self.taps = (*self.taps, tap)

    def remove(self, tap: Tap) -> None:
        """Does nothing for one that was not added."""
        had = self.taps
        self.taps = tuple(one for one in had if one is not tap)
        if had and not self.taps:
            observe.unwatch(self)
            items.carriers.remove(self._carry)
            items.on_publish.remove(self._publishing)

    def use(self, what: Any, begin: Callable[[Any], Callable[[], object]]) -> Callable[[], None]:
        """Watch a view or a connection by ``begin``, once for all tees; what ends it for one."""
        self._users[what] += 1
        if self._users[what] == 1:
            self._undo[what] = begin(what)
        return partial(self._leave, what)

    def _leave(self, what: Any) -> None:
        self._users[what] -= 1
        if not self._users[what]:
            del self._users[what]
            self._undo.pop(what)()

    def _tell(self, taps: Iterable[Tap], make: Callable[[Tap], dict[str, Any]]) -> None:
        """What a tee cannot show must not cost the message."""
        for tap in taps:
            try:
                if tap.has_room():
                    tap.tell(make(tap))
            except Exception:
                observe.log_failed(self)

    # Chains

    def begin(self, chain: observe.WatchedChain, instance: Any, data: Any) -> Passing | None:
        pipeline = chain.pipeline()
        if pipeline is None:
            return None
        about = about_event.get() if chain.name in OF_GROUPS else None
        wanted = ((tap, tap.stages(chain, instance, about)) for tap in self.taps)
        runs = [
            (tap, Run(tap.shown, chain, pipeline, numbers))
            for tap, numbers in wanted
            if numbers is not None and tap.has_room()
        ]
        if not runs:
            if chain.name in STEPS:
                trail_event.set(None)
            return None
        trail = _trail(chain.name, about)
        for tap, run in runs:
            run.begin(instance, data, about, trail.id)
            tap.follow(trail.id)
        return Passing(chain.name, runs, trail_event.set(trail))

    # Frames of a connection

    def watch_connection(self, connection: Connection) -> Callable[[], object]:
        reader = connection.reader
        bare = reader.handle

        def handle(payload: bytes, text: bool) -> Any:
            trail_event.set(trail := Trail())
            self._frame(connection, "in", trail.id, payload, text)
            return bare(payload, text)

        def on_write(frame: Frame | Bundle) -> None:
            with suppress(Exception):  # of a frame that cannot be taken apart
                for part in frame.parts:
                    self._frame(connection, "out", current_id(), part.payload, part.text)

        def undo() -> None:
            reader.handle = bare
            watch_writes(connection.transport, None)

        reader.handle = handle
        watch_writes(connection.transport, on_write)
        return undo

    def _frame(
        self, connection: Connection, way: str, trail: str, payload: bytes, text: bool
    ) -> None:
        known = secrets_of(connection)
        taps = (tap for tap in self.taps if tap.sees_frames(connection.id))

        def make(tap: Tap) -> dict[str, Any]:
            tap.follow(trail)
            shown = tap.shown.payload(Encoded("t" if text else "b", payload), known)
            return record("frame", trail, way=way, connection=connection.id, **{"in": shown})

        self._tell(taps, make)

    # Publishes

    def _carry(self, meta: dict[str, Any]) -> None:
        event = client_event.get()
        trail = trail_event.get() or (None if event is None else said.get(event))
        if trail is not None:
            meta[TRAIL] = trail.id

    def _publishing(self, group: str, item: Item) -> None:
        if group == CONTROL:
            return
        taps = [tap for tap in self.taps if tap.sees_publish(group, item)]
        if not taps:
            return
        trail, sender = id_of(item), item.sender or None

        def make(tap: Tap) -> dict[str, Any]:
            tap.follow(trail)
            known = secrets_of_sender(item.sender)
            shown = tap.shown.payload(Encoded(*item.packed), known)
            return record("publish", trail, connection=sender, group=group, **{"in": shown})

        self._tell(taps, make)

    # Group messages

    def watch_view(self, view: Any) -> Callable[[], object]:
        bare, bare_run = view.deliver, view.deliver_run

        def deliver_run(group: str, run: Any, line: Any) -> None:
            self._deliver(view, lambda *_: bare_run(group, run, line), group, run.items)

        def undo() -> None:
            view.deliver, view.deliver_run = bare, bare_run

        view.deliver, view.deliver_run = partial(self._deliver, view, bare), deliver_run
        return undo

    def _deliver(self, view: Any, bare: OnItems, group: str, some: Sequence[Item]) -> None:
        """Deliver by ``bare``, and tell what no group chain sees."""
        taps = [tap for tap in self.taps if tap.sees_delivery(view, group)]
        if not taps:
            bare(group, some)
            return
        for item in some:
            item.meta[TRAIL] = id_of(item)
        token = trail_event.set(Trail(some[0].meta[TRAIL]) if len(some) == 1 else None)
        try:
            bare(group, some)
        finally:
            trail_event.reset(token)
        for item in () if view.pipeline.group else some:
            self._tell(taps, partial(self._delivered, view, group, item))

    def _delivered(self, view: Any, group: str, item: Item, tap: Tap) -> dict[str, Any]:
        return delivery(view, group, item, item.meta[TRAIL], tap.shown)


def current_id() -> str:
    """Of what is sent now: that of the message that caused it, if that is seen."""
    trail, about = trail_event.get(), about_event.get()
    if trail is not None:
        return trail.id
    return (known_id(about.meta) if about is not None else "") or Trail().id


watching = Watching()
