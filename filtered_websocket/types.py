"""Types used across the package: ASGI's, calls, and Protocols of codecs, authenticators, layers."""

import datetime
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
#: A message that was received: its bytes, and whether it is text.
Message: TypeAlias = tuple[bytes, bool]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Codec(Protocol):
    """
    Converts frames to messages and messages to frames, for one route.

    ``decode`` may raise :exc:`~filtered_websocket.Drop` or
    :exc:`~filtered_websocket.Close`; any other exception drops the frame and is
    logged, as a filter's would be.
    """

    def decode(self, frame: bytearray, text: bool) -> Any:
        """The message in a frame; ``text`` tells a text frame from a binary one."""

    def encode(self, message: Any, meta: Mapping[str, Any]) -> str | bytes:
        """The frame for a message: ``str`` goes as text, ``bytes`` as binary."""


class GroupLayer(Protocol):
    """Groups of channels, as in Channels' layer specification."""

    async def new_channel(self) -> str: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...


class ChannelLayer(GroupLayer, Protocol):
    """The part of Channels' layer specification that a hub uses."""

    async def receive(self, channel: str) -> dict[str, Any]: ...


@dataclass(slots=True)
class Call:
    """A request of a client that has an answer."""

    method: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who connects, and the session, user or token that this depends on: the connection is
    closed with 4401 when any of these ends.

    ``session_hash`` is the session's hash of the user's password. ``expires_at`` is an aware
    datetime, for credentials that are not in this site's database, as a JWT.
    """

    user: Any = None
    token: Any = None
    session_key: str | None = field(default=None, repr=False)
    session_hash: str | None = field(default=None, repr=False)
    expires_at: datetime.datetime | None = None
    #: Set by the package: some backends let in users who are not active.
    was_active: bool = field(default=True, repr=False)


class TokenUser:
    """
    The user whom a JSON Web Token names, on routes of the Centrifuge protocol: not a row of
    the database.
    """

    is_authenticated = True
    is_active = True
    is_anonymous = False

    def __init__(self, pk: str, info: Any = None) -> None:
        self.pk = self.id = pk
        #: The claim ``info``, shown to others.
        self.info = info

    def __str__(self) -> str:
        return self.pk

    def has_perm(self, permission: str, obj: Any = None) -> bool:
        """Permissions are rows of the database: none."""
        return False


class Authenticator(Protocol):
    """
    One way to authenticate a connection. The setting names a class, which is called without
    arguments.

    Returns None if the handshake has no credential of this kind. Raises
    :exc:`~filtered_websocket.Close` with 4401 if it has one that is not valid: the connection
    is refused, and never becomes an anonymous one. Any other exception refuses the
    connection with 4500 and is logged.
    """

    async def authenticate(self, scope: Scope) -> Identity | None: ...
