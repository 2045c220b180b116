"""
What a process says of itself, to the console and to ``manage.py fws_status``.

::

    a question -> its steps, each in a turn of the event loop of its own -> one answer

However many connections a process has, a step looks at ``PER_TURN`` of them, and an answer
has at most ``MAX_BYTES``: sums, and the rows that were asked for.
"""

import contextvars
import copy
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

from ..codecs.frames import dump_json
from ..conf import conf
from ..hub.drain import ending
from ..hub.hub import Hub
from ..hub.registry import hubs
from ..layer.links import ProcessLink
from ..logs import LogThrottle, get_logger, recent
from ..observe import FilterStats
from ..pipelines.pipeline import Pipeline
from ..pipelines.places import names_of
from ..pipelines.route import Route, known_routes
from ..threads.blocking import abandoned, busy

T = TypeVar("T")

logger = get_logger(__name__)
_throttle = LogThrottle()

#: So many connections, or groups, are looked at in one turn of the event loop.
PER_TURN = 256
#: So many questions are answered at the same time; others get no answer.
MAX_QUESTIONS = 8
#: The most bytes of one answer, which has to fit into a message, too.
MAX_BYTES = 16_384
#: The most paths of one pipeline that are named.
MAX_PATHS = 5

#: Does a part of the work up to each ``yield``, and returns the answer.
Steps: TypeAlias = Generator[None, None, dict[str, Any]]
Describe: TypeAlias = Callable[[Hub, dict[str, Any]], Steps]
Reply: TypeAlias = Callable[[dict[str, Any]], None]

#: Of the questions that are answered now, the hubs.
_answering: list[Hub] = []


