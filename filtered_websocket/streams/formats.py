"""How messages are written to the body of a response, one of these for each kind of stream."""

from typing import Protocol

from ..codecs.centrifuge import JSON, PROTOBUF
from ..codecs.centrifuge import Format as Codec


class Format(Protocol):
    """One way to write messages. There is one object of each."""

    codec: Codec
    content_type: bytes
    #: What the body begins with, so that a browser or a proxy has something to pass on.
    start: bytes

    def written(self, payload: bytes) -> bytes:
        """A message as the body has it."""


class Lines:
    """A message a line."""

    codec: Codec = JSON
    content_type = b"application/x-ndjson"
    start = b""

    def written(self, payload: bytes) -> bytes:
        """As of :class:`Format`; the codec writes no line ends."""
        return payload + b"\n"


class Lengths:
    """Messages with their lengths before them, as the codec of Protobuf writes them."""

    codec: Codec = PROTOBUF
    content_type = b"application/octet-stream"
    start = b""

    def written(self, payload: bytes) -> bytes:
        """As of :class:`Format`."""
        return payload


class Events:
    """Server-sent events (HTML standard section 9.2)."""

    codec: Codec = JSON
    content_type = b"text/event-stream"
    #: A comment.
    start = b":\n\n"

    def written(self, payload: bytes) -> bytes:
        """As of :class:`Format`; the codec writes no line ends."""
        return b"data: " + payload + b"\n\n"


LINES, LENGTHS, EVENTS = Lines(), Lengths(), Events()
