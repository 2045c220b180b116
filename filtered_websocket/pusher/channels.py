"""
Channels: what their names say of them, and which group each one is.

The kind of a channel is the rule of its group: who has a signature may join, and clients may
publish to private channels and those with presence. What the site's own group rules say of the
same name holds as well.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from ..groups import Allowed, GroupRule
from ..pipelines.rules import Match, Rules
from .apps import App

#: The longest name that backends may send to.
MAX_NAME = 200
_NAME = re.compile(r"[-A-Za-z0-9_=@,.;]+", re.ASCII)
#: A channel of another app than the first one.
_OF_ANOTHER = re.compile(r"[0-9]+:", re.ASCII)
#: Followed by the id of a user who has signed in.
USER_PREFIX = "#server-to-user-"
#: In the name of the group that keeps the last event of a channel with a cache.
CACHE_SUFFIX = "\0cache"
#: The longest id of a user.
MAX_USER_ID = 128


class Kind(NamedTuple):
    """What a channel is, by the beginning of its name."""

    prefix: str
    #: Whether who subscribes needs a signature.
    is_private: bool = False
    has_presence: bool = False
    has_cache: bool = False
    is_encrypted: bool = False

    @property
    def takes_client_events(self) -> bool:
        """Whether its subscribers may send to one another."""
        return self.is_private and not self.is_encrypted


PUBLIC = Kind("")
#: The first that matches decides.
KINDS = (
    Kind("presence-cache-", True, has_presence=True, has_cache=True),
    Kind("private-encrypted-cache-", True, has_cache=True, is_encrypted=True),
    Kind("private-cache-", True, has_cache=True),
    Kind("cache-", has_cache=True),
    Kind("private-encrypted-", True, is_encrypted=True),
    Kind("private-", True),
    Kind("presence-", True, has_presence=True),
)


def is_channel(name: Any) -> bool:
    """Whether it is the name of a channel that clients may subscribe to."""
    return (
        isinstance(name, str)
        and len(name) <= MAX_NAME
        and name.isascii()
        and _NAME.fullmatch(name) is not None
    )


def kind_of(channel: str) -> Kind:
    """The kind of a channel."""
    return next((kind for kind in KINDS if channel.startswith(kind.prefix)), PUBLIC)


def group_of(app: App, channel: str) -> str:
    """The group of a channel that is not a user's."""
    return channel if app.is_first else f"{app.id}:{channel}"


def channel_of(app: App, group: str) -> str | None:
    """The channel of this app that a group is; None where it is none."""
    if app.is_first:
        return group if is_channel(group) else None
    name = group.removeprefix(f"{app.id}:")
    return name if name != group and is_channel(name) else None


def user_group(app: App, user: str, personal: str) -> str:
    """
    The group of a user who has signed in, of whom ``personal`` is the group in the site: that
    is it for the first app, whose users are the site's.
    """
    return personal if app.is_first else f"{app.id}:{USER_PREFIX}{user}"


class ChannelRules(Rules):
    """The rules of a route for this protocol: the site's, and one for each kind of channel."""

    def __init__(self, declared: Rules | None) -> None:
        source = "the kinds of channels" if declared is None else declared.source
        super().__init__(() if declared is None else declared, source)
        self._kinds = {kind: _rule_of(kind) for kind in (*KINDS, PUBLIC)}
        #: The site's rules for channels with presence.
        self._present: dict[GroupRule, GroupRule] = {}

    def __iter__(self) -> Iterator[GroupRule]:
        return iter([*super().__iter__(), self._kinds[KINDS[-1]]])

    def find(self, name: str) -> Match | None:
        """As of the base; every channel has a rule."""
        found = super().find(name)
        another = _OF_ANOTHER.match(name)
        channel = name[another.end() :] if another else name
        if not is_channel(channel):
            return found
        kind = kind_of(channel)
        if found is None:
            return Match(self._kinds[kind], {})
        if not kind.has_presence or found.rule.join_leave:
            return found
        rule = self._present.get(found.rule)
        if rule is None:
            rule = self._present[found.rule] = replace(found.rule, presence=True, join_leave=True)
        return Match(rule, found.captured)

    def who_publishes(self, group: str, channel: str) -> Allowed | None:
        """Who may send client events to a channel, which is this group; None: nobody, ever."""
        found = self.find(group) if kind_of(channel).takes_client_events else None
        return None if found is None else found.rule.publish


def _rule_of(kind: Kind) -> GroupRule:
    return GroupRule(
        pattern=f"{kind.prefix}...",
        publish=kind.takes_client_events,
        see=False,
        presence=kind.has_presence,
        join_leave=kind.has_presence,
        where="the Pusher protocol",
    )
