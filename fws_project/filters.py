"""Two filters of this site."""

from typing import Any

from filtered_websocket import Drop, WebSocketMessageFilter


class Tidy(WebSocketMessageFilter):
    """Strip white space around a message; drop it if nothing is left."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: bytearray) -> bytearray:
        tidy = message.strip()
        if not tidy:
            raise Drop
        return tidy


class Shout(WebSocketMessageFilter):
    """Upper-case every message."""

    @classmethod
    def filter(cls, web_socket_instance: Any, message: bytearray) -> str:
        return message.decode("utf-8", "replace").upper()
