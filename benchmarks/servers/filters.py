"""The filters of the scenarios of an echo, of a message for each recipient, of a recovery."""

from typing import Any

from filtered_websocket import WebSocketMessageFilter, WebSocketSendFilter

#: Of a message, so that the JSON for each recipient is as long as the message was.
BODY = 101


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


class Look(WebSocketSendFilter):
    """Looks at each recipient and changes nothing."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> None:
        return None


class Back(WebSocketMessageFilter):
    """Join the group of the path, and get all that it keeps."""

    @classmethod
    async def filter(cls, web_socket_instance: Any, message: Any) -> None:
        group = web_socket_instance.scope["url_route"]["kwargs"]["group"]
        await web_socket_instance.recover(group, ("", 0))


class Each(WebSocketSendFilter):
    """JSON of its own for each recipient."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> dict[str, str]:
        return {"body": message[:BODY].decode(), "to": web_socket_instance.id[:8]}
