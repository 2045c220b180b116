from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from filtered_websocket import WebSocketCallFilter, WebSocketMessageFilter


class Said(BaseModel):
    """Somebody has said something."""

    kind: Literal["said"] = "said"
    text: str = Field(min_length=1, max_length=500)


class Typing(BaseModel):
    """Somebody types."""

    kind: Literal["typing"]


class Talk(WebSocketMessageFilter):
    """Send what is said, and who types, to the others."""

    sends = Said | Typing

    @classmethod
    def filter(cls, web_socket_instance: Any, data: Said | Typing) -> None:
        if isinstance(data, Said):
            data.text = data.text.strip()
        web_socket_instance.publish(data)


@dataclass
class Numbers:
    first: int
    second: int = 0


class Add(WebSocketCallFilter):
    method = "add"

    @classmethod
    def filter(cls, web_socket_instance: Any, data: Numbers) -> int:
        return data.first + data.second
