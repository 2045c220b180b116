"""Finds the group that a request names, and its rule."""

from contextvars import copy_context
from typing import Literal

from ..auth.tenants import personal_group
from ..groups import PERSONAL_PREFIX, TOKEN_PREFIX, GroupRule
from ..layer.envelope import MAX_GROUP_NAME
from ..pipelines.keeping import site_rules
from .requests import ApiError


def group_of(channel: str) -> str:
    """
    The group with this name on the wire, where a user's own one is ``#<pk>``.

    :exc:`ApiError` 107 for what is no name, and 102 where the site has rules and none of them
    declares it: a mistake in a name would otherwise publish to nobody.
    """
    if channel.startswith("#"):
        if channel == "#":
            raise ApiError(107, "'#' is followed by the primary key of a user")
        return personal_group(channel[1:], copy_context())
    if channel.startswith(PERSONAL_PREFIX):
        key = channel.removeprefix(PERSONAL_PREFIX)
        raise ApiError(107, f"the own group of a user is called {'#' + key!r:.80} here")
    if not 0 < len(channel) <= MAX_GROUP_NAME:
        raise ApiError(107, f"a channel has 1 to {MAX_GROUP_NAME} characters, not {len(channel)}")
    rules = site_rules()
    if rules is None or channel.startswith(TOKEN_PREFIX) or rules.find(channel) is not None:
        return channel
    raise ApiError(102, f"no group rule in {rules.source} matches {channel!r:.80}")


def keeping_group(channel: str, what: Literal["presence", "history"]) -> str:
    """:func:`group_of`, if its rule says that this is kept; else error 108."""
    group = group_of(channel)
    rule = _rule_of(group)
    if rule is None or not getattr(rule, what):
        raise ApiError(108, f"no group rule with {what}=... matches {channel!r:.80}")
    return group


def _rule_of(group: str) -> GroupRule | None:
    rules = site_rules()
    match = None if rules is None else rules.find(group)
    return None if match is None else match.rule
