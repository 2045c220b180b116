"""
Routes: the arguments of one ``as_asgi`` call, and the pipeline built from them.

A pipeline is built once, and again after a setting has changed.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from ..conf import SettingError, conf, describe, import_object
from ..groups import GroupRule
from ..layer.envelope import MAX_GROUP_NAME, check_group
from ..setting_rules import COUNT
from ..types import Codec
from .entries import Entry, PipelineError, entry_name
from .pipeline import DEFAULT_GROUP, MayJoin, Pipeline
from .rules import Rules, load_rules, make_rules

#: The home group of a route with an empty list of filters.
NO_FILTERS = "(no filters)"


class Route:
    """The arguments of ``as_asgi``. Its pipeline is kept until a setting changes."""

    def __init__(
        self,
        filters: Iterable[Entry] | None,
        groups: Iterable[str] | None,
        codec: Codec | str | None,
        may_join: MayJoin | None,
        group_rules: Sequence[GroupRule] | str | None = None,
        *,
        personal: bool | None = None,
        find_protocol: Callable[[], Any] = lambda: None,
        calls: int | None = None,
        dynamic: bool = False,
        is_offered: bool = False,
    ) -> None:
        #: Whether it may not be served at all, as the one that ``routing`` offers to sites.
        self.is_offered = is_offered
        #: Whether it is this package's own, as the console's.
        self.is_own = False
        #: The paths it is served at, noted by ``with_websockets``.
        self.paths: list[str] = []
        #: Whether ``get_groups`` is overridden, so that connections have groups of their own.
        self.dynamic = dynamic
        self.number = next(_numbers)
        self._filters: tuple[Entry, ...] | None = _tuple("filters", filters)
        self._groups: tuple[str, ...] | None = _tuple("groups", groups)
        self._codec = codec
        self._may_join = may_join
        self._group_rules = group_rules
        self._calls = calls
        self._personal = personal
        self._find_protocol = find_protocol
        #: The pipeline, if it has been built.
        self.built: Pipeline | None = None
        _routes.add(self)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline, built if necessary. Raises :exc:`PipelineError`."""
        if self.built is None:
            entries = self._filters
            if entries is None:
                entries = installed_filters()
            codec = conf.CODEC if self._codec is None else self._codec
            protocol = self.protocol
            if protocol is not None:
                codec = protocol
            home = self.groups[0]
            named = codec if isinstance(codec, str) else id(codec)
            rules = conf.GROUPS if self._group_rules is None else self._group_rules
            declared = rules if isinstance(rules, str) else id(rules)
            calls = _calls(self._calls)
            key = (tuple(map(_cache_key, entries)), named, self._may_join, home, declared, calls)
            pipeline = _built.get(key)
            if pipeline is None:
                loaded = _rules(rules)
                pipeline = Pipeline(
                    entries,
                    _codec(codec),
                    self._may_join,
                    home,
                    loaded if protocol is None else protocol.rules(loaded),
                    calls,
                    protocol,
                )
                _built[key] = pipeline
            self.built = pipeline
        return self.built

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that every connection of this route joins; the first is its home."""
        if self._groups:
            try:
                return tuple(map(check_route_group, self._groups))
            except (TypeError, ValueError) as error:
                raise PipelineError(
                    f"A route's groups: {error}.", "Name another group.", 12
                ) from None
        if self._filters is None:
            return (DEFAULT_GROUP,)
        return ("|".join(map(entry_name, self._filters))[:MAX_GROUP_NAME] or NO_FILTERS,)

    @property
    def protocol(self) -> Any:
        """How its clients speak; None: a frame is a message. :exc:`PipelineError` for no such."""
        return self._find_protocol() if self.built is None else self.built.protocol

    @property
    def personal(self) -> bool:
        """Whether connections join the own group of their user."""
        if self._personal is not None:
            return self._personal
        return self.protocol is not None and bool(self.protocol.is_personal)

    @property
    def names_home(self) -> bool:
        """Whether its home group has a name that somebody has chosen."""
        return bool(self._groups) or self._filters is None

    @property
    def names_codec(self) -> bool:
        """Whether it names a codec of its own."""
        return self._codec is not None

    @property
    def joined(self) -> tuple[str, ...]:
        """
        Of these, those that connections join by themselves: where clients speak a protocol,
        which tells them of each, only those that the route names.
        """
        return self.groups if self.protocol is None or self._groups else ()

    def lines(self) -> list[str]:
        """Paths, home group and pipeline, as ``manage.py filters`` prints them."""
        home = "a home group per connection" if self.dynamic else f"home group {self.groups[0]!r}"
        paths = ", ".join(self.paths) or "(a path this package does not know)"
        pipes = self.pipeline.lines() or ["(no filters)"]
        return [f"{paths}  {home}", *(f"  {line}" for line in pipes)]

    def forget(self) -> None:
        self.built = None


#: Every route of this process that is still in use.
_routes: "weakref.WeakSet[Route]" = weakref.WeakSet()
_numbers = itertools.count()


def known_routes() -> list[Route]:
    """Every route of this process, in the order they were made."""
    return sorted(_routes, key=lambda route: route.number)


def name_of(pipeline: Pipeline) -> str:
    """
    What metrics, traces and the console call the routes of ``pipeline``: their paths as the site
    has written them, or its home group where this package does not know the paths.
    """
    served = [route for route in known_routes() if route.built is pipeline]
    paths = {path: None for route in served for path in route.paths}
    return ", ".join(paths) or f"home group {pipeline.home!r:.80}"


#: Routes of the same filters and codec share a pipeline, so its group chain runs once.
_built: "weakref.WeakValueDictionary[Any, Pipeline]" = weakref.WeakValueDictionary()


def check_route_group(group: Any) -> str:
    """``group``, if a route may use this name. Names often come from URLs. ValueError if not."""
    if check_group(group).startswith("token:"):
        raise ValueError(f"group {group!r:.80}: names that begin with 'token:' are reserved")
    return str(group)


def installed_filters() -> tuple[Entry, ...]:
    """The site's ``INSTALLED_FILTERS``. :exc:`PipelineError` if it is not a list."""
    entries = getattr(settings, "INSTALLED_FILTERS", ())
    if not isinstance(entries, list | tuple):
        raise PipelineError(
            f"INSTALLED_FILTERS is {entries!r:.80}.",
            "It must be a list of filters, in the order they run.",
            3,
        )
    return tuple(entries)


