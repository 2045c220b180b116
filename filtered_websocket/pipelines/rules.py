"""Loads a site's group rules, and finds the rule of a name."""

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.urls import converters
from django.urls.resolvers import RoutePattern

from ..conf import NotFound, SettingError, get_attribute, import_longest
from ..groups import PERSONAL_PREFIX, RESERVED, TOKEN_PREFIX, GroupRule, History
from .entries import PipelineError
from .permissions import describe_allowed, is_blocking

#: The list in the module that ``GROUPS`` names.
PATTERNS = "grouppatterns"
#: A captured part of a pattern, and its name.
PART = re.compile(r"<(?:[^>:]+:)?([^>]+)>")
#: How many captured parts a pattern has at most that is compared: 3 ** 6 names.
MAX_PARTS = 6
#: Texts of Django's converters. A pattern of theirs that matches all samples of another
#: converter matches whatever that one does.
SAMPLES: dict[type, tuple[str, ...]] = {
    converters.IntConverter: ("0", "98765432109876543210"),
    converters.SlugConverter: ("-", "a_Z", "7"),
    converters.StringConverter: (" ", "\u00e9.~", "7"),
    converters.UUIDConverter: (
        "075194d3-6885-417e-a8a8-6c931e272f00",
        "f0e1d2c3-b4a5-4968-8776-a5b4c3d2e1f0",
    ),
    converters.PathConverter: (" ", "/", "a/\u00e9"),
}


class Match(NamedTuple):
    """A group's rule, and what its pattern has captured."""

    rule: GroupRule
    captured: dict[str, Any]


class Rules:
    """The rules of a site or route. Raises :exc:`PipelineError` for one that cannot be used."""

    def __init__(self, rules: Iterable[Any], source: str) -> None:
        self.source = source
        self.personal: GroupRule | None = None
        #: Whether any of them keeps a history.
        self.keeps = False
        #: Group -> how its publications are kept, for those that were asked for.
        self.histories: dict[str, History | None] = {}
        self._patterns: list[tuple[RoutePattern, GroupRule]] = []
        for number, rule in enumerate(rules):
            if not isinstance(rule, GroupRule):
                raise _error(
                    f"{source}: entry {number} is {rule!r:.80}.",
                    "Write group('name', ...) or personal(...).",
                )
            self.keeps = self.keeps or rule.history is not None
            if rule.pattern is not None:
                self._add(rule, rule.pattern)
            elif self.personal is not None:
                raise _error(f"{source} has two personal() rules.", "Leave one.")
            else:
                _check_functions(source, rule, ())
                self.personal = rule

    def _add(self, rule: GroupRule, route: str) -> None:
        for prefix, whose in RESERVED.items():
            if route.startswith(prefix):
                raise _error(
                    f"{self.source}: {rule}: names that begin with {prefix!r} are {whose}.",
                    "Write personal(...) for those of users, or choose another name.",
                )
        try:
            pattern = RoutePattern(route, is_endpoint=True)
        except ImproperlyConfigured as error:
            raise _error(f"{self.source}: {rule}: {error}", "Correct the pattern.") from error
        for _, earlier in self._patterns:
            if earlier.pattern == rule.pattern:
                raise _error(f"{self.source} has {rule} twice.", "Leave one.")
        hiding = self._hiding(pattern, route)
        if hiding is not None:
            raise _error(
                f"{self.source}: {rule} is never used: {hiding} comes first and matches.",
                "Move it up.",
            )
        _check_functions(self.source, rule, pattern.converters)
        self._patterns.append((pattern, rule))

    def _hiding(self, pattern: RoutePattern, route: str) -> GroupRule | None:
        """The first rule that matches every name that ``pattern`` does, as far as one can tell."""
        names = tuple(_samples(pattern, route))
        for earlier, rule in self._patterns:
            # What a converter of the site matches nobody can tell, but for a name.
            is_known = not pattern.converters or _is_known(earlier)
            if names and is_known and all(earlier.match(name) is not None for name in names):
                return rule
        return None

    def __iter__(self) -> Any:
        own = [] if self.personal is None else [self.personal]
        return iter([*(rule for _, rule in self._patterns), *own])

    def find(self, name: str) -> Match | None:
        """The first rule that matches; None for a name that no rule declares."""
        if name.startswith(PERSONAL_PREFIX):
            return None if self.personal is None else Match(self.personal, {})
        if name.startswith(TOKEN_PREFIX):
            return None
        for pattern, rule in self._patterns:
            found = pattern.match(name)
            if found is not None:
                return Match(rule, found[2])
        return None


def _is_known(pattern: RoutePattern) -> bool:
    """Whether all its converters are Django's own."""
    return all(type(one) in SAMPLES for one in pattern.converters.values())


def _samples(pattern: RoutePattern, route: str) -> Iterator[str]:
    """
    Names that ``pattern`` matches, of each kind. None where a converter is the site's own,
    and where there were too many.
    """
    parts = list(pattern.converters)
    if not _is_known(pattern) or len(parts) > MAX_PARTS:
        return
    texts = [SAMPLES[type(pattern.converters[part])] for part in parts]
    for chosen in itertools.product(*texts):
        captured = dict(zip(parts, chosen, strict=True))
        yield PART.sub(lambda found, captured=captured: captured[found[1]], route)  # type: ignore[misc]


def _check_functions(source: str, rule: GroupRule, names: Iterable[str]) -> None:
    """That each function of a rule can be called, with what the pattern captures."""
    captured = dict.fromkeys(names)
    for action in ("join", "publish", "see"):
        who: Any = getattr(rule, action)
        if not callable(who):
            continue
        described = f"{source}: {rule}: {action}={describe_allowed(who)}"
        if is_blocking(who) and iscoroutinefunction(who):
            raise _error(f"{described} is async and has blocking = True.", "Choose one.")
        try:
            inspect.signature(who).bind(None, **captured)
        except ValueError:
            continue  # of a function written in C: Python does not know
        except TypeError as error:
            call = ", ".join(["connection", *(f"{name}=..." for name in captured)])
            raise _error(
                f"{described} is called with ({call}): {error}.",
                "Name its parameters as the pattern does.",
            ) from None


def load_rules(path: str) -> Rules:
    """
    The rules in the module that ``GROUPS`` names, or of a list at a dotted path.

    Raises :exc:`PipelineError`.
    """
    source = f"GROUPS {path!r}"
    try:
        found, rest = import_longest(path)
        if found is None:
            raise NotFound(f"there is no module {path!r}.", "Check its spelling.")
        listed = get_attribute(found, rest or PATTERNS)
    except NotFound as error:
        hint = f"Name a module with a list {PATTERNS}."
        raise _error(f"{source}: {error.message}", hint) from error
    except SettingError as error:
        raise _error(f"{source}: {error.message}", error.hint) from error.__cause__
    return make_rules(listed, source)


def make_rules(listed: Any, source: str) -> Rules:
    """:class:`Rules` of a list. Raises :exc:`PipelineError`."""
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise _error(f"{source} is {listed!r:.80}.", "It must be a list of group(...).")
    return Rules(listed, source)


def _error(message: str, hint: str) -> PipelineError:
    return PipelineError(message, hint, 23)
