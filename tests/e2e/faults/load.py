"""Clients that send all the time, and what they receive."""

import asyncio
import json
import os
import re
import time
import urllib.request
from collections import defaultdict

from websockets.exceptions import ConnectionClosed

from ...waiting import LIMIT, limited, until
from ..sockets import connect
from .account import Account, events
from .kept import Kept

CLIENTS = int(os.environ.get("FWS_FAULT_CLIENTS", 50))
#: How long a fault lasts at least, seconds, where it is to last.
STOP = float(os.environ.get("FWS_FAULT_STOP", 2))
TALKERS = 10
#: Messages a second of one talker: the clients of a test share its machine.
RATE = max(1, 250 // CLIENTS)
MESSAGE = re.compile(r"(\d+)\.(\d+)")
#: How long anything may take beside that.
MOST = LIMIT + STOP


class Client:
    """One WebSocket; what it sent and when, what it heard, how long its echoes took."""

    def __init__(self, number, server):
        self.number = number
        self.server = server
        self.sent = []
        self.heard = defaultdict(list)
        self.echoes = []
        self.closed = None
        self._ends = set()
        self._news = asyncio.Event()

    async def open(self):
        self._socket = await connect(self.server.ws(), open_timeout=60, ping_interval=None)
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self):
        try:
            async for message in self._socket:
                if message.startswith("?"):
                    self.echoes.append(time.monotonic() - float(message[1:]))
                elif found := MESSAGE.fullmatch(message):
                    self.heard[int(found[1])].append(int(found[2]))
                else:
                    self._ends.add(message)
                self._news.set()
        except ConnectionClosed:
            pass
        self.closed = self._socket.close_code
        self._news.set()

    async def say(self):
        """One more message to all, and a question that only its own server answers."""
        self.sent.append(time.monotonic())
        await self._socket.send(f"{self.number}.{len(self.sent) - 1}")
        await self.ask()

    async def ask(self):
        await self._socket.send(f"?{time.monotonic()}")

    async def say_end(self):
        await self._socket.send(f"end {self.number}")

    async def answered(self):
        """Whether its server answers a question."""
        before = len(self.echoes)
        await self.ask()
        await self._until(lambda: len(self.echoes) > before)

    async def hears_end(self, numbers):
        names = {f"end {number}" for number in numbers if number != self.number}
        await self._until(lambda: names <= self._ends)

    async def ended(self):
        """Its close code."""
        async with limited(MOST):
            await asyncio.shield(self._reader)
        return self.closed

    async def _until(self, condition):
        async with limited(MOST):
            while not condition():
                assert self.closed is None, f"client {self.number} was closed: {self.closed}"
                self._news.clear()
                await self._news.wait()

    async def close(self):
        await self._socket.close()
        await self._reader


class Load:
    """``CLIENTS`` clients in one group, spread over ``servers``; some talk all the time."""

    def __init__(self, servers, name):
        self.name = name
        self.servers = servers
        self.clients = [Client(n, servers[n % len(servers)]) for n in range(CLIENTS)]
        self.talkers = self.clients[:TALKERS]
        self.kept = Kept(servers)
        #: How many lines each process had said when the load began.
        self._mark = {}
        self._talks = []

    async def __aenter__(self):
        try:
            await self._begin()
        except BaseException:
            await self._close()
            raise
        return self

    async def _begin(self):
        self._before = {server: await state(server) for server in self.servers}
        for start in range(0, CLIENTS, 50):
            await asyncio.gather(*(client.open() for client in self.clients[start : start + 50]))
        await self.kept.begin()
        # On a busy machine Redis may seem away while so many come. An outage that began then
        # would never be told of again.
        await until(self._is_layer_there, 0.02, MOST)
        self._mark = {server: server.lines_so_far for server in self.servers}
        self.go_on()

    async def __aexit__(self, *_):
        await self.hush()
        await self._close()

    async def _close(self):
        await self.kept.close()
        await asyncio.gather(*(client.close() for client in self.clients))

    # Talking

    def go_on(self):
        self._talks = [asyncio.ensure_future(self._talk(one)) for one in self.talkers]
        self.kept.go_on()

    async def _talk(self, client):
        await asyncio.sleep(client.number / TALKERS / RATE)
        try:
            while client.closed is None:
                await client.say()
                await asyncio.sleep(1 / RATE)
        except ConnectionClosed:
            client.sent.pop()

    async def hush(self):
        """No client sends."""
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self.kept.hush()

    async def talk(self, seconds=0.5):
        """Let them send, and wait until they do."""
        before = [len(one.sent) for one in self.talkers]
        await asyncio.sleep(max(seconds, 2 / RATE))
        for talker, count in zip(self.talkers, before, strict=True):
            await until(lambda one=talker, n=count: len(one.sent) > n or one.closed is not None)

    # What the processes say

    def said(self, server):
        """Lines of a process since the load began; before that, all that are kept."""
        if server not in self._mark:
            return server.output.splitlines()
        return server.lines_since(self._mark[server])

    def times(self, kind, server):
        return [when for when, one, _ in events(self.said(server)) if one == kind]

    async def answers(self):
        """See that everybody is answered now."""
        await asyncio.gather(*(client.answered() for client in self.clients))

    async def told(self, kind, times=1):
        """Wait until every process has told of ``kind`` so often."""
        try:
            await until(
                lambda: all(len(self.times(kind, one)) >= times for one in self.servers),
                0.02,
                MOST,
            )
        except TimeoutError:
            said = {server: server.output.splitlines()[-40:] for server in self.servers}
            raise AssertionError(f"{self.name}: not told of {kind}: {said}") from None

    async def back(self):
        """Wait until every process says that the layer is back, as often as it was lost."""
        await self.told("layer_back")
        await until(self._is_layer_there, 0.02, MOST)

    def _is_layer_there(self):
        return all(
            len(self.times("layer_lost", one)) <= len(self.times("layer_back", one))
            for one in self.servers
        )

    # The end

    async def finish(self, gone=()):
        """Send a last message, wait until every open client has it, and compare all messages."""
        await self.hush()
        alive = [client for client in self.clients if client.server not in gone]
        last = [client for client in self.talkers if client in alive]
        await asyncio.gather(*(client.say_end() for client in last))
        numbers = {client.number for client in last}
        await asyncio.gather(*(client.hears_end(numbers) for client in alive))
        await asyncio.gather(*(client.answered() for client in alive))
        await self.kept.finish(gone)
        said = {server: self.said(server) for server in self.servers}
        return Account(self.name, self.clients, self.talkers, said, gone, self.kept)

    async def leave(self, gone=()):
        """Close all. Returns by how many bytes each process has grown, and what it still holds."""
        await self._close()
        alive = [server for server in self.servers if server not in gone]
        grown, left = [], []
        for server in alive:
            before = self._before[server]
            try:
                async with limited():
                    while (now := await state(server))["tasks"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            except TimeoutError:
                left += now["tasks"]
            grown.append(now["rss"] - before["rss"])
            # Connections to Redis and threads of pools come and stay: a few, not one a client.
            for kind, most in (("all_tasks", 4), ("files", 8), ("groups", 0)):
                if now[kind] > before[kind] + most:
                    left.append(f"{kind}: {before[kind]} -> {now[kind]}")
        return grown, left


async def state(server):
    """What ``/state/`` of a process says."""

    def get():
        with urllib.request.urlopen(server.http("/state/"), timeout=LIMIT) as answer:
            return json.load(answer)

    return await asyncio.to_thread(get)
