"""Filters that report what happens in a process; all processes use the same clock."""

import json
import time

from filtered_websocket import (
    Drop,
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)


class AnswerQuestions(WebSocketMessageFilter):
    """A message that begins with ``?`` is sent back to its sender only."""

    @classmethod
    def filter(cls, web_socket_instance, data):
        if data.startswith(b"?"):
            web_socket_instance.push(bytes(data).decode())
            raise Drop


class TellEvents(WebSocketConsumerFilter):
    @classmethod
    def filter(cls, web_socket_instance, event):
        print("EVENT", time.monotonic(), json.dumps(event), flush=True)


class TellEnds(WebSocketDisconnectFilter):
    @classmethod
    def filter(cls, web_socket_instance):
        print("END", web_socket_instance.close_code, flush=True)
