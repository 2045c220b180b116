"""
Clients that come back by the rule of the demo's reconnect.js, under one epoll.

::

    open -> closed, lost -> waits, as long as the rule says -> connects -> shakes hands -> open
                              ^                                  |             |
                              +----------- refused, cut ---------+-------------+
"""

import errno
import heapq
import os
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from .clients import LoadError
from .reconnect import delay_after
from .wire import CLOSE, MASK, PING, PONG, TEXT, build_frame, take_frames

ABNORMAL = 1006


class Client:
    """One client that reconnects."""

    __slots__ = ("asked_at", "heard", "request", "socket", "state", "tail", "waited")

    socket: socket.socket

    def __init__(self, request: bytes) -> None:
        self.request = request
        #: Milliseconds.
        self.waited = 0.0
        self.heard: list[bytes] = []
        self.state = "waits"
        self.tail = bytearray()
        self.asked_at = 0.0


class Storm:
    """
    ``count`` clients that share out the ``requests``. Use it as a context manager: leaving
    closes all.
    """

    def __init__(self, port: int, requests: Sequence[bytes], count: int) -> None:
        #: Where those connect who are due.
        self.port = port
        self._epoll = select.epoll()
        self._by_fd: dict[int, Client] = {}
        self._due: list[tuple[float, int, Client]] = []
        self.clients = [Client(requests[number % len(requests)]) for number in range(count)]
        #: Of the open ones.
        self.open = 0
        #: What became of attempts, and of connections -> how often.
        self.ends: Counter[str] = Counter()
        #: Seconds from asking to the answer, of those that were let in.
        self.handshakes: list[float] = []

    def __enter__(self) -> "Storm":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in self._by_fd.values():
            client.socket.close()
        self._epoll.close()

    # Driving it

    def arrive(self, at_once: int = 32) -> None:
        """All connect for the first time, a few at a time."""
        for client in self.clients:
            while len(self._by_fd) - self.open >= at_once:
                self.step(1.0)
            self._connect(client)
        self.step_until(lambda: self.open == len(self.clients), 300)

    def cut(self) -> None:
        """All connections are lost at once, without a word, as by a proxy that ends."""
        for client in [one for one in self._by_fd.values() if one.state == "is_open"]:
            self._lose(client, "cut")

    def step_until(self, condition: Callable[[], bool], limit: float) -> None:
        """Go on until it is true; LoadError where it is not after ``limit`` seconds."""
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise LoadError(f"{self.open} are open after {limit:.0f} s; {dict(self.ends)}")
            self.step(0.1)

    def step(self, timeout: float) -> None:
        """Handle what is due, and what arrives within ``timeout`` seconds."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._connect(heapq.heappop(self._due)[-1])
        if self._due:
            timeout = min(timeout, max(0.0, self._due[0][0] - now))
        for fd, _ in self._epoll.poll(timeout, 4096):
            client = self._by_fd[fd]
            getattr(self, f"_{client.state}")(client)

    # Its states

    def _connect(self, client: Client) -> None:
        client.tail.clear()
        client.asked_at = time.monotonic()
        client.socket = socket.socket()
        client.socket.setblocking(False)
        client.state = "connects"
        self._by_fd[client.socket.fileno()] = client
        error = client.socket.connect_ex(("127.0.0.1", self.port))
        self._epoll.register(client.socket, select.EPOLLOUT)
        if error not in (0, errno.EINPROGRESS):
            self._lose(client, os.strerror(error))

    def _connects(self, client: Client) -> None:
        error = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._lose(client, os.strerror(error))
            return
        client.state = "asks"
        self._epoll.modify(client.socket, select.EPOLLIN)
        # Where it fails, the end is read.
        with suppress(OSError):
            client.socket.send(client.request)

    def _asks(self, client: Client) -> None:
        if not self._receive(client):
            self._lose(client, "cut in its handshake")
            return
        head, end, rest = bytes(client.tail).partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101 "):
            self._lose(client, "refused: " + head.split(b"\r\n")[0].decode())
            return
        client.tail = bytearray(rest)
        client.state = "is_open"
        self.open += 1
        self.handshakes.append(time.monotonic() - client.asked_at)
        self._frames(client)

    def _is_open(self, client: Client) -> None:
        if self._receive(client):
            self._frames(client)
        else:
            self._lose(client, "lost")

    def _receive(self, client: Client) -> bool:
        """Whether anything came; nothing is the end."""
        try:
            data = client.socket.recv(65_536)
        except OSError:
            return False
        client.tail += data
        return bool(data)

    def _frames(self, client: Client) -> None:
        for opcode, payload in take_frames(client.tail):
            if opcode == TEXT:
                client.heard.append(payload)
            elif opcode == PING:
                client.socket.send(build_frame(payload, PONG, MASK))
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                # The server may not wait for the answer.
                with suppress(OSError):
                    client.socket.send(build_frame(payload[:2], CLOSE, MASK))
                self._lose(client, f"closed with {code}", code)
                return

    def _lose(self, client: Client, how: str, code: int = ABNORMAL) -> None:
        """The attempt or the connection is over: when does it come back?"""
        self.ends[how] += 1
        self.open -= client.state == "is_open"
        client.state = "waits"
        del self._by_fd[client.socket.fileno()]
        # Closing is not enough while a server is started: its process is a fork of this one,
        # and holds the socket until it becomes another.
        self._epoll.unregister(client.socket)
        client.socket.close()
        delay = delay_after(code, client.waited, random.random())
        if delay is None:
            raise LoadError(f"a client may not come back: {how}")
        client.waited += delay
        # The number only keeps the heap from comparing clients.
        heapq.heappush(self._due, (time.monotonic() + delay / 1000, id(client), client))

    # Messages

    def say(self, payload: bytes) -> None:
        """The first client sends; returns when all others have received it."""
        self.clients[0].socket.send(build_frame(payload, mask=MASK))
        self.step_until(lambda: all(client.heard for client in self.clients[1:]), 60)
