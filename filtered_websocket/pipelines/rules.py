"""Loads a site's group rules, and finds the rule of a name."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.urls.resolvers import RoutePattern

from ..conf import NotFound, SettingError, get_attribute, import_longest
from ..groups import PERSONAL_PREFIX, RESERVED, TOKEN_PREFIX, GroupRule
from .entries import PipelineError

#: The list in the module that ``GROUPS`` names.
PATTERNS = "grouppatterns"


class Match(NamedTuple):
    """A group's rule, and what its pattern has captured."""

    rule: GroupRule
    captured: dict[str, Any]


class Rules:
    """The rules of a site or route. Raises :exc:`PipelineError` for one that cannot be used."""

    def __init__(self, rules: Iterable[Any], source: str) -> None:
        self.source = source
        self.personal: GroupRule | None = None
        self._patterns: list[tuple[RoutePattern, GroupRule]] = []
        for number, rule in enumerate(rules):
            if not isinstance(rule, GroupRule):
                raise _error(
                    f"{source}: entry {number} is {rule!r:.80}.",
                    "Write group('name', ...) or personal(...).",
                )
            if rule.pattern is not None:
                self._add(rule, rule.pattern)
            elif self.personal is not None:
                raise _error(f"{source} has two personal() rules.", "Leave one.")
            else:
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
        if not pattern.converters:
            hiding = self.find(route)
            if hiding is not None:
                raise _error(
                    f"{self.source}: {rule} is never used: {hiding.rule} comes first and matches.",
                    "Move it up.",
                )
        self._patterns.append((pattern, rule))

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
