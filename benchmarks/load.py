"""
The load: raw sockets under one epoll.

Deliveries are counted by their length, so that a delivery costs less here than at any
server; what is not a whole number of messages (pings, parts) is read frame by frame.
"""

import itertools
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .clients import SO_TIMESTAMPNS, STALL, UNKNOWN, Client, LoadError, Place, Stream
from .wire import CLOSE, MASK, PING, PONG, Wire, WireError, build_frame, take_frames

#: Handshakes at the same time; fewer than the shortest listen queue.
HANDSHAKES = 32
BUFFER = 1 << 18
BUFFER_OF_ONE = 1 << 12
SPACE = socket.CMSG_SPACE(16)
#: Sockets that are asked for at once.
EVENTS = 4096


def received_at(ancillary: Iterable[tuple[int, int, bytes]]) -> int:
    """When the kernel received a message, in ns since the epoch; now, if it does not say."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("=qq", data[:16])
            return int(seconds) * 10**9 + int(nanoseconds)
    return time.time_ns()


@dataclass
class Run:
    """What was measured between an idle server and an idle server."""

    seconds: float = 0.0
    messages: int = 0
    deliveries: int = 0
    #: Seconds from a message's send to its last receipt.
    fan_outs: list[float] = field(default_factory=list)
    #: Seconds from a message's send to every receipt.
    latencies: list[float] = field(default_factory=list)


class Load:
    """
    Clients of one contender, which share out the cookies. Use it as a context manager:
    leaving closes them.
    """

    def __init__(self, wire: Wire, cookies: Sequence[str]) -> None:
        self._cookies = itertools.cycle(cookies)
        self.clients: dict[int, Client] = {}
        self.deliveries = 0
        self._epoll = select.epoll()
        self._quiet = False
        self._buffer = bytearray(BUFFER)
        self.speak(wire)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in self.clients.values():
            client.socket.close()
        self._epoll.close()

    def speak(self, wire: Wire) -> None:
        """From now on messages are those of ``wire``."""
        self.wire = wire
        for client in self.clients.values():
            client.speak(wire)

    # Connections

    def connect(self, places: Iterable[Place]) -> tuple[int, float]:
        """Connect clients, a bounded number at a time; how many, and in how many seconds."""
        waiting: dict[int, Client] = {}
        count = 0
        started = time.perf_counter()
        for place in places:
            wire = place.wire or self.wire
            client = Client(place, wire)
            request = wire.request(place.target, place.port, next(self._cookies))
            client.socket.sendall(request)
            client.socket.setblocking(False)
            waiting[client.socket.fileno()] = client
            self._epoll.register(client.socket, select.EPOLLIN)
            count += 1
            while len(waiting) >= HANDSHAKES:
                self._shake_hands(waiting)
        while waiting:
            self._shake_hands(waiting)
        return count, time.perf_counter() - started

    def _shake_hands(self, waiting: dict[int, Client]) -> None:
        events = self._epoll.poll(STALL)
        if not events:
            raise LoadError(f"{len(waiting)} handshakes were not answered in {STALL:.0f} s")
        for fd, _ in events:
            client = waiting.get(fd)
            if client is None:
                self._read(self.clients[fd])
                continue
            data = client.socket.recv(BUFFER)
            if not data:
                raise LoadError("a connection was closed in its handshake")
            if client.greet(data):
                self.clients[fd] = waiting.pop(fd)

    # Messages

    def send(self, stream: Stream, count: int = 1) -> None:
        """Send ``count`` messages of a stream's sender in one write."""
        assert stream.sender is not None
        self.expect(stream, count)
        frames = memoryview(stream.sender.wire.outgoing * count)
        while frames:
            try:
                frames = frames[stream.sender.socket.send(frames) :]
            except BlockingIOError:
                select.select([], [stream.sender.socket], [], STALL)

    def expect(self, stream: Stream, count: int = 1) -> None:
        """So many messages of a stream are sent now, by whomever."""
        now = time.perf_counter()
        stream.sent_at += [now] * count
        stream.left += [stream.receivers] * count
        stream.done_at += [0.0] * count

    def pump(self, timeout: float) -> list[Stream]:
        """Receive what has arrived. Returns the stream of each message that all have received."""
        finished: list[Stream] = []
        clients, buffer = self.clients, self._buffer
        clock = time.perf_counter
        events = self._epoll.poll(timeout, EVENTS)
        self._quiet = not events
        total = 0
        for fd, _ in events:
            client = clients[fd]
            try:
                length = client.recv_into(buffer)
            except OSError as error:
                raise LoadError(f"a connection was lost: {error.strerror}") from error
            size = client.size
            if length == size and buffer[0] == client.first and not client.tail:
                frames = 1
            elif length and not length % size and buffer[0] == client.first and not client.tail:
                frames = length // size
            else:
                frames = self._count(client, bytes(buffer[:length]))
                if not frames:
                    continue
            total += frames
            left, got = client.left, client.got
            client.got = until = got + frames
            if until > len(left):
                raise LoadError("more messages arrived than were sent")
            while got < until:
                left[got] -= 1
                if not left[got]:
                    client.stream.done_at[got] = clock()
                    finished.append(client.stream)
                got += 1
        self.deliveries += total
        return finished

    def _read(self, client: Client) -> None:
        """What arrives while other clients still connect; it is not counted."""
        if self._count(client, client.socket.recv(BUFFER)):
            raise LoadError("a message arrived that nobody sent")

    def _count(self, client: Client, data: bytes) -> int:
        """How many messages end in this piece; pings are answered."""
        if not data:
            raise LoadError("a connection was closed by the server")
        client.tail += data
        count = 0
        for opcode, payload in take_frames(client.tail):
            if client.wire.delivers(payload):
                count += 1
                if client.size == UNKNOWN and client.wire.is_steady:
                    client.size = len(build_frame(payload))
            elif (answer := client.wire.answer(payload)) is not None:
                if answer:
                    client.say(answer)
            elif opcode == PING:
                client.socket.send(build_frame(payload, PONG, MASK))
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                raise LoadError(f"a connection was closed with {code}")
            elif opcode != PONG:
                raise WireError(f"neither a message nor a ping: {payload[:40]!r}")
        return count

    def throughput(self, streams: Sequence[Stream], seconds: float, in_flight: int) -> Run:
        """
        Keep ``in_flight`` messages on their way for a while, then wait for the last.

        All work of the server for these messages falls into the run, and no other.
        """
        run = Run()
        before = self.deliveries
        turn = 0
        marks = [(stream, len(stream.sent_at)) for stream in streams]
        started = time.perf_counter()
        end = started + seconds
        due = unfinished = in_flight
        while unfinished:
            if due:
                run.messages += due
                if len(streams) == 1:
                    self.send(streams[0], due)
                else:
                    for _ in range(due):
                        self.send(streams[turn % len(streams)])
                        turn += 1
            finished = self._await(unfinished)
            unfinished -= len(finished)
            due = len(finished) if time.perf_counter() < end else 0
            unfinished += due
        run.seconds = time.perf_counter() - started
        run.deliveries = self.deliveries - before
        for stream, mark in marks:
            pairs = zip(stream.sent_at[mark:], stream.done_at[mark:], strict=True)
            run.fan_outs += [done - sent for sent, done in pairs]
        return run

    def receive(self, unfinished: int) -> None:
        """Wait until so many messages have reached everybody."""
        while unfinished:
            unfinished -= len(self._await(unfinished))

    def paced(self, stream: Stream, count: int, interval: float, limit: float) -> Run:
        """
        One message at a time, ``interval`` apart or more, for ``limit`` seconds at most.

        A message is received when the kernel has it for a socket: how long this process
        takes to read thousands of sockets is no matter of the server.
        """
        run = Run()
        started = time.perf_counter()
        for number in range(count):
            due = started + number * interval
            while (wait := due - time.perf_counter()) > 0:
                self.pump(wait)
            if number and time.perf_counter() - started > limit:
                break
            sent = time.time_ns()
            self.send(stream)
            receipts: list[int] = []
            while len(receipts) < stream.receivers:
                receipts += self._receive(stream)
            run.messages += 1
            run.deliveries += len(receipts)
            run.fan_outs.append((max(receipts) - sent) / 1e9)
            run.latencies += [(receipt - sent) / 1e9 for receipt in receipts]
        self.deliveries += run.deliveries
        run.seconds = time.perf_counter() - started
        return run

    def _receive(self, stream: Stream) -> list[int]:
        """When the message that was sent last reached whom it has reached now."""
        receipts = []
        events = self._epoll.poll(STALL, EVENTS)
        if not events:
            raise LoadError(f"{stream.left[-1]} deliveries did not come in {STALL:.0f} s")
        for fd, _ in events:
            client = self.clients[fd]
            data, ancillary, _flags, _address = client.socket.recvmsg(BUFFER_OF_ONE, SPACE)
            if len(data) == client.size and data[0] == client.first and not client.tail:
                frames = 1
            else:
                frames = self._count(client, data)
            if frames:
                if client.got + frames > len(client.left):
                    raise LoadError("more messages arrived than were sent")
                client.got += frames
                client.left[-1] -= 1
                receipts.append(received_at(ancillary))
        return receipts

    def _await(self, unfinished: int) -> list[Stream]:
        """Receive something of ``unfinished`` messages; LoadError if nothing comes."""
        finished = self.pump(STALL)
        if self._quiet:
            missing = sum(sum(s.left) for s in {c.stream for c in self.clients.values()})
            raise LoadError(
                f"{missing} deliveries of {unfinished} messages did not come in {STALL:.0f} s"
            )
        return finished
