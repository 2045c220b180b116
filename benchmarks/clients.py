"""One client: its socket, its handshake, and its place in a group."""

import socket
from collections import deque
from dataclasses import dataclass

from .wire import MASK, Wire, build_frame, take_frames

#: If a server sends nothing for so long, the missing messages are lost, seconds.
STALL = 15.0

#: More than any read: of a client whose messages have no known length.
UNKNOWN = 1 << 40

#: Asks the kernel when it received what is read; Python has no name for it.
SO_TIMESTAMPNS = 35


class LoadError(Exception):
    """A contender lost, doubled or refused a message or a connection."""


class Stream:
    """The messages of one group in the order they are sent, and who sends them."""

    __slots__ = ("done_at", "left", "receivers", "sender", "sent_at")

    def __init__(self) -> None:
        self.sender: Client | None = None
        self.receivers = 0
        #: Per message: when it left, whom it has not reached, when it reached the last.
        self.sent_at: list[float] = []
        self.left: list[int] = []
        self.done_at: list[float] = []


@dataclass(frozen=True)
class Place:
    """Where a client connects, and its part in its group."""

    port: int
    target: str
    stream: Stream
    sends: bool
    receives: bool
    #: How it speaks, where not as all clients of the load.
    wire: Wire | None = None


class Client:
    __slots__ = (
        "first",
        "got",
        "greetings",
        "left",
        "recv_into",
        "size",
        "socket",
        "stream",
        "tail",
        "upgraded",
        "wire",
    )

    def __init__(self, place: Place, wire: Wire) -> None:
        self.socket = socket.create_connection(("127.0.0.1", place.port), STALL)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.recv_into = self.socket.recv_into
        self.stream = place.stream
        #: The messages of its stream; none for a client that receives nothing.
        self.left = place.stream.left if place.receives else []
        # Who joins later gets what is sent from then on.
        self.got = len(self.left)
        self.tail = bytearray()
        self.upgraded = False
        self.greetings = deque(wire.greetings)
        self.speak(wire)
        if place.sends:
            place.stream.sender = self
        place.stream.receivers += place.receives

    def speak(self, wire: Wire) -> None:
        """From now on its messages are those of ``wire``."""
        self.wire = wire
        #: The bytes of a message that arrives, and its first; what comes otherwise is looked at.
        self.size = len(wire.incoming) if wire.is_steady and wire.incoming else UNKNOWN
        self.first = 0x80 | wire.opcode

    def greet(self, data: bytes) -> bool:
        """Read a part of the handshake. Returns whether it is complete."""
        self.tail += data
        if not self.upgraded:
            head, end, rest = bytes(self.tail).partition(b"\r\n\r\n")
            if not end:
                return False
            if not head.startswith(b"HTTP/1.1 101 "):
                raise LoadError(f"refused: {head.splitlines()[0].decode('latin-1')}")
            self.upgraded = True
            self.tail = bytearray(rest)
            if self.wire.opening:
                self.say(self.wire.opening)
        # What follows the last greeting is left for the reader.
        while self.greetings:
            frames = take_frames(self.tail)
            if not frames:
                return False
            for opcode, payload in frames:
                expected, answer = self.greetings.popleft()
                if not self.wire.is_greeting(expected, payload):
                    raise LoadError(f"greeted with {payload[:40]!r} ({opcode}), not {expected!r}")
                reply = self.wire.reply(payload, answer)
                if reply is not None:
                    self.say(reply)
        return True

    def say(self, payload: bytes) -> None:
        """Send something that is no message."""
        self.socket.sendall(build_frame(payload, self.wire.opcode, MASK))
