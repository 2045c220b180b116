"""Send every message to every other member of its home group, in all processes."""

from typing import Any

from .base import WebSocketMessageFilter


class BroadcastMessagesFilter(WebSocketMessageFilter):
    #: Send it back to its sender, too.
    to_self: bool = False

    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> None:
        web_socket_instance.publish(message, to_self=cls.to_self)
