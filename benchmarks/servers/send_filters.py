"""The filters of the scenario of a message for each recipient."""

from typing import Any

from filtered_websocket import WebSocketSendFilter

#: Of a message, so that the JSON for each recipient is as long as the message was.
BODY = 101


class Look(WebSocketSendFilter):
    """Looks at each recipient and changes nothing."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> None:
        return None


class Each(WebSocketSendFilter):
    """JSON of its own for each recipient."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> dict[str, str]:
        return {"body": message[:BODY].decode(), "to": web_socket_instance.id[:8]}
