"""
Where the values of metrics are: counters of this process, and its hubs.

Values are read when somebody asks, from any thread. Labels are from settings and from this
package, never from a client: so many series there are at most.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

from ..connections.ending import OTHER
from ..hub.registry import active_hubs
from ..observe import FilterStats, Times, disconnections, handshakes, totals
from ..pipelines.route import known_routes, name_of

#: The values of a metric's labels -> a number, or a histogram.
Reading: TypeAlias = Iterable[tuple[tuple[str, ...], float | Times]]
Read: TypeAlias = Callable[[], Reading]
#: Route, chain and filter -> what each of its pipelines has counted.
Filters: TypeAlias = dict[tuple[str, ...], list[FilterStats]]


def number(read: Callable[[], float]) -> Read:
    """One number, without labels."""
    return lambda: [((), read())]


def times(counted: Times) -> Read:
    """One histogram, without labels."""
    return lambda: [((), counted)]


def total(name: str) -> Read:
    """How often something happened in all hubs."""
    return lambda: [((), totals[name])]


def total_of(**names: str) -> Read:
    """The same of several things: the value of the label -> its name."""
    return lambda: [((value,), totals[name]) for value, name in names.items()]


# Connections


def connections() -> Reading:
    """By route and server."""
    counts: Counter[tuple[str, ...]] = Counter()
    for hub in active_hubs():
        for view in tuple(hub.views.values()):
            servers = Counter(
                getattr(connection.transport, "server", "other")
                for connection in tuple(view.connections.values())
            )
            route = name_of(view.pipeline) if servers else ""
            counts.update({(route, server): count for server, count in servers.items()})
    return list(counts.items())


def groups() -> float:
    """With members in this process."""
    return sum(len(hub.groups) for hub in active_hubs())


def outcomes() -> Reading:
    """Of handshakes."""
    return [((outcome,), count) for outcome, count in tuple(handshakes.items())]


def close_codes() -> Reading:
    """With which connections ended."""
    counts = tuple(disconnections.items())
    return [(("other" if code == OTHER else str(code),), count) for code, count in counts]


# Filters


def _filters() -> Filters:
    found: Filters = {}
    for pipeline in {route.built: None for route in known_routes()}:
        if pipeline is None:
            continue
        route = name_of(pipeline)
        for chain in pipeline.chains:
            for stage in chain.stages:
                found.setdefault((route, chain.name, stage.path), []).append(stage.stats)
    return found


def filter_times() -> Reading:
    """Of each filter in each chain of each route."""
    return [
        (labels, some[0] if len(some) == 1 else _sum(some)) for labels, some in _filters().items()
    ]


def _sum(some: list[FilterStats]) -> Times:
    both = Times()
    both.seconds = sum(one.seconds for one in some)
    both.quick, *both.slow = map(sum, zip(*[one.times for one in some], strict=True))
    return both


def filter_ends(name: str) -> Read:
    """How often each filter ended so: ``errors``, ``drops`` or ``closes``."""
    return lambda: [
        (labels, sum(getattr(stats, name) for stats in some)) for labels, some in _filters().items()
    ]


# Queues and the layer


def publish_queue(name: str) -> Read:
    """``count`` or ``bytes`` of what waits for the channel layer."""
    return number(lambda: sum(getattr(hub.publish_queue.budget, name) for hub in active_hubs()))


def group_queue(name: str) -> Read:
    """``count`` or ``bytes`` of what waits for chains that await."""
    return number(lambda: sum(getattr(hub.backlog, name) for hub in active_hubs()))


def layer_up() -> Reading:
    """Nothing where no hub is."""
    hubs = active_hubs()
    return [((), float(not any(hub.layer_is_lost for hub in hubs)))] if hubs else []
