"""What ``mypy --strict`` finds in typed filters, and what it has to take: "make types"."""

from collections.abc import Awaitable
from typing import Any

from filtered_websocket import (
    WebSocketCallFilter,
    WebSocketConnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.connections.handshake import Handshake

from .typed_example import Numbers, Said, Typing


class Misspelt(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, data: Said) -> None:
        print(data.txet)  # type: ignore[attr-defined]


class NotNarrowed(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, data: Said | Typing) -> str:
        return data.text  # type: ignore[union-attr]


class Later(WebSocketCallFilter):
    method = "add"

    @staticmethod
    async def filter(web_socket_instance: Any, data: Numbers) -> int:
        return data.first


class Wrong(WebSocketCallFilter):
    method = 7  # type: ignore[assignment]

    @classmethod
    def filter(cls, web_socket_instance: Any, data: Numbers) -> str:
        return data.first  # type: ignore[return-value]


class Other(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, handshake: Handshake) -> None:
        handshake.subprotocol = "a"


class InGroup(WebSocketGroupFilter):
    sends = (Said, Typing)

    @classmethod
    def filter(cls, hub: Any, data: dict[str, Any]) -> Said:
        return Said(**data)


class Base(WebSocketMessageFilter):
    """A filter of one's own to subclass is held to its own signature."""

    @classmethod
    def filter(cls, web_socket_instance: Any, data: Said) -> Said:
        return data


class Narrower(Base):
    @classmethod
    def filter(cls, web_socket_instance: Any, data: Typing) -> Said:  # type: ignore[override]
        return Said(text=data.kind)


answer: Awaitable[int] = Later.filter(None, Numbers(1))
