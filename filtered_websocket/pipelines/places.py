"""Places in pipes by the words that one types: a route, and a filter or a chain of it."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..chains.chain import Chain
from ..chains.stage import dotted_path
from .pipeline import CHAINS, Pipeline
from .route import Route, known_routes

#: How a name may be typed.
Spell = Callable[[str], str]
#: What a path captures, as ``<str:name>``.
_CAPTURED = re.compile(r"<[^>]*>")


class Place(NamedTuple):
    """A route, as :func:`names_of` has it, and a filter or a chain; empty: its whole pipe."""

    route: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.route.rstrip('/')}/{self.part}"


def names_of(route: Route) -> list[str]:
    """The paths of a route; its home group where this package does not know them."""
    return route.paths or [f"home group {route.groups[0]!r}"]


def is_route_of(pipeline: Pipeline, name: str) -> bool:
    """Whether a route of this name runs ``pipeline``."""
    routes = (route for route in known_routes() if route.built is pipeline)
    return any(name in names_of(route) for route in routes)


def stages_at(pipeline: Pipeline, part: str) -> dict[Chain, frozenset[int]]:
    """
    The filters of each chain that ``part`` names: by what ``manage.py filters`` calls them, by
    class or dotted path; or all of the chain of this name. Empty: all.
    """
    found = {}
    for chain in pipeline.chains:
        named = pipeline.labels_of(chain)
        numbers = frozenset(
            number
            for number, cls in enumerate(chain.filters)
            if part in ("", chain.name, named[number], cls.__name__, dotted_path(cls))
        )
        if numbers or part in ("", chain.name):
            found[chain] = numbers
    return found


def find_place(text: str) -> Place:
    """
    The place that somebody has typed as ``ROUTE/FILTER``, ``ROUTE/CHAIN`` or ``ROUTE``. What a
    path captures may be left out, as in ``rooms/tidy`` of ``/rooms/<str:name>/``.

    ValueError, with what there is, if that is none, or several.
    """
    routes = [route for route in known_routes() if route.paths or not route.is_offered]
    found = [*_places(text, routes, as_written)] or [*_places(text, routes, _without_captured)]
    if len(set(found)) == 1:
        return found[0]
    if found:
        several = " or ".join(map(str, dict.fromkeys(found)))
        raise ValueError(f"{text!r} may be {several}: write one of these")
    for route, name, part in _splits(text, routes, _without_captured):
        if part and "/" not in part:
            labels = [label for chain in CHAINS for label in route.pipeline.labels[chain]]
            has = ", ".join(dict.fromkeys(labels)) or "none"
            raise ValueError(f"the route {name} has no filter {part!r}: its filters are {has}")
    own = [route for route in routes if not route.is_own]
    names = ", ".join(name for route in own for name in names_of(route)) or "none"
    raise ValueError(f"there is no route {text!r}: the routes are {names}")


def _places(text: str, routes: Iterable[Route], spell: Spell) -> Iterator[Place]:
    for route, name, part in _splits(text, routes, spell):
        if part in ("", *CHAINS) or stages_at(route.pipeline, part):
            yield Place(name, part)


def _splits(text: str, routes: Iterable[Route], spell: Spell) -> Iterator[tuple[Route, str, str]]:
    """Each way to read ``text`` as the name of a route and a rest, the shortest rest first."""
    words = text.strip("/").split("/")
    for count in range(len(words), -1, -1):
        typed, part = "/".join(words[:count]), "/".join(words[count:])
        for route in routes:
            for name in names_of(route):
                if typed == spell(name):
                    yield route, name, part


def as_written(name: str) -> str:
    return name.strip("/")


def _without_captured(name: str) -> str:
    words = (word for word in name.split("/") if word and not _CAPTURED.search(word))
    return "/".join(words)
