"""A Redis on the test's own event loop, which answers as the test wants it."""

import asyncio

import hiredis

from .fake_redis import bulk

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


def push(*parts):
    """What Redis says unasked, in RESP3."""
    return b">" + bulk(*parts)[1:]


class ScriptedRedis:
    """
    Keeps the commands that came after the handshake. ``answer`` is called with each, and
    returns bytes, or None: nothing is said. ``greet`` is the same for the handshake.
    """

    def __init__(self, protocol=3, **options):
        self.protocol = protocol
        self.options = options
        self.commands = []
        self.clients = []
        #: How many connections there were, and how many chunks of bytes they brought.
        self.connections = self.chunks = 0
        self.answer = self.confirm
        self.greet = lambda command: HELLO if command[0] == b"HELLO" else b"+OK\r\n"
        self.byte_by_byte = False
        self._server = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}?protocol={self.protocol}"

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Client(self), "127.0.0.1", 0, **self.options
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for client in self.clients:
            client.transport.abort()
        await asyncio.sleep(0)

    def refuse(self):
        """Listen no more; connections stay."""
        self._server.close()

    def confirm(self, command):
        """As Redis answers."""
        name = command[0].lower()
        if name in (b"subscribe", b"unsubscribe"):
            frame = push if self.protocol == 3 else bulk
            return frame(name, command[1]) + b":1\r\n"
        return b":1\r\n"

    def message(self, channel, data):
        frame = push if self.protocol == 3 else bulk
        return frame(b"message", channel, data)

    def named(self, name):
        """The arguments of the commands of this name."""
        return [command[1:] for command in self.commands if command[0] == name]


class _Client(asyncio.Protocol):
    def __init__(self, server):
        self.server = server
        self.replies = hiredis.Reader(notEnoughData=None)
        #: What it has asked to subscribe to, confirmed or not.
        self.channels = set()

    def connection_made(self, transport):
        self.transport = transport
        self.server.connections += 1
        self.server.clients.append(self)

    def connection_lost(self, error):
        self.server.clients.remove(self)

    def data_received(self, data):
        self.server.chunks += 1
        self.replies.feed(data)
        while (command := self.replies.gets()) is not None:
            if command[0] in (b"HELLO", b"AUTH", b"CLIENT", b"SELECT"):
                answer = self.server.greet(command)
            else:
                self.server.commands.append(command)
                if command[0] == b"SUBSCRIBE":
                    self.channels.update(command[1:])
                self.channels.difference_update(command[1:] if command[0] == b"UNSUBSCRIBE" else ())
                answer = self.server.answer(command)
            if answer is not None:
                self.say(answer)

    def say(self, data):
        if not self.server.byte_by_byte:
            self.transport.write(data)
            return
        for number in range(len(data)):
            self.transport.write(data[number : number + 1])
