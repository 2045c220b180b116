"""A filter as many write their first one."""

from filtered_websocket import WebSocketMessageFilter


class Shout(WebSocketMessageFilter):
    def filter(self, web_socket_instance, message):
        return message.upper()