def _cache_key(entry: Any) -> Any:
    # Classes are compared by identity: two may have the same dotted path (after a reload, or
    # defined in a function).
    if isinstance(entry, Mapping):
        return _cache_key(entry.get("NAME")), repr(entry.get("OPTIONS"))
    return entry if isinstance(entry, type) else repr(entry)


def _tuple(name: str, value: Iterable[Any] | None) -> tuple[Any, ...] | None:
    if isinstance(value, str | Mapping):
        raise PipelineError(f"A route's {name}={value!r:.80}.", "Give a list, even of one.", 3)
    return None if value is None else tuple(value)


def _calls(calls: Any) -> int:
    if calls is None:
        calls = conf.CALLS  # a wrong one is found by check_settings
    elif not COUNT.allows(calls):
        raise PipelineError(f"A route's calls={calls!r:.80}.", f"It must be {COUNT.words}.", 25)
    chosen: int = calls
    return chosen


def _codec(codec: Any) -> Codec | None:
    if isinstance(codec, str):
        try:
            codec = import_object(codec)
        except PipelineError:
            raise  # of a route that the module makes
        except SettingError as error:
            raise PipelineError(
                f"CODEC {codec!r}: {error.message}", error.hint, 13
            ) from error.__cause__
    if isinstance(codec, type):
        try:
            codec = codec()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PipelineError(
                f"CODEC {codec!r} is called without arguments and raises {describe(error)}.",
                "Change it, or give an object.",
                13,
            ) from error
    if codec is not None and not (hasattr(codec, "decode") and hasattr(codec, "encode")):
        raise PipelineError(f"CODEC {codec!r} has no decode and encode.", "Give it both.", 13)
    chosen: Codec | None = codec
    return chosen


def _rules(rules: Sequence[GroupRule] | str | None) -> Rules | None:
    if rules is None:
        return None
    return load_rules(rules) if isinstance(rules, str) else make_rules(rules, "group_rules")


def _forget(setting: str, **kwargs: Any) -> None:
    if setting in ("INSTALLED_FILTERS", "FILTERED_WEBSOCKET"):
        _built.clear()
        for route in known_routes():
            route.forget()


setting_changed.connect(_forget, dispatch_uid="filtered_websocket.pipelines.route")
