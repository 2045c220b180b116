"""
Group rules: what a site declares about its groups, as it declares its URLs.

::

    # mysite/groups.py, which FILTERED_WEBSOCKET["GROUPS"] names
    grouppatterns = [
        group("news"),
        group("room:<int:room>", join=is_member, publish=is_member, presence=True),
        group("board:<slug:name>", join="board.view_board", history=History(size=1, ttl=3600)),
        personal(history=History(size=20, ttl=3600)),
    ]

The first rule whose pattern matches a name decides; converters are those of
:func:`django.urls.path`, with those that a site has registered. With rules, a client joins
what a rule allows and nothing else.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

#: Who may do something: everybody, nobody, who has a permission, or whom a function allows:
#: ``(connection, **captured) -> bool``, ``def`` on the event loop, ``async def``, or a ``def``
#: with an attribute ``blocking = True``, which runs in a thread.
Allowed = bool | str | Callable[..., bool | Awaitable[bool]]

#: What a client may ask a rule for.
Action = Literal["join", "publish", "see"]

#: The prefix of a user's own group.
PERSONAL_PREFIX = "user:"
#: The prefix of the groups that are joined with a token.
TOKEN_PREFIX = "token:"
#: Prefixes of names that no client may name and no rule may use, and whose they are.
RESERVED = {TOKEN_PREFIX: "the groups of tokens", PERSONAL_PREFIX: "the groups of users"}
#: The longest name of a group that a client may name, in characters.
MAX_NAME = 255


def channel_name(group: str) -> str:
    """
    A group as clients of the Centrifuge protocol name it, who say channel: the own group of a
    user is ``#<pk>``.
    """
    if group.startswith(PERSONAL_PREFIX):
        return "#" + group.removeprefix(PERSONAL_PREFIX).partition("\0")[0]
    return group


@dataclass(frozen=True)
class History:
    """
    Keep the last ``size`` publications of a group, all of them until none has come for ``ttl``
    seconds.
    """

    size: int
    ttl: float

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(f"History(size={self.size!r}): it is an int above 0")
        is_number = isinstance(self.ttl, int | float) and not isinstance(self.ttl, bool)
        if not is_number or not self.ttl > 0:
            raise ValueError(f"History(ttl={self.ttl!r}): it is a number of seconds above 0")


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """What :func:`group` and :func:`personal` return; its fields are their arguments."""

    #: As of :func:`django.urls.path`; None of personal groups.
    pattern: str | None
    join: Allowed = True
    publish: Allowed = False
    see: Allowed | None = None
    presence: bool = False
    join_leave: bool = False
    history: History | None = None
    latest: bool = False
    recheck: bool = False
    binary: bool = False
    #: Where it was declared, for messages.
    where: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("join", "publish", "see"):
            value = getattr(self, name)
            if not (isinstance(value, bool | str) or callable(value)):
                if name == "see" and value is None:
                    continue
                raise TypeError(
                    f"{self}: {name} is True, False, a permission as 'app.codename', or a"
                    f" function of (connection, **captured), not {value!r:.80}"
                )
        for name in ("presence", "join_leave", "latest", "recheck", "binary"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{self}: {name} is True or False, not {getattr(self, name)!r:.80}")
        if not (self.history is None or isinstance(self.history, History)):
            raise TypeError(f"{self}: history is History(size=..., ttl=...) or None")
        if self.join_leave and not self.presence:
            raise ValueError(f"{self}: join_leave=True needs presence=True")
        if self.latest and self.history is None:
            raise ValueError(f"{self}: latest=True needs history=History(...)")

    def __str__(self) -> str:
        return "personal()" if self.pattern is None else f"group({self.pattern!r})"

    def allowed(self, action: Action) -> Allowed:
        """Who may do so."""
        if action == "see" and self.see is None:
            return self.join
        allowed: Allowed = getattr(self, action)
        return allowed


def group(
    pattern: str,
    *,
    join: Allowed = True,
    publish: Allowed = False,
    see: Allowed | None = None,
    presence: bool = False,
    join_leave: bool = False,
    history: History | None = None,
    latest: bool = False,
    recheck: bool = False,
    binary: bool = False,
) -> GroupRule:
    """
    A rule for the groups whose names match ``pattern``, as ``"room:<int:room>"``.

    ``join``, ``publish`` and ``see`` (presence and history; as ``join`` if None) say who may:
    True, False, a permission of the user, or a function of the connection and what the
    pattern has captured. ``recheck`` asks ``join`` again every ``RECHECK`` seconds.
    ``presence`` keeps who is subscribed, and ``join_leave`` tells the others. ``history``
    keeps publications, and with ``latest`` a joiner gets the last one. ``binary`` lets
    clients of Centrifuge publish bytes that are not JSON.

    TypeError or ValueError for an argument that means nothing.
    """
    if not isinstance(pattern, str) or not pattern:
        raise TypeError(f"group({pattern!r:.80}): the pattern is a text, as 'room:<int:room>'")
    return GroupRule(
        pattern=pattern,
        join=join,
        publish=publish,
        see=see,
        presence=presence,
        join_leave=join_leave,
        history=history,
        latest=latest,
        recheck=recheck,
        binary=binary,
    )


def personal(
    *,
    publish: Allowed = False,
    see: Allowed = False,
    presence: bool = False,
    join_leave: bool = False,
    history: History | None = None,
    latest: bool = False,
    binary: bool = False,
) -> GroupRule:
    """
    The rule for each user's own group, which their connections join by themselves and no
    client can name. Arguments as of :func:`group`.
    """
    return GroupRule(
        pattern=None,
        publish=publish,
        see=see,
        presence=presence,
        join_leave=join_leave,
        history=history,
        latest=latest,
        binary=binary,
    )


# Groups of Channels

#: Those that Channels accepts, with ``*`` for any characters.
_CHANNELS_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,99}")
#: What Channels makes the name of a consumer's method, by ``_`` for each dot.
_HANDLER = re.compile(r"[A-Za-z]\w*(\.\w+)*", re.ASCII)

#: How the types of events begin that a server sends to a consumer.
_OF_SERVERS = ("websocket.", "websocket_", "http.", "http_")


def is_channels_pattern(pattern: Any) -> bool:
    """Whether it is the name of a group that Channels accepts, or ``*`` stands for a part of it."""
    return isinstance(pattern, str) and _CHANNELS_PATTERN.fullmatch(pattern) is not None


@dataclass(frozen=True)
class Forward:
    """What :func:`forward` returns; its fields are its arguments."""

    pattern: str
    type: str


def forward(pattern: str, type: str = "filtered_websocket.message") -> Forward:
    """
    For ``CHANNELS_GROUPS``: what is published to the groups of this name, as ``"orders-*"``, is
    sent to the group of Channels that has the same name, too. ``type`` names the handler of its
    consumers: ``"chat.message"`` is their method ``chat_message``.

    ValueError for a name that Channels does not accept, and for what no handler is called.
    """
    if not is_channels_pattern(pattern):
        raise ValueError(
            f"forward({pattern!r:.120}): a group of Channels has a name of 1 to 99 of the"
            " characters A-Z a-z 0-9 - _ . and here * stands for any of them"
        )
    if not (isinstance(type, str) and _HANDLER.fullmatch(type)):
        raise ValueError(
            f"forward({pattern!r}, type={type!r:.80}): type names a method of consumers, as"
            " 'chat.message' names chat_message, which does not begin with an underscore"
        )
    if type.startswith(_OF_SERVERS):
        raise ValueError(
            f"forward({pattern!r}, type={type!r:.80}): consumers would take it for what their"
            " server sends; name a method of your own, as 'chat.message'"
        )
    return Forward(pattern, type)
