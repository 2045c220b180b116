"""
What the package counts of itself, and how to watch what passes through its chains.

Counters are plain numbers, always counted; ``metrics`` reads them. Each filter of a chain has
its :class:`FilterStats`. Watchers are none until somebody sets one, by :func:`watch` for all
chains or :func:`watch_chain` for one::

    watcher.begin(chain, instance, data)          an event begins: a watch of it, or None
        watch.begin_stage(path, data)             a filter begins
        watch.end_stage(data, seconds, error)     it has ended
    watch.end(data, error)                        the event has ended

All of one event are called in one thread and one context, those of an async chain too: its
filters, in their threads as well, see the context variables that ``begin`` and ``begin_stage``
set. A filter may change ``data`` in place, so whoever shows it later copies it at once.

A watcher that raises is logged, and sees no more of that event.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakSet

from .exceptions import Close, Drop
from .logs import LogThrottle, get_logger
from .quoting import keep_secret

logger = get_logger(__name__)
_throttle = LogThrottle()

#: Of what takes time here.
clock = time.perf_counter
#: Upper bounds of histograms, seconds; above the last is one more.
BOUNDS = (2.5e-5, 1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 2.5, 10.0)
#: A chain counts runs of up to so many seconds itself, as nearly all are, and a call costs time.
QUICK = BOUNDS[0]


class Times:
    """A histogram of how long something took."""

    __slots__ = ("quick", "seconds", "slow")

    def __init__(self) -> None:
        #: How long all of it took.
        self.seconds = 0.0
        #: How often it took ``QUICK`` seconds or less.
        self.quick = 0
        #: And how often longer, by ``BOUNDS``.
        self.slow = [0] * len(BOUNDS)

    @property
    def times(self) -> tuple[int, ...]:
        """How often each of ``BOUNDS`` was the first bound of it; then how often none was."""
        return (self.quick, *self.slow)

    @property
    def runs(self) -> int:
        """How often it was."""
        return sum(self.times)

    def note(self, seconds: float) -> None:
        """It took so long."""
        self.seconds += seconds
        if seconds <= QUICK:
            self.quick += 1
        else:
            self.note_slow(seconds)

    def note_slow(self, seconds: float) -> None:
        """It took longer than ``QUICK``, which the caller has added to ``seconds``."""
        self.slow[bisect_left(BOUNDS, seconds) - 1] += 1


class FilterStats(Times):
    """
    What one filter of one chain has done. Runs that were cancelled are not counted; those of
    an async filter take the time of what it awaits.
    """

    __slots__ = ("closes", "drops", "errors", "path")

    def __init__(self, path: str) -> None:
        super().__init__()
        #: The dotted path of the filter.
        self.path = path
        #: How many runs ended with Drop, Close, and any other exception.
        self.drops = self.closes = self.errors = 0

    def stopped(self, seconds: float, error: BaseException) -> None:
        """A run of so many seconds has ended with ``error``."""
        self.note(seconds)
        if isinstance(error, Drop):
            self.drops += 1
        elif isinstance(error, Close):
            self.closes += 1
        else:
            self.errors += 1


class Traffic:
    """Frames of clients, pings and the like not counted, and bytes of their payloads."""

    __slots__ = ("bytes_in", "bytes_out", "delivered", "frames_in", "pushed")

    def __init__(self) -> None:
        self.frames_in = self.bytes_in = 0
        #: Frames that were handed to single connections; and to the members of groups.
        self.pushed = self.delivered = 0
        self.bytes_out = 0


class HubCounts(Counter[str]):
    """The counts of one hub; they are part of :data:`totals`, which a hub's end leaves alone."""

    def __setitem__(self, name: str, count: int) -> None:
        totals[name] += count - self[name]
        super().__setitem__(name, count)


# Of this process, since it began.
traffic = Traffic()
#: How often what happened in all hubs: ``duplicate``, ``missed``, ...
totals: Counter[str] = Counter()
#: Outcome -> how many handshakes had it.
handshakes: Counter[str] = Counter()
#: Close code -> how many connections ended with it.
disconnections: Counter[int] = Counter()
#: How much later than asked for the event loop has called what was due.
loop_lag = Times()
#: How long a message took through the channel layer and back.
round_trips = Times()
#: How long the layer was away, each time.
outages = Times()
#: Called twice a second on the event loop of each hub, and with True at its end.
on_tick: list[Callable[[bool], object]] = []


