"""Sends the counts of the hub."""

import json

from filtered_websocket import Drop, WebSocketMessageFilter
from filtered_websocket.hub.hub import get_hub


class Counts(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"counts":
            web_socket_instance.push(json.dumps(get_hub().counts))
            raise Drop
