"""A Redis that answers as a test wants it: on a thread, for who speaks to it without a loop."""

import contextlib
import socket
import threading


def bulk(*parts):
    """The beginning of an array of RESP, of three elements."""
    return b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class FakeRedis:
    """
    Keeps the PUBLISH commands that came. ``answer`` is called with each, and returns bytes,
    or None: nothing is said; or raises, which cuts the connection.
    """

    def __init__(self):
        self.published = []
        self.connections = 0
        self.answer = lambda command: b":1\r\n"
        #: How many listen to any channel, or the error that is told instead.
        self.listeners = 0
        self.asked = []
        self._open = []
        self.subscribers = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}?protocol=2"

    def _accept(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, client.makefile("rb") as lines:
            while line := lines.readline():
                command = []
                for _ in range(int(line[1:])):
                    length = int(lines.readline()[1:])
                    command.append(lines.read(length + 2)[:-2])
                answer = b"+OK\r\n"
                if command[0] == b"SUBSCRIBE":
                    self.subscribers.append(client)
                    answer = bulk(b"subscribe", command[1]) + b":1\r\n"
                elif command[0] == b"PUBSUB":
                    answer = self.numsub(command)
                elif command[0] == b"PUBLISH":
                    self.published.append(command)
                    for subscriber in self.subscribers:
                        self.deliver(subscriber, *command[1:])
                    try:
                        answer = self.answer(command)
                    except ConnectionError:
                        client.shutdown(socket.SHUT_RDWR)
                        return
                if answer is not None:
                    client.sendall(answer)

    def deliver(self, subscriber, channel, data):
        with contextlib.suppress(OSError):
            subscriber.sendall(bulk(b"message", channel, data))

    def numsub(self, command):
        self.asked.append(command[2])
        if isinstance(self.listeners, bytes):
            return self.listeners
        channel = command[2]
        return b"*2\r\n$%d\r\n%s\r\n:%d\r\n" % (len(channel), channel, self.listeners)

    def close(self):
        if self._server.fileno() == -1:
            return  # by the test
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for client in self._open:
            client.close()
