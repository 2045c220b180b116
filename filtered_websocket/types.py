"""The shapes other modules speak of: ASGI's, and the Protocols that others plug in."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
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
