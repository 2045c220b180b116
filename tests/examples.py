"""Filters that tests list by path."""

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)


class _Helper(WebSocketMessageFilter):
    """Hidden by its underscore."""


class Shout(_Helper):
    mark: str = ""
    times: int = 1

    @classmethod
    def filter(cls, web_socket_instance, data):
        return data.upper() + cls.mark.encode() * cls.times


class Whisper(_Helper):
    @classmethod
    def filter(cls, web_socket_instance, data):
        return data.lower()


class Guard(WebSocketConnectFilter):
    allow: bool = True

    @classmethod
    def filter(cls, web_socket_instance, data):
        if not cls.allow:
            raise Drop


class Empty(WebSocketMessageFilter):
    """Defines no filter()."""


class Odd(WebSocketDisconnectFilter):
    @classmethod
    def filter(cls, web_socket_instance):
        raise Close(4000)


NOT_A_FILTER = 3
