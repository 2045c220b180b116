"""The filters of the scenarios of an echo, and of a recovery."""

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


class Back(WebSocketMessageFilter):
    """Join the group of the path, and get all that it keeps."""

    @classmethod
    async def filter(cls, web_socket_instance: Any, message: Any) -> None:
        group = web_socket_instance.scope["url_route"]["kwargs"]["group"]
        await web_socket_instance.recover(group, ("", 0))
