"""
From messages to frames: the boundary where a route's codec works, and what the house
does without one.

Whether bytes are text or binary travels beside them, in a context variable that is
set while an event's chains run, because no mark on a bytearray survives ``.upper()``.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal

from django.core.serializers.json import DjangoJSONEncoder

from ..types import Codec

#: Whether the event whose chains run now was text (True), binary (False), neither.
text_event: ContextVar[bool | None] = ContextVar("fws_text_event", default=None)

#: What crosses the layer: text, binary, or JSON that a codec gets as an object again.
Kind = Literal["t", "b", "j"]
#: A message as it crosses the layer.
Packed = tuple[Kind, bytes]
#: For isinstance, which builds ``bytes | ...`` anew at every call.
BYTES = (bytes, bytearray, memoryview)
OBJECTS = (dict, list)


class Frame:
    """A payload ready for the wire, made once and shared by all who receive it."""

    __slots__ = ("_event", "longest", "payload", "text", "wire")

    def __init__(self, payload: bytes, text: bool) -> None:
        self.payload = payload
        self.text = text
        #: The longest payload in it, as of a :class:`Bundle`.
        self.longest = len(payload)
        #: The bytes of the frame, once :meth:`encode` made them.
        self.wire: bytes | None = None
        self._event: dict[str, Any] | None = None

    def __len__(self) -> int:
        return self.longest

    @property
    def parts(self) -> "tuple[Frame, ...]":
        """The frames in it, as of a :class:`Bundle`."""
        return (self,)

    def event(self) -> dict[str, Any]:
        """The ASGI ``websocket.send`` event."""
        if self._event is None:
            key, value = ("text", self.payload.decode()) if self.text else ("bytes", self.payload)
            self._event = {"type": "websocket.send", key: value}
        return self._event

    def encode(self) -> bytes:
        """A final, unmasked frame (RFC 6455 section 5.2); from then on it is ``wire``."""
        self.wire = _head(self.longest, self.text) + self.payload
        return self.wire


@lru_cache(256)
def _head(size: int, text: bool) -> bytes:
    """What stands before a payload of ``size`` bytes: RFC 6455 section 5.2."""
    first = 0x81 if text else 0x82
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


class Bundle:
    """Messages that leave together, in their order: payloads, and whether each is text."""

    __slots__ = ("_contents", "_parts", "longest", "wire")

    def __init__(self, contents: Sequence[tuple[bytes, bool]]) -> None:
        self._contents = contents
        #: The longest payload in it.
        self.longest = max([len(payload) for payload, _ in contents])
        #: The bytes of all frames, once :meth:`encode` made them.
        self.wire: bytes | None = None
        self._parts: tuple[Frame, ...] | None = None

    @property
    def parts(self) -> tuple[Frame, ...]:
        """The frames one by one, for who cannot take them together; made once."""
        if self._parts is None:
            self._parts = tuple(Frame(payload, text) for payload, text in self._contents)
        return self._parts

    def encode(self) -> bytes:
        """All frames as one run of bytes; from then on it is ``wire``."""
        pieces: list[bytes] = []
        for payload, text in self._contents:
            pieces += _head(len(payload), text), payload
        self.wire = b"".join(pieces)
        return self.wire


def is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def dump_json(message: Any) -> str:
    """JSON as ``publish`` makes it: Django's encoder, no NaN (no browser parses it)."""
    return json.dumps(
        message,
        cls=DjangoJSONEncoder,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )


def pack(message: Any, text: bool | None) -> Packed:
    """
    ``message`` as bytes and their kind; ``text`` is the kind of bare bytes.

    Raises TypeError or ValueError, with words for the caller, for what cannot be
    sent: a lone surrogate, a NaN, an object JSON does not know.
    """
    if isinstance(message, str):
        return "t", message.encode()
    if isinstance(message, BYTES):
        payload = bytes(message)
        return ("t" if text and is_utf8(payload) else "b"), payload
    if isinstance(message, OBJECTS):
        return "j", dump_json(message).encode()
    raise TypeError(
        f"a message is str, bytes, dict or list, not {type(message).__name__}: {message!r:.80}"
    )


def unpack(packed: Packed, codec: Codec | None) -> tuple[Any, bool]:
    """What a group chain gets, and whether it is text."""
    kind, payload = packed
    if codec is None:
        return bytearray(payload), kind != "b"
    if kind == "b":
        return bytearray(payload), False
    text = payload.decode()
    return (json.loads(text) if kind == "j" else text), True


def to_frame(
    message: Any,
    codec: Codec | None = None,
    meta: Mapping[str, Any] | None = None,
    text: bool | None = None,
) -> Frame:
    """
    The frame for ``message``; ``text`` says what bare bytes are.

    What should be text and is not UTF-8 goes as binary, never as an invalid text
    frame (RFC 6455 section 8.1). Raises as :func:`pack`.
    """
    if codec is not None:
        message = codec.encode(message, meta or {})
        text = False
    kind, payload = pack(message, text)
    return Frame(payload, kind != "b")
