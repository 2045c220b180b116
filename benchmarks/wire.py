"""Bytes on the wire: WebSocket frames, and the little of socket.io that clients need."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
#: The header bit of what a client sends (RFC 6455 section 5.1), and its mask.
MASKED = 0x80
MASK = b"\x11\x22\x33\x44"


class WireError(Exception):
    """Something came that this client does not understand."""


def build_frame(payload: bytes, opcode: int = TEXT, mask: bytes = b"") -> bytes:
    """One frame; masked where it has a mask."""
    size = len(payload)
    bit = MASKED if mask else 0
    if size < 126:
        header = bytes([0x80 | opcode, bit | size])
    elif size < 65536:
        header = bytes([0x80 | opcode, bit | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([0x80 | opcode, bit | 127]) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return header + mask + payload


def take_frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Opcode and payload of the frames a server has sent; they leave ``buffer``."""
    frames = []
    at = 0
    while len(buffer) - at >= 2:
        opcode, size, start = buffer[at] & 0x0F, buffer[at + 1], at + 2
        if not buffer[at] & 0x80 or size & MASKED:
            raise WireError("a fragmented or masked frame came")
        if size >= 126:
            wide = 2 if size == 126 else 8
            if len(buffer) < start + wide:
                break
            size = int.from_bytes(buffer[start : start + wide], "big")
            start += wide
        if len(buffer) < start + size:
            break
        frames.append((opcode, bytes(buffer[start : start + size])))
        at = start + size
    del buffer[:at]
    return frames


@dataclass(frozen=True)
class Wire:
    """How a client speaks to a contender: plain WebSocket frames, one a message."""

    payload: bytes
    #: The opcode of all its frames.
    opcode: ClassVar[int] = TEXT
    #: Whether all messages that reach one client are of the same length.
    is_steady: ClassVar[bool] = True

    @property
    def opening(self) -> bytes:
        """What a client says after the handshake, if it speaks first."""
        return b""

    @property
    def greetings(self) -> tuple[tuple[bytes, bytes | None], ...]:
        """What a server says after the handshake, and what is answered; then the client is in."""
        return ()

    def is_greeting(self, expected: bytes, payload: bytes) -> bool:
        """Whether that is what the server was expected to say."""
        return payload.startswith(expected)

    def reply(self, payload: bytes, answer: bytes | None) -> bytes | None:
        """What is answered to a greeting: ``answer``, unless it depends on what was said."""
        return answer

    def target(self, kind: str, group: str) -> str:
        return f"/{kind}/{group}/" if group else f"/{kind}/"

    @cached_property
    def delivery(self) -> bytes:
        """The payload of a message that arrives."""
        return self.payload

    def delivers(self, payload: bytes) -> bool:
        """Whether this is a message that arrives."""
        return payload == self.delivery

    def answer(self, payload: bytes) -> bytes | None:
        """What is answered to anything else, which may be nothing; None if it is not known."""
        return None

    @cached_property
    def outgoing(self) -> bytes:
        """The frame of a message that leaves."""
        return build_frame(self.delivery, mask=MASK)

    @cached_property
    def incoming(self) -> bytes:
        """The frame of a message that arrives."""
        return build_frame(self.delivery)

    def request(self, target: str, port: int, cookie: str) -> bytes:
        """An opening handshake: a page of this very host, and a user if there is a cookie."""
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            f"Origin: http://127.0.0.1:{port}",
        ]
        if cookie:
            lines.append(f"Cookie: sessionid={cookie}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass(frozen=True)
class SocketIOWire(Wire):
    """engine.io 4 over one WebSocket, socket.io 5 in it: event ``m`` with one string."""

    @property
    def greetings(self) -> tuple[tuple[bytes, bytes | None], ...]:
        return ((b"0{", b"40"), (b"40{", None))

    def target(self, kind: str, group: str) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&kind={kind}&group={group or 'none'}"

    @cached_property
    def delivery(self) -> bytes:
        return b'42["m","' + self.payload + b'"]'


@dataclass(frozen=True)
class RecoveringWire(SocketIOWire):
    """The same where the server recovers connections: its place follows each message."""

    is_steady = False

    def delivers(self, payload: bytes) -> bool:
        return payload.startswith(self.delivery[:-1])


@dataclass(frozen=True)
class ReturningWire(RecoveringWire):
    """A client that comes back: what it sends says who it was, and what it had last."""

    session: str = ""
    offset: str = ""

    @property
    def greetings(self) -> tuple[tuple[bytes, bytes | None], ...]:
        return ((b"0{", None),)

    @cached_property
    def outgoing(self) -> bytes:
        known = f'40{{"pid":"{self.session}","offset":"{self.offset}"}}'
        return build_frame(known.encode(), mask=MASK)

    def answer(self, payload: bytes) -> bytes | None:
        return b"" if payload.startswith(b"40{") else None
