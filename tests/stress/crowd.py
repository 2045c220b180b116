"""
Thousands of clients in one process: raw sockets under one epoll.

Messages carry a number, so that each client checks what it gets: every one, once, in
order. The time of a receipt is the kernel's, so that it does not matter how long this
process takes to read.
"""

import select
import socket
import time
from collections import Counter

from benchmarks.clients import SO_TIMESTAMPNS
from benchmarks.load import received_at
from benchmarks.wire import CLOSE, MASK, PING, PONG, TEXT, Wire, WireError, build_frame, take_frames

from ..waiting import Watch

BUFFER = 1 << 18
SPACE = socket.CMSG_SPACE(16)
DIGITS = 8
#: Handshakes at the same time.
HANDSHAKES = 32
#: Nothing comes for so long that something must be lost, seconds.
STALL = 60.0


def numbered(number, size):
    """A message's payload."""
    return f"{number:0{DIGITS}d}".encode().ljust(size, b".")


class Member:
    """One client that reads what it gets, and knows what must come next."""

    __slots__ = ("closed", "heard", "is_open", "socket", "tail")

    def __init__(self, port, request, buffer=None):
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
        self.closed = None

    def shake_hands(self):
        """Read a part of the answer. Returns whether it is complete."""
        self.tail += self.socket.recv(BUFFER)
        head, end, rest = bytes(self.tail).partition(b"\r\n\r\n")
        assert head, "closed in its handshake"
        if end:
            assert head.startswith(b"HTTP/1.1 101 "), head.splitlines()[0]
            self.tail = bytearray(rest)
            self.is_open = True
        return self.is_open

    def send(self, payload):
        frames = memoryview(build_frame(payload, mask=MASK))
        while frames:
            try:
                frames = frames[self.socket.send(frames) :]
            except BlockingIOError:
                select.select([], [self.socket], [], STALL)

    def read(self):
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


class Flood:
    """A client that sends as fast as it is read, and reads nothing."""

    def __init__(self, member, payload):
        self.socket = member.socket
        self._frame = build_frame(payload, mask=MASK)
        self._frames = memoryview(self._frame * (65_536 // len(self._frame)))
        self._at = 0
        self._sent = 0

    @property
    def messages(self):
        return self._sent // len(self._frame)

    def go_on(self):
        try:
            sent = self.socket.send(self._frames[self._at :])
        except BlockingIOError:
            return
        self._sent += sent
        self._at = (self._at + sent) % len(self._frames)


class Crowd:
    """Clients of one server. Use it as a context manager: leaving closes them."""

    def __init__(self, port, cookie):
        self.port = port
        self._cookie = cookie
        self._epoll = select.epoll()
        self._members = {}
        self.flood = None

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.leave(list(self._members.values()))
        self._epoll.close()

    def request(self, room):
        return Wire(b"").request(f"/{room}/", self.port, self._cookie)

    # Connections

    def join(self, room, count, *, buffer=None, reads=True):
        """Connect so many, a few at a time; those that do not read are not asked again."""
        request = self.request(room)
        joined, waiting = [], 0
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

    def leave(self, members):
        for member in members:
            self._members.pop(member.socket.fileno(), None)
            member.socket.close()

    def start_flood(self, member, payload):
        self.flood = Flood(member, payload)
        self._epoll.modify(member.socket, select.EPOLLOUT)

    def end_flood(self):
        self.leave([self._members[self.flood.socket.fileno()]])
        flood, self.flood = self.flood, None
        return flood

    def fates(self, members):
        """How the sockets of clients ended that were not read: what came after all -> how often."""
        return Counter(self._fate(member) for member in members)

    def _fate(self, member):
        member.socket.setblocking(True)
        member.socket.settimeout(STALL)
        while member.closed is None:
            try:
                member.read()
            except WireError:
                return "cut in a frame"
        return member.closed

    def _readable(self, timeout):
        for fd, _ in self._epoll.poll(timeout, 4096):
            if self.flood is not None and fd == self.flood.socket.fileno():
                self.flood.go_on()
            else:
                yield self._members[fd]

    # Messages

    def talk(self, sender, hearers, count, size, *, interval=0.0):
        """
        ``sender`` says so many numbered messages, one at a time, ``interval`` seconds or more
        from now and from one another; the seconds until each reached each of ``hearers``,
        which all have to get every one, once and in order.
        """
        latencies = []
        began = time.perf_counter() + interval
        first = hearers[0].heard
        assert all(member.heard == first for member in hearers)
        for number in range(first, first + count):
            while (wait := began + (number - first) * interval - time.perf_counter()) > 0:
                self.listen(wait)
            sent = time.time_ns()
            sender.send(numbered(number, size))
            missing = len(hearers)
            watch = Watch(STALL)
            while missing:
                receipts = self.listen(1.0)
                for heard, at in receipts:
                    assert heard == number, f"heard {heard}, not {number}"
                    latencies.append((at - sent) / 1e9)
                missing -= len(receipts)
                if receipts:
                    watch.restart()
                assert not watch.is_over, f"{missing} did not hear {number}"
        assert all(member.heard == first + count for member in hearers)
        return latencies

    def listen(self, timeout):
        """Read what has come: (number, time of receipt) of every message."""
        receipts = []
        for member in self._readable(timeout):
            numbers, at = member.read()
            for number in numbers:
                assert number == member.heard, f"{number} came in the place of {member.heard}"
                member.heard += 1
                receipts.append((number, at))
            if member.closed is not None:
                self._epoll.unregister(member.socket)
                raise AssertionError(f"a client that reads was closed: {member.closed}")
        return receipts
