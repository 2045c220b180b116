"""Send the data of every event to every client of this process."""

from typing import Any

from .base import PACKAGE_EVENTS, WebSocketConsumerFilter


class BroadcastPubsubFilter(WebSocketConsumerFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, event: Any) -> None:
        if not isinstance(event, dict) or event.get("type") in PACKAGE_EVENTS:
            return
        for user in web_socket_instance.users.values():
            user.sendMessage(event["data"])
