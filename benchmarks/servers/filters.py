"""The filters of the echo scenario."""

from typing import Any

from filtered_websocket import WebSocketMessageFilter


class NoOp(WebSocketMessageFilter):
    """Looks at nothing and changes nothing."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> None:
        return None


class AsyncNoOp(WebSocketMessageFilter):
    """The same, awaited."""

    @classmethod
    async def filter(cls, web_socket_instance: Any, message: Any) -> None:
        return None


class Echo(WebSocketMessageFilter):
    """Push a message back to its sender."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> None:
        web_socket_instance.push(message)
