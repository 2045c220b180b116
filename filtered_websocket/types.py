"""The shapes other modules speak of: ASGI's, and the Protocols that others plug in."""

import datetime
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Codec(Protocol):
    """
    What stands between frames and messages, for one route.

    ``decode`` may raise :exc:`~filtered_websocket.Drop` or
    :exc:`~filtered_websocket.Close`; any other exception drops the frame and is
    logged, as a filter's would be.
    """

    def decode(self, frame: bytearray, text: bool) -> Any:
        """The message in a frame; ``text`` tells a text frame from a binary one."""

    def encode(self, message: Any, meta: Mapping[str, Any]) -> str | bytes:
        """The frame for a message: ``str`` goes as text, ``bytes`` as binary."""


class ChannelLayer(Protocol):
    """The part of Channels' layer specification that a hub uses."""

    async def new_channel(self) -> str: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...
    async def send(self, channel: str, message: dict[str, Any]) -> None: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who an authenticator found, and what that rests on: the connection is closed with
    4401 when any of it ends.

    ``session_hash`` is what the session remembers of the user's password;
    ``expires_at`` is aware, and for what has no end of its own here.
    """

    user: Any = None
    token: Any = None
    session_key: str | None = field(default=None, repr=False)
    session_hash: str | None = field(default=None, repr=False)
    expires_at: datetime.datetime | None = None
    #: The house's: a backend may let in users who are not active to begin with.
    was_active: bool = field(default=True, repr=False)


class Authenticator(Protocol):
    """
    One way to say who connects; a class that is called without arguments makes one.

    None means "there is nothing of mine in this handshake". What is mine but does not
    let in raises :exc:`~filtered_websocket.Close` with 4401: the connection is refused,
    and never becomes an anonymous one. Any other exception refuses too, and is logged.
    """

    async def authenticate(self, scope: Scope) -> Identity | None: ...
