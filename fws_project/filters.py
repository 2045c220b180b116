"""Two filters of this site."""

from typing import Any

from filtered_websocket import Drop, WebSocketJoinFilter, WebSocketMessageFilter


class Tidy(WebSocketMessageFilter):
    """Strip white space around a message; drop it if nothing is left."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: bytearray) -> bytearray:
        tidy = message.strip()
        if not tidy:
            raise Drop("nothing is left")
        return tidy


class Shout(WebSocketMessageFilter):
    """Upper-case every message."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: bytearray) -> str:
        return message.decode("utf-8", "replace").upper()


class SayName(WebSocketJoinFilter):
    """Show the name that a client gives to who asks who is in a room."""

    @classmethod
    def filter(cls, web_socket_instance: Any, subscription: Any) -> None:
        if isinstance(subscription.data, dict):
            subscription.info = {"name": name_in(subscription.data)}


class TidySaid(WebSocketMessageFilter):
    """Keep name and text of what a client says in a room, and drop it if it says nothing."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> dict[str, str]:
        if not isinstance(message, dict):
            raise Drop("not an object")
        said = {"name": name_in(message)}
        if "text" in message:
            text = str(message["text"]).strip()
            if not text:
                raise Drop("nothing is left")
            said["text"] = text
        return said


def name_in(data: dict[str, Any]) -> str:
    """At most 32 characters."""
    return str(data.get("name", "")).strip()[:32] or "guest"