class WatchedChain(Protocol):
    """The part of a chain that is used here, and that watchers use."""

    #: "connect", "message", ...
    name: str
    #: The filter classes, in order.
    filters: tuple[Any, ...]
    watchers: "tuple[Watcher, ...]"
    #: Returns its pipeline, or None: it has none, or that is gone.
    pipeline: Callable[[], Any]

    def __bool__(self) -> bool: ...


class Watch(Protocol):
    """Sees one event of a chain."""

    def begin_stage(self, path: str, data: Any) -> None:
        """The filter at ``path`` is about to get ``data``."""

    def end_stage(self, data: Any, seconds: float, error: BaseException | None) -> None:
        """It has passed on ``data``; or raised ``error``, and then ``data`` is None."""

    def end(self, data: Any, error: BaseException | None) -> None:
        """``data`` has come out of the chain; or ``error``, as the chain raises it."""


class Watcher(Protocol):
    """Is asked at each event of the chains that it watches. A chain without filters has none."""

    def begin(self, chain: WatchedChain, instance: Any, data: Any) -> Watch | None:
        """
        What sees this event; None: nothing. ``instance`` is what the filters get: a connection,
        or a view of the hub.
        """


class Watches:
    """The watches of one event."""

    def __init__(self, watches: list[Watch]) -> None:
        self._watches = watches

    def stage(self, path: str, data: Any) -> "WatchedStage":
        """``with``: a filter runs."""
        return WatchedStage(self, path, data)

    def tell(self, method: str, *args: Any) -> None:
        """Call it on each, the last first where something ends."""
        order = 1 if method == "begin_stage" else -1
        for watch in self._watches[::order]:
            try:
                getattr(watch, method)(*args)
            except Exception:
                self._watches.remove(watch)
                log_failed(watch)


class WatchedStage:
    """One filter of a watched event."""

    def __init__(self, watches: Watches, path: str, data: Any) -> None:
        self._watches, self._path = watches, path
        #: What it gets, and then what it passes on.
        self.data = data

    def __enter__(self) -> "WatchedStage":
        self._watches.tell("begin_stage", self._path, self.data)
        self._began = clock()
        return self

    def returned(self, result: Any) -> None:
        """The filter has returned ``result``; None: what it got."""
        if result is not None:
            self.data = result

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = clock() - self._began
        if error is not None:
            keep_secret(error, self.data)
        self._watches.tell("end_stage", None if error else self.data, seconds, error)


def log_failed(what: Any) -> None:
    """In an ``except`` block: a watcher, or its watch, has raised."""
    name = type(what).__qualname__
    if _throttle.note(name):
        logger.exception("%s cannot watch an event (%d so far)", name, _throttle.counts[name])


def begin(chain: WatchedChain, instance: Any, data: Any) -> Watches | None:
    """Ask the watchers of ``chain`` about an event; None where none is interested."""
    watches = []
    for watcher in chain.watchers if chain else ():
        try:
            watch = watcher.begin(chain, instance, data)
        except Exception:
            log_failed(watcher)
        else:
            if watch is not None:
                watches.append(watch)
    return Watches(watches) if watches else None


# All chains

_lock = threading.RLock()
_chains: "WeakSet[WatchedChain]" = WeakSet()
_of_all: tuple[Watcher, ...] = ()


def add_chain(chain: WatchedChain) -> None:
    """Give a new chain the watchers of all chains."""
    with _lock:
        chain.watchers = _of_all
        _chains.add(chain)


def watch(watcher: Watcher) -> None:
    """Have ``watcher`` see every chain of this process, those of later pipelines too."""
    global _of_all
    with _lock:
        _of_all = (*_of_all, watcher)
        for chain in _chains:
            chain.watchers = (*chain.watchers, watcher)


def unwatch(watcher: Watcher) -> None:
    """Undo :func:`watch`. An event that has begun is still watched to its end."""
    global _of_all
    with _lock:
        _of_all = without(_of_all, watcher)
        for chain in _chains:
            chain.watchers = without(chain.watchers, watcher)


def watch_chain(chain: WatchedChain, watcher: Watcher) -> None:
    """Have ``watcher`` see one chain."""
    with _lock:
        chain.watchers = (*chain.watchers, watcher)


def unwatch_chain(chain: WatchedChain, watcher: Watcher) -> None:
    """Undo :func:`watch_chain`."""
    with _lock:
        chain.watchers = without(chain.watchers, watcher)


def without(watchers: tuple[Watcher, ...], watcher: Watcher) -> tuple[Watcher, ...]:
    return tuple(one for one in watchers if one is not watcher)
