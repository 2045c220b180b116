"""Print every frame, before it is decoded."""

from typing import Any

from .base import WebSocketDataFilter, printable


class StdoutRawdataFilter(WebSocketDataFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any, data: bytearray) -> None:
        print(f"--RAWDATA--\n{printable(data)}", flush=True)
