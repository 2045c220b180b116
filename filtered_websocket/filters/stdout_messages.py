"""Print every message, and who sent it."""

from typing import Any

from .base import WebSocketMessageFilter, printable


class StdoutMessagesFilter(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, message: Any) -> None:
        print(f"--MESSAGE--\n{web_socket_instance.id} => {printable(message)}", flush=True)
