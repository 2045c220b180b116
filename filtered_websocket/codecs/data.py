"""Data of a site on its way to and from clients of a protocol: JSON, text or bytes."""

import json
from typing import Any, Self

from .frames import Encoded, Kind, dump_json, pack
from .json import JSONCodec

#: One that both formats can say, and no parser of another format takes for anything else.
PARSER = JSONCodec()


class Data(Encoded):
    """Data of a site: its bytes, and whether they are text, JSON or neither."""

    __slots__ = ()

    def __new__(cls, payload: bytes, kind: Kind = "j") -> Self:
        return tuple.__new__(cls, (kind, payload))

    @property
    def value(self) -> Any:
        """What filters get. Raises ValueError or RecursionError if it should be JSON and is not."""
        if self.kind == "b":
            return bytearray(self.payload)
        text = self.payload.decode()
        return PARSER.parse(text) if self.kind == "j" else text


def data_of(value: Any) -> Data:
    """What a site gave. TypeError or ValueError for what JSON cannot say."""
    if isinstance(value, Data):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return from_bytes(bytes(value))
    return Data(dump_json(value).encode())


def data_to_send(message: Any, text: bool) -> Data:
    """What chains have made of a message: any JSON value, text or bytes."""
    if isinstance(message, str | bytes | bytearray | memoryview):
        kind, payload = pack(message, text)
        return Data(payload, kind)
    return data_of(message)


def from_bytes(payload: bytes) -> Data:
    """JSON where the bytes are JSON."""
    try:
        PARSER.parse(payload.decode())
    except (ValueError, RecursionError):
        return Data(payload, "b")
    return Data(payload)


def as_json(data: Data) -> bytes:
    """
    ``data`` as JSON without line ends, which separate messages. ValueError for bytes that are
    not JSON.
    """
    if data.kind != "j":
        if data.kind == "b":
            raise ValueError("a client that speaks JSON cannot be sent bytes that are not JSON")
        return dump_json(data.payload.decode()).encode()
    if b"\n" in data.payload or b"\r" in data.payload:
        return dump_json(json.loads(data.payload)).encode()
    return data.payload
