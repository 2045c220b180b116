"""Sends a client the user that it is connected as."""

import json

from filtered_websocket import WebSocketMessageFilter


class WhoAmI(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        user, token = web_socket_instance.user, web_socket_instance.token
        web_socket_instance.push(json.dumps([str(user), token and token.name]))
