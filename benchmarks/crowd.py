"""
Thousands of clients in one process, of which each checks what it gets: raw sockets under
one epoll.

Messages carry a number, so that each client checks what it gets: every one, once, in
order. The time of a receipt is the kernel's, so that it does not matter how long this
process takes to read.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from .clients import SO_TIMESTAMPNS, LoadError
from .flood import Flood
from .load import received_at
from .wire import CLOSE, MASK, PING, PONG, TEXT, Wire, WireError, build_frame, take_frames

BUFFER = 1 << 18
SPACE = socket.CMSG_SPACE(16)
DIGITS = 8
#: Handshakes at the same time.
HANDSHAKES = 32
#: Nothing comes for so long that something must be lost, seconds.
STALL = 60.0


def numbered(number: int, size: int) -> bytes:
    """A message's payload."""
    return f"{number:0{DIGITS}d}".encode().ljust(size, b".")


class Member:
    """One client that reads what it gets, and knows what must come next."""

    __slots__ = ("closed", "heard", "is_open", "socket", "tail")

    def __init__(self, port: int, request: bytes, buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(request)
        self.socket.setblocking(False)
        self.tail = bytearray()
        self.is_open = False
        self.heard = 0
        #: Code of the close frame, or what the socket said instead.
        self.closed: int | str | None = None

    def shake_hands(self) -> bool:
        """Read a part of the answer. Returns whether it is complete."""
        self.tail += self.socket.recv(BUFFER)
        head, end, rest = bytes(self.tail).partition(b"\r\n\r\n")
        if not head:
            raise LoadError("a connection was closed in its handshake")
        if end:
            if not head.startswith(b"HTTP/1.1 101 "):
                raise LoadError(f"refused: {head.splitlines()[0].decode('latin-1')}")
            self.tail = bytearray(rest)
            self.is_open = True
        return self.is_open

    def send(self, payload: bytes) -> None:
        frames = memoryview(build_frame(payload, mask=MASK))
        while frames:
            try:
                frames = frames[self.socket.send(frames) :]
            except BlockingIOError:
                select.select([], [self.socket], [], STALL)

    def read(self) -> tuple[list[int], int]:
        """Numbers of the messages that are here, and when the last of them came."""
        try:
            data, ancillary, _flags, _address = self.socket.recvmsg(BUFFER, SPACE)
        except OSError as error:
            data, ancillary, self.closed = b"", [], self.closed or error.strerror
        if not data:
            self.closed = self.closed or "closed without a word"
            return [], 0
        self.tail += data
        numbers = []
        for opcode, payload in take_frames(self.tail):
            if opcode == TEXT:
                numbers.append(int(payload[:DIGITS]))
            elif opcode == PING:
                self.socket.send(build_frame(payload, PONG, MASK))
            elif opcode == CLOSE:
                self.closed = int.from_bytes(payload[:2], "big")
        return numbers, received_at(ancillary)


class Crowd:
    """Clients of one server. Use it as a context manager: leaving closes them."""

    def __init__(self, port: int, cookie: str, path: str = "/{}/") -> None:
        self.port = port
        self._cookie = cookie
        self._path = path
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self._flood: Flood | None = None

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._flood is not None:
            self._flood.end()
        self.leave(list(self._members.values()))
        self._epoll.close()

    def request(self, room: str) -> bytes:
        return Wire(b"").request(self._path.format(room), self.port, self._cookie)

    # Connections

    def join(
        self, room: str, count: int, *, buffer: int | None = None, reads: bool = True
    ) -> list[Member]:
        """Connect so many, a few at a time; those that do not read are not asked again."""
        request = self.request(room)
        joined: list[Member] = []
        waiting = 0
        while len(joined) < count or waiting:
            while len(joined) < count and waiting < HANDSHAKES:
                member = Member(self.port, request, buffer)
                self._members[member.socket.fileno()] = member
                self._epoll.register(member.socket, select.EPOLLIN)
                joined.append(member)
                waiting += 1
            for member in self._readable(STALL):
                if not member.is_open:
                    waiting -= member.shake_hands()
                else:
                    member.read()
        if not reads:
            for member in joined:
                self._epoll.unregister(member.socket)
        return joined

    def leave(self, members: Sequence[Member]) -> None:
        for member in members:
            self._members.pop(member.socket.fileno(), None)
            member.socket.close()

    def start_flood(self, member: Member, payload: bytes) -> None:
        """Have ``member`` send this as fast as it is read; it reads nothing from now on."""
        self._epoll.unregister(member.socket)
        self._flood = Flood(member.socket, build_frame(payload, mask=MASK))
        self.leave([member])

    def end_flood(self) -> int:
        """End the flood and its connection. Returns how many messages were sent."""
        assert self._flood is not None
        flood, self._flood = self._flood, None
        return flood.end()

    def fates(self, members: Sequence[Member]) -> Counter[int | str]:
        """How the sockets of clients ended that were not read: what came after all -> how often."""
        return Counter(self._fate(member) for member in members)

    def _fate(self, member: Member) -> int | str:
        member.socket.setblocking(True)
        member.socket.settimeout(STALL)
        while member.closed is None:
            try:
                member.read()
            except WireError:
                return "cut in a frame"
        return member.closed

    def _readable(self, timeout: float) -> Iterator[Member]:
        for fd, _ in self._epoll.poll(timeout, 4096):
            yield self._members[fd]

    # Messages

    def talk(
        self,
        sender: Member,
        hearers: Sequence[Member],
        count: int,
        size: int,
        *,
        interval: float = 0.0,
    ) -> list[float]:
        """
        ``sender`` says so many numbered messages, one at a time, ``interval`` seconds or more
        from now and from one another; the seconds until each reached each of ``hearers``,
        which all have to get every one, once and in order.
        """
        latencies: list[float] = []
        began = time.perf_counter() + interval
        first = hearers[0].heard
        assert all(member.heard == first for member in hearers)
        for number in range(first, first + count):
            while (wait := began + (number - first) * interval - time.perf_counter()) > 0:
                self.listen(wait)
            sent = time.time_ns()
            sender.send(numbered(number, size))
            latencies += [(at - sent) / 1e9 for at in self._receipts(number, len(hearers))]
        assert all(member.heard == first + count for member in hearers)
        return latencies

    def _receipts(self, number: int, missing: int) -> list[int]:
        """When each of so many received this message."""
        times: list[int] = []
        began = time.monotonic()
        while missing:
            receipts = self.listen(1.0)
            for heard, at in receipts:
                if heard != number:
                    raise LoadError(f"heard {heard}, not {number}")
                times.append(at)
            missing -= len(receipts)
            if receipts:
                began = time.monotonic()
            elif time.monotonic() - began > STALL:
                raise LoadError(f"{missing} did not hear {number}")
        return times

    def listen(self, timeout: float) -> list[tuple[int, int]]:
        """Read what has come: (number, time of receipt) of every message."""
        receipts = []
        for member in self._readable(timeout):
            numbers, at = member.read()
            for number in numbers:
                if number != member.heard:
                    raise LoadError(f"{number} came in the place of {member.heard}")
                member.heard += 1
                receipts.append((number, at))
            if member.closed is not None:
                self._epoll.unregister(member.socket)
                raise LoadError(f"a client that reads was closed: {member.closed}")
        return receipts