def most_bytes() -> int:
    """The most bytes that an answer may have here."""
    return int(min(MAX_BYTES, conf.MAX_MESSAGE_SIZE // 2))


def in_parts(entries: Collection[T]) -> Iterator[list[T]]:
    """``entries`` as they are now, ``PER_TURN`` at a time."""
    left = iter(tuple(entries))
    while some := list(islice(left, PER_TURN)):
        yield some


def answer_in_turns(hub: Hub, steps: Steps, reply: Reply) -> None:
    """Run ``steps``, each in a turn of its own, and ``reply`` at the end. On the hub's loop."""
    if len(_answering) < MAX_QUESTIONS:
        _answering.append(hub)
        _go_on(hub, steps, reply)


def _go_on(hub: Hub, steps: Steps, reply: Reply) -> None:
    try:
        next(steps)
    except StopIteration as done:
        _answering.remove(hub)
        # Else it has ended meanwhile, and sends nothing any more.
        if hubs.get(hub.loop) is hub:
            reply(done.value)
    except Exception:
        _answering.remove(hub)
        if _throttle.note("failed"):
            logger.exception("cannot answer what the console asks")
    else:
        # Not in the context of whatever is handled now.
        hub.loop.call_soon(_go_on, hub, steps, reply, context=contextvars.Context())


# The process


def describe_process(hub: Hub, question: dict[str, Any]) -> Steps:
    """The process itself, and the filters of its pipelines."""
    users: set[str | None] = set()
    subscriptions = unsent = 0
    for some in in_parts(hub.connections.values()):
        for one in some:
            users.add(one.user_id)
            subscriptions += len(one.joined)
            unsent += one.transport.unsent
        yield
    return {
        **hub.grants.inventory.identity(),
        "num_clients": len(hub.connections),
        "num_users": len(users - {None}),
        "num_subs": subscriptions,
        "num_channels": len(hub.groups),
        "inside": {**_state(hub, unsent), **_fitting(describe_pipelines(hub))},
    }


def _state(hub: Hub, unsent: int) -> dict[str, Any]:
    budget = hub.publish_queue.budget
    layer = "none" if isinstance(hub.link, ProcessLink) else "up"
    return {
        "lag": round(hub.watchdog.lag, 4),
        "worst_lag": round(hub.watchdog.worst_lag, 4),
        "queue": {"messages": budget.count, "bytes": budget.bytes},
        "backlog": hub.backlog.bytes,
        "unsent": unsent,
        "layer": "lost" if hub.layer_is_lost else layer,
        "draining": ending.is_set(),
        "blocking": {
            "busy": len(busy),
            "abandoned": len(abandoned),
            "of": conf.BLOCKING_THREADS,
        },
        "counts": dict(hub.counts),
        "errors": recent.total,
    }


def describe_pipelines(hub: Hub) -> list[dict[str, Any]]:
    """What each pipeline of this process has done; first those with most connections."""
    found: dict[Pipeline, list[Route]] = {}
    for route in known_routes():
        # Not one that this package offers and nobody serves.
        if route.built is not None and (route.paths or not route.is_offered):
            found.setdefault(route.built, []).append(route)
    made = [_describe_pipeline(hub, pipeline, routes) for pipeline, routes in found.items()]
    return sorted(made, key=_place)


def _place(pipeline: dict[str, Any]) -> tuple[bool, int]:
    """Those with most connections come first, and this package's own last."""
    return bool(pipeline["own"]), -int(pipeline["connections"])


def _describe_pipeline(hub: Hub, pipeline: Pipeline, routes: list[Route]) -> dict[str, Any]:
    view = hub.views.get(pipeline)
    paths = [path for route in routes for path in route.paths]
    described = [
        (chain.name, _describe_stage(name, stage.stats))
        for chain in pipeline.chains
        for name, stage in zip(pipeline.labels_of(chain), chain.stages, strict=True)
    ]
    return {
        # As places in pipes are called.
        "name": names_of(routes[0])[0],
        "paths": paths[:MAX_PATHS],
        # Not a name that is made of those of the filters.
        "home": pipeline.home if any(route.names_home for route in routes) else "",
        "own": any(route.is_own for route in routes),
        "protocol": "plain" if pipeline.protocol is None else pipeline.protocol.name,
        "codec": _name_of_codec(pipeline),
        "connections": 0 if view is None else len(view.connections),
        "chains": [
            {"chain": chain, "stages": [stage for _, stage in some]}
            for chain, some in groupby(described, key=itemgetter(0))
        ],
    }


def _name_of_codec(pipeline: Pipeline) -> str:
    is_own = pipeline.codec is not None and pipeline.codec is not pipeline.protocol
    return type(pipeline.codec).__qualname__ if is_own else ""


def _describe_stage(name: str, stats: FilterStats) -> dict[str, Any]:
    return {
        "name": name,
        "path": stats.path,
        "runs": stats.runs,
        "errors": stats.errors,
        "drops": stats.drops,
        "closes": stats.closes,
        "seconds": round(stats.seconds, 6),
        "times": list(stats.times),
    }


def _fitting(pipelines: list[dict[str, Any]]) -> dict[str, Any]:
    """As much of ``pipelines`` as fits into an answer beside the rest of it."""
    room = most_bytes() * 3 // 4
    if _size(pipelines) > room:
        for stage in _all_stages(pipelines):
            del stage["times"]
    sizes = [_size(one) for one in pipelines]
    kept = list(pipelines)
    while sum(sizes) > room:
        kept.pop()
        sizes.pop()
    return {"pipelines": kept, "left_out": len(pipelines) - len(kept)}


def _size(value: Any) -> int:
    return len(dump_json(value).encode("utf-8", "replace"))


def _all_stages(pipelines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pipeline in pipelines:
        for chain in pipeline["chains"]:
            yield from chain["stages"]


# All processes

#: What is added up of the hubs of one process: it has one for each event loop with connections.
OF_HUBS = ("num_clients", "num_users", "num_subs", "num_channels")


def merge_hubs(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    What each process says. What its filters have done, each of its hubs knows: it is not added
    up, but connections are. Of all else, that of the hub with most connections is told.
    """
    merged: dict[str, dict[str, Any]] = {}
    for node in sorted(nodes, key=lambda one: -int(one.get("num_clients", 0))):
        known = merged.setdefault(str(node.get("uid")), node)
        if known is node:
            continue
        for name in OF_HUBS:
            known[name] = known.get(name, 0) + node.get(name, 0)
        pipelines = {_identity(one): one for one in _pipelines_of(known)}
        for one in _pipelines_of(node):
            if (mine := pipelines.get(_identity(one))) is not None:
                mine["connections"] += one["connections"]
    return list(merged.values())


#: What is added up of each filter.
SUMS = ("runs", "errors", "drops", "closes", "seconds")


def merge_pipelines(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The pipelines of all processes, summed. Those that differ in paths or filters, as those
    of two versions side by side, stay apart. Those with most connections come first.
    """
    merged: dict[str, dict[str, Any]] = {}
    for node in nodes:
        for pipeline in _pipelines_of(node):
            key = _identity(pipeline)
            if key in merged:
                _add(merged[key], pipeline)
            else:
                merged[key] = copy.deepcopy(pipeline)
    return sorted(merged.values(), key=_place)


def _pipelines_of(node: dict[str, Any]) -> Iterable[dict[str, Any]]:
    pipelines: Iterable[dict[str, Any]] = node.get("inside", {}).get("pipelines", ())
    return pipelines


def _identity(pipeline: dict[str, Any]) -> str:
    chains = [
        [chain["chain"], *(stage["path"] for stage in chain["stages"])]
        for chain in pipeline["chains"]
    ]
    return dump_json([pipeline["paths"], pipeline["home"], chains])


def _add(known: dict[str, Any], other: dict[str, Any]) -> None:
    """Add what another process has counted of the same pipeline."""
    known["connections"] += other["connections"]
    for mine, theirs in zip(_all_stages([known]), _all_stages([other]), strict=True):
        for name in SUMS:
            mine[name] += theirs[name]
        times = mine.pop("times", ()), theirs.get("times", ())
        # An answer that was too long has none.
        if all(times):
            mine["times"] = [sum(pair) for pair in zip(*times, strict=True)]
