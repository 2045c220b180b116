"""
Converts messages to frames, with a route's codec or without one.

Whether a message was a text or a binary frame is kept in a context variable while its chains
run: a mark on the bytearray would be lost by ``.upper()`` and the like.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from ..types import Codec
from .copies import Encoder, EventBytes, copy_of, is_model

#: Whether the event whose chains run now was text (True), binary (False) or neither (None).
text_event: ContextVar[bool | None] = ContextVar("fws_text_event", default=None)

#: Kinds of messages on the layer: text, binary, JSON (which a codec gets as an object).
Kind = Literal["t", "b", "j"]
#: A message as it is sent over the layer.
Packed = tuple[Kind, bytes]


class Encoded(NamedTuple):
    """A message that is encoded already, for ``publish`` of this package."""

    kind: Kind
    payload: bytes


#: For isinstance: a constant tuple is faster than ``bytes | ...``, built at every call.
BYTES = (bytes, bytearray, memoryview)
OBJECTS = (dict, list)
#: To make one for each message takes as long as a short message.
ENCODER = Encoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Frame:
    """A payload ready to send; made once and shared by all its receivers."""

    __slots__ = ("_event", "is_kept", "longest", "payload", "text", "wire")
    #: How many frames it is, and the bytes of their payloads, as of a :class:`Bundle`.
    count = 1
    size: int

    def __init__(self, payload: bytes, text: bool, is_kept: bool = False) -> None:
        self.payload = payload
        self.text = text
        #: Whether it is of a group with history: then it is never left out.
        self.is_kept = is_kept
        #: The longest payload in it, as of a :class:`Bundle`.
        self.longest = len(payload)
        #: The bytes of the frame after :meth:`encode`.
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
        """A final, unmasked frame (RFC 6455 section 5.2), kept as ``wire``."""
        self.wire = _head(self.longest, self.text) + self.payload
        return self.wire


#: The same attribute: the one that a property returns takes longer to read.
Frame.size = Frame.longest  # type: ignore[misc]


@lru_cache(256)
def _head(size: int, text: bool) -> bytes:
    """The header of a frame with a payload of ``size`` bytes (RFC 6455 section 5.2)."""
    first = 0x81 if text else 0x82
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


class Bundle:
    """Messages that are sent together, in order: payloads, and whether each is text."""

    __slots__ = ("_contents", "_parts", "is_kept", "longest", "wire")

    def __init__(self, contents: Sequence[tuple[bytes, bool]], is_kept: bool = False) -> None:
        self._contents = contents
        #: Whether any of them is never left out, as of a :class:`Frame`.
        self.is_kept = is_kept
        #: The longest payload in it.
        self.longest = max([len(payload) for payload, _ in contents])
        #: The bytes of all frames after :meth:`encode`.
        self.wire: bytes | None = None
        self._parts: tuple[Frame, ...] | None = None

    @property
    def count(self) -> int:
        """How many frames are in it."""
        return len(self._contents)

    @property
    def size(self) -> int:
        """The bytes of their payloads."""
        return sum([len(payload) for payload, _ in self._contents])

    @property
    def parts(self) -> tuple[Frame, ...]:
        """The frames one by one, for transports that send single frames; made once."""
        if self._parts is None:
            kept = self.is_kept
            self._parts = tuple(Frame(payload, text, kept) for payload, text in self._contents)
        return self._parts

    def encode(self) -> bytes:
        """All frames joined as bytes, kept as ``wire``."""
        pieces: list[bytes] = []
        for payload, text in self._contents:
            pieces += _head(len(payload), text), payload
        self.wire = b"".join(pieces)
        return self.wire


class Joined(Bundle):
    """Frames and bundles that are sent together, in order. Those that are encoded stay so."""

    __slots__ = ("_frames",)

    def __init__(self, frames: Sequence[Frame | Bundle]) -> None:
        self._frames = frames
        self.is_kept, self.longest = False, 0
        # One loop: most are two frames, for which calls would take longer.
        for frame in frames:
            if frame.is_kept:
                self.is_kept = True
            if frame.longest > self.longest:
                self.longest = frame.longest
        self.wire = self._parts = None

    @property
    def count(self) -> int:
        """As of a :class:`Bundle`."""
        return sum([frame.count for frame in self._frames])

    @property
    def size(self) -> int:
        """As of a :class:`Bundle`."""
        return sum([frame.size for frame in self._frames])

    @property
    def parts(self) -> tuple[Frame, ...]:
        """As of a :class:`Bundle`."""
        if self._parts is None:
            self._parts = tuple([part for frame in self._frames for part in frame.parts])
        return self._parts

    def encode(self) -> bytes:
        """As of a :class:`Bundle`."""
        self.wire = b"".join([frame.wire or frame.encode() for frame in self._frames])
        return self.wire


#: Longest payload of a frame that :func:`read_short_frame` reads: above, the servers' own
#: libraries unmask faster.
LONGEST_SHORT = 1024


def read_short_frame(data: bytes | bytearray, at: int) -> tuple[bytes, bool, int] | None:
    """
    The frame that begins at ``at``: its payload, whether it is text, and where it ends.

    None unless it is a client's, complete, final, short, a text in UTF-8 or binary, and
    without extensions (RFC 6455 section 5.2).
    """
    end = len(data)
    if at + 6 > end:
        return None
    # Without the mask bit, the size is below zero.
    first, size = data[at], data[at + 1] - 0x80
    mask = at + 2
    if size == 126:
        size = data[mask] << 8 | data[mask + 1]
        mask += 2
        if size < 126:
            return None
    elif size == 127:
        return None
    start = mask + 4
    stop = start + size
    if not (0x81 <= first <= 0x82 and 0 <= size <= LONGEST_SHORT and stop <= end):
        return None
    # All bytes at once: XOR of two numbers of that many bytes (section 5.3).
    key = (data[mask:start] * ((size + 3) >> 2))[:size]
    number = int.from_bytes(data[start:stop], "little") ^ int.from_bytes(key, "little")
    payload = number.to_bytes(size, "little")
    text = first == 0x81
    if text and not is_utf8(payload):
        return None
    return payload, text, stop


def begins_short_frame(data: bytes | bytearray) -> bool:
    """Whether the rest of ``data`` may make it a frame that :func:`read_short_frame` reads."""
    if len(data) < 2:
        return data in (b"", b"\x81", b"\x82")
    size = data[1] - 0x80
    if not 0x81 <= data[0] <= 0x82 or not 0 <= size <= 126:
        return False
    begin = 6
    if size == 126:
        begin = 8
        if len(data) >= 4:
            size = data[2] << 8 | data[3]
    return size <= LONGEST_SHORT and len(data) < begin + size


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
    return ENCODER.encode(message)


def pack(message: Any, text: bool | None) -> Packed:
    """
    ``message`` as bytes, and its kind; ``text`` says whether bytes are a text message.

    Raises TypeError or ValueError, with a message for the caller, if it cannot be sent: a
    lone surrogate, a NaN, an object that JSON cannot represent.
    """
    if isinstance(message, str):
        return "t", message.encode()
    if isinstance(message, BYTES):
        payload = bytes(message)
        return ("t" if text and is_utf8(payload) else "b"), payload
    if isinstance(message, OBJECTS):
        return "j", dump_json(message).encode()
    if isinstance(message, Encoded):
        return message.kind, message.payload
    if is_model(message):
        return "j", dump_json(message).encode()
    # Without its repr, which may quote a client, and would be hidden together with this.
    kind: type = message if isinstance(message, type) else type(message)
    cure = ": 'raise' it, do not return it" if issubclass(kind, BaseException) else ""
    raise TypeError(f"a message is str, bytes, dict or list, not {kind.__name__}{cure}")


def unpack(packed: Packed, codec: Codec | None) -> tuple[Any, bool]:
    """The message for the group chain, and whether it is text."""
    kind, payload = packed
    if type(payload) is EventBytes:
        return copy_of(payload.event), True
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
    The frame for ``message``; ``text`` says whether bytes are a text message.

    Text that is not UTF-8 is sent as binary, as an invalid text frame would close the
    connection (RFC 6455 section 8.1). Raises as :func:`pack`.
    """
    if codec is not None:
        message = codec.encode(message, meta or {})
        text = False
    kind, payload = pack(message, text)
    return Frame(payload, kind != "b")
