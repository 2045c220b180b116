"""Bytes of clients that speak the Centrifuge protocol, in JSON and in Protobuf."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from filtered_websocket.codecs.schema import has_protobuf, protobuf_class

from .contenders import PAYLOAD
from .wire import BINARY, MASK, Wire, build_frame

#: Of the commands of a client, the first two in its handshake.
CONNECT, SUBSCRIBE, PUBLISH = 1, 2, 3
#: A place before the first publication.
BEGINNING = {"recover": True, "epoch": "", "offset": 0}


@dataclass(frozen=True)
class CentrifugeWire(Wire):
    """One that is subscribed to a channel, and publishes to it; in JSON."""

    channel: str = ""
    #: Whether publications have offsets.
    keeps: bool = False
    #: Whether it subscribes only with its message, and asks for all that is kept.
    returns: bool = False

    @property
    def is_steady(self) -> bool:  # type: ignore[override]
        return not (self.keeps or self.returns)

    def encode(self, number: int, **request: Any) -> bytes:
        """A command."""
        return json.dumps({"id": number, **request}, separators=(",", ":")).encode()

    def reply_to(self, number: int) -> bytes:
        """How the reply to a command begins that has not failed."""
        return b'{"id":%d,"%s":' % (number, b"connect" if number == CONNECT else b"subscribe")

    def target(self, kind: str, group: str) -> str:
        return "/connection/websocket"

    @property
    def data(self) -> Any:
        """What is published."""
        return self.payload.decode()

    @property
    def opening(self) -> bytes:
        return self.encode(CONNECT, connect={})

    @property
    def greetings(self) -> tuple[tuple[bytes, bytes | None], ...]:
        if self.returns:
            return ((self.reply_to(CONNECT), None),)
        subscribe = self.encode(SUBSCRIBE, subscribe={"channel": self.channel})
        return ((self.reply_to(CONNECT), subscribe), (self.reply_to(SUBSCRIBE), None))

    @cached_property
    def outgoing(self) -> bytes:
        if self.returns:
            said = self.encode(SUBSCRIBE, subscribe={"channel": self.channel, **BEGINNING})
        else:
            said = self.encode(PUBLISH, publish={"channel": self.channel, "data": self.data})
        return build_frame(said, self.opcode, MASK)

    @property
    def incoming(self) -> bytes:  # type: ignore[override]
        """Not known: it says who published."""
        return b""

    def delivers(self, payload: bytes) -> bool:
        return self.payload in payload

    def answer(self, payload: bytes) -> bytes | None:
        if payload == b"{}":
            return payload
        return b"" if payload.startswith(b'{"id":%d,"publish":' % PUBLISH) else None


@dataclass(frozen=True)
class ProtobufWire(CentrifugeWire):
    """The same in Protobuf."""

    opcode: ClassVar[int] = BINARY

    def encode(self, number: int, **request: Any) -> bytes:
        message = protobuf_class("Command")(id=number)
        for name, fields in request.items():
            part = getattr(message, name)
            part.SetInParent()
            for field, value in fields.items():
                setattr(part, field, value)
        body = message.SerializeToString()
        assert len(body) < 1 << 14
        size = [len(body)] if len(body) < 0x80 else [len(body) & 0x7F | 0x80, len(body) >> 7]
        return bytes(size) + body

    def reply_to(self, number: int) -> bytes:
        return self._reply(number, "connect" if number == CONNECT else "subscribe")

    def _reply(self, number: int, name: str) -> bytes:
        """The number of a reply, and the tag of its result."""
        field = protobuf_class("Reply").DESCRIPTOR.fields_by_name[name].number
        return bytes([1 << 3, number, field << 3 | 2])

    def is_greeting(self, expected: bytes, payload: bytes) -> bool:
        # After its length, which takes one byte or two.
        return expected in payload[1:5]

    @property
    def data(self) -> Any:
        return b'"' + self.payload + b'"'

    def answer(self, payload: bytes) -> bytes | None:
        if payload == b"\0":
            return payload
        return b"" if payload[1:].startswith(self._reply(PUBLISH, "publish")) else None

    def request(self, target: str, port: int, cookie: str) -> bytes:
        asked = super().request(target, port, cookie).removesuffix(b"\r\n")
        return asked + b"Sec-WebSocket-Protocol: centrifuge-protobuf\r\n\r\n"


def formats() -> dict[str, type[CentrifugeWire]]:
    """Those that can be spoken here."""
    return {"json": CentrifugeWire} | ({"protobuf": ProtobufWire} if has_protobuf() else {})


def wire_of(form: str, channel: str, **options: bool) -> CentrifugeWire:
    """How a client speaks that is in a channel."""
    return formats()[form](PAYLOAD, channel=channel, **options)
