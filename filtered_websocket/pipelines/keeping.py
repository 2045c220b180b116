"""Which publications are kept, by the group rules of a route or of the site."""

from functools import lru_cache

from django.core.signals import setting_changed

from ..conf import conf
from ..exceptions import PublishError
from ..groups import History
from ..history.base import Retention
from ..layer.envelope import MAX_KEPT_NAME
from ..publishing.batches import Keep
from .rules import Rules, load_rules

#: Longest idempotency key, in characters.
MAX_KEY = 1024
#: For so many groups it is remembered which rule matches.
MAX_FOUND = 4096


def history_of(rules: Rules | None, group: str) -> History | None:
    """How the first rule that matches ``group`` keeps its publications; None if not at all."""
    if rules is None or not rules.keeps:
        return None
    found = rules.histories
    if group in found:
        return found[group]
    match = rules.find(group)
    history = None if match is None else match.rule.history
    if len(found) >= MAX_FOUND:
        found.clear()
    if len(group) <= MAX_KEPT_NAME:
        found[group] = history
    return history


def keep_by(rules: Rules | None, group: str, idempotency_key: str = "") -> Keep | None:
    """
    How a message to ``group`` is kept. PublishError for an idempotency key where nothing is
    kept: it would promise what nobody can hold.
    """
    history = history_of(rules, group)
    if not idempotency_key:
        return None if history is None else _keep(history)
    if not isinstance(idempotency_key, str) or len(idempotency_key) > MAX_KEY:
        raise PublishError(
            f"idempotency_key is a text of 1 to {MAX_KEY} characters, not {idempotency_key!r:.80}"
        )
    if history is None:
        raise PublishError(
            f"idempotency_key needs a history, and no group rule keeps one of {group!r:.80}"
        )
    return Keep(_keep(history).retention, idempotency_key)


@lru_cache(256)
def _keep(history: History) -> Keep:
    return Keep(Retention(history.size, history.ttl))


def site_keep(group: str, idempotency_key: str = "") -> Keep | None:
    """:func:`keep_by` the rules that the setting ``GROUPS`` names."""
    return keep_by(site_rules(), group, idempotency_key)


def site_rules() -> Rules | None:
    """The rules that ``GROUPS`` names, loaded once. Raises :exc:`PipelineError`."""
    path = conf.GROUPS
    return None if path is None else _load(path)


@lru_cache(8)
def _load(path: str) -> Rules:
    return load_rules(path)


def _forget(**of_the_signal: object) -> None:
    _load.cache_clear()


setting_changed.connect(_forget)
