"""
What it costs to reach clients by HTTP: the same messages to as many WebSockets, HTTP streams and
server-sent events, all of the Centrifuge protocol in JSON, on one server process.
"""

import json
import select
import socket
import time
from statistics import median
from urllib.parse import quote

from . import clients
from .bench import SETTLE, Bench, Figures, Session
from .centrifuge import CONNECT, SUBSCRIBE, wire_of
from .clients import Client, LoadError, Place, Stream
from .contenders import Contender

#: How clients come: the first is what the others are compared with.
SOCKET, LINES, EVENTS = "socket", "stream", "sse"
WAYS = (SOCKET, LINES, EVENTS)
#: In each publication, once.
MARK = b'"pub":{'
CLIENTS = 200
IN_FLIGHT = 32
BUFFER = 1 << 18


class Receivers:
    """Clients of one group, which count what they get."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self.count = 0

    def __enter__(self) -> "Receivers":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for one in self._sockets.values():
            one.close()
        self._epoll.close()

    def add(self, one: socket.socket) -> None:
        one.settimeout(clients.STALL)
        self._sockets[one.fileno()] = one
        self._rest[one.fileno()] = b""
        self._epoll.register(one, select.EPOLLIN)

    def __len__(self) -> int:
        return len(self._sockets)

    def wait(self, count: int) -> None:
        """Read until there have been so many publications."""
        while self.count < count:
            events = self._epoll.poll(clients.STALL)
            if not events:
                raise LoadError(
                    f"{count - self.count} messages have not come in {clients.STALL:.0f} s"
                )
            for fd, _ in events:
                data = self._rest[fd] + self._sockets[fd].recv(BUFFER)
                self.count += data.count(MARK)
                # A mark may be cut in two.
                self._rest[fd] = data[1 - len(MARK) :]


def by_socket(session: Session, name: str) -> Client:
    """One that is subscribed by a WebSocket, and may send."""
    wire = wire_of("json", name)
    client = Client(Place(session.server.port, wire.target("", ""), Stream(), True, True), wire)
    client.socket.sendall(wire.request(wire.target("", ""), session.server.port, ""))
    while not client.greet(client.socket.recv(BUFFER)):
        pass
    return client


def request(session: Session, method: str, path: str, body: bytes = b"") -> socket.socket:
    """The connection of a request."""
    made = socket.create_connection(("127.0.0.1", session.server.port), clients.STALL)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    made.sendall(head.encode() + body)
    return made


def read_until(made: socket.socket, part: bytes) -> bytes:
    """What comes, until this is in it."""
    data = b""
    while part not in data:
        more = made.recv(BUFFER)
        if not more:
            raise LoadError(f"{part!r} has not come, but {data[:80]!r}")
        data += more
    return data


def by_http(session: Session, name: str, way: str) -> socket.socket:
    """One that is subscribed by a stream."""
    wire = wire_of("json", name)
    connect = wire.opening
    if way == LINES:
        made = request(session, "POST", "/connection/http_stream", connect)
    else:
        made = request(session, "GET", f"/connection/sse?cf_connect={quote(connect)}")
    begin = wire.reply_to(CONNECT)
    said = begin + read_until(made, b"}}\n").partition(begin)[2]
    told = json.loads(said.partition(b"\n")[0])["connect"]
    subscribe = wire.encode(SUBSCRIBE, subscribe={"channel": name}).decode()
    command = {"session": told["session"], "node": told["node"], "data": subscribe}
    with request(session, "POST", "/emulation", json.dumps(command).encode()) as posted:
        read_until(posted, b" 204 ")
    read_until(made, wire.reply_to(SUBSCRIBE))
    return made


def deliver(session: Session, sender: Client, receivers: Receivers, seconds: float) -> float:
    """CPU per delivery, seconds."""
    cpu, before = session.cpu_seconds(), receivers.count
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sender.socket.sendall(sender.wire.outgoing * IN_FLIGHT)
        receivers.wait(receivers.count + IN_FLIGHT * len(receivers))
    time.sleep(SETTLE)
    return (session.cpu_seconds() - cpu) / (receivers.count - before)


def join(session: Session, way: str, count: int, receivers: Receivers) -> Client:
    """So many subscribed by one way, and one more, by a WebSocket, which may send."""
    name = f"{way}:room"
    sender = by_socket(session, name)
    receivers.add(sender.socket)
    for _ in range(count):
        is_socket = way == SOCKET
        receivers.add(by_socket(session, name).socket if is_socket else by_http(session, name, way))
    return sender


def memory_of(bench: Bench, contender: Contender, way: str, count: int) -> float:
    """KiB of each client, in a process that has had no others: what those leave is used again."""
    with bench.loaded(contender, anonymous=True) as session, Receivers() as receivers:
        # What the first clients import and make stays.
        join(session, way, count // 4, receivers)
        before = session.resident_bytes()
        join(session, way, count - 1, receivers)
        return (session.resident_bytes() - before) / count / 1024


def streams(bench: Bench, contender: Contender) -> Figures:
    """Memory of each client; and CPU per delivery, for which the ways take turns."""
    count = bench.count(CLIENTS, CLIENTS)
    figures: dict[str, list[float]] = {}
    with bench.loaded(contender, anonymous=True) as session:
        for _ in range(bench.count(3, 2)):
            for way in WAYS:
                with Receivers() as receivers:
                    sender = join(session, way, count, receivers)
                    deliver(session, sender, receivers, bench.seconds / 4)
                    cost = deliver(session, sender, receivers, bench.seconds)
                figures.setdefault(f"{way}_us", []).append(cost * 1e6)
    found = {key: median(all_) for key, all_ in figures.items()}
    found |= {f"{way}_kb": memory_of(bench, contender, way, count) for way in WAYS}
    for way in WAYS[1:]:
        found[f"{way}_ratio"] = found[f"{way}_us"] / found["socket_us"]
        found[f"{way}_kb_ratio"] = found[f"{way}_kb"] / found["socket_kb"]
    return found
