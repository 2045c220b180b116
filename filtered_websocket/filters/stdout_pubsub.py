"""Print every event of the consumer chain, including those of this package."""

from typing import Any

from .base import WebSocketConsumerFilter, printable


class StdoutPubsubFilter(WebSocketConsumerFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, event: Any) -> None:
        print(f"--PUBSUB--\n{printable(event)}", flush=True)
