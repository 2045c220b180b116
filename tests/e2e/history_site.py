"""The site of history_settings, and clients that know what they got, and come back for more."""

import asyncio
import contextlib
import json

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from ..waiting import limited
from .processes import Daphne, Uvicorn, Valkey
from .sockets import connect
from .topologies import Cluster

SITE = {"DJANGO_SETTINGS_MODULE": "tests.e2e.history_settings"}
#: A process that was killed, or is not there yet.
AWAY = (OSError, ConnectionClosed, InvalidHandshake, InvalidMessage)


class Site:
    """Processes on one Redis."""

    def __init__(self, database, *kinds, filters=(), **options):
        redis = self.start_redis()
        self.env = {
            **database,
            **SITE,
            "REDIS_URL": redis.url,
            "TEST_FILTERS": json.dumps(filters),
            "TEST_LAYER_OPTIONS": json.dumps(options),
        }
        self.servers = []
        for kind in kinds:
            self.start(kind)

    def start_redis(self):
        """What the processes use."""
        self.valkey = Valkey()
        return self.valkey

    def stop_redis(self):
        self.valkey.stop()

    def make(self, kind):
        return kind("fws_project.asgi:application", env=self.env)

    def start(self, kind):
        self.servers.append(self.make(kind))
        return self.servers[-1]

    def do(self, *command):
        with self.valkey.client() as client:
            return client.execute_command(*command)

    def subscribers(self):
        """Ids of the connections on which processes hear from Redis."""
        with self.valkey.client() as client:
            return [one["id"] for one in client.client_list(_type="pubsub")]

    def stop(self):
        for server in self.servers:
            server.stop()
        self.stop_redis()


class Client:
    """A socket that gives commands. What comes before an answer is kept."""

    def __init__(self, socket):
        self._socket = socket
        self._answers = asyncio.Queue()
        self.arrived = []
        self.on_message = self.arrived.append
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, server):
        return cls(await connect(server.ws("/")))

    async def _read(self):
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                message = json.loads(frame)
                if "answer" in message:
                    # Whoever asked looks at what came before, and at nothing that came later.
                    self._answers.put_nowait((message["answer"], len(self.arrived)))
                else:
                    self.on_message(message)
        self._answers.put_nowait(None)

    async def ask(self, *command):
        """The answer, and how much had come before it."""
        await self._socket.send(json.dumps(command))
        async with limited():
            answer = await self._answers.get()
        if answer is None:
            raise ConnectionError("the connection ended before the answer")
        return answer

    async def publish(self, group, *texts):
        """The positions. ConnectionError where Redis was away for too long."""
        positions, _ = await self.ask("publish", group, texts)
        if positions is None:
            raise ConnectionError("they were not published, or nobody knows")
        return [tuple(position[:2]) for position in positions]

    @property
    def is_open(self):
        return not self._reading.done()

    async def close(self, abort=False):
        if abort:
            self._socket.transport.abort()
        await self._socket.close()
        await self._reading


class Reader:
    """
    A client of one group that knows the position of what it got last, and comes back with it.
    What it was sent before it had its answer counts when the answer is there.
    """

    def __init__(self, group, since=("", 0)):
        self.group = group
        self.at = since
        #: Position -> text.
        self.got = {}
        #: Each place where what came did not follow: from where, and what came.
        self.jumps = []
        #: How many of them, and how many gaps, were told on this connection.
        self.jumped = self.gaps = 0
        #: Each answer that not all is there: since where, and from where it goes on.
        self.refusals = []
        self.client = None

    async def come(self, pick):
        """Come back to the process that ``pick()`` returns, until one can read the history."""
        while True:
            try:
                client = await Client.open(pick())
            except AWAY:
                continue
            try:
                if await self._begin(client):
                    self.client = client
                    return
            except AWAY:
                pass
            finally:
                if self.client is not client:
                    await client.close(abort=True)

    async def _begin(self, client):
        (recovered, position), before = await client.ask("recover", self.group, self.at)
        if position is None:
            return False
        self.jumped = self.gaps = 0
        position = tuple(position[:2])
        if not recovered:
            self.refusals.append((self.at, position))
            self.at = position
        elif not self.at[0]:
            self.at = (position[0], self.at[1])
        for message in client.arrived[:before]:
            self.take(message)
        # Nothing of what was before the answer's position comes after the answer.
        assert self.at[0] != position[0] or self.at[1] >= position[1], (self.at, position)
        for message in client.arrived[before:]:
            self.take(message)
        client.on_message = self.take
        return True

    def take(self, message):
        if "gap" in message:
            # The home group keeps nothing, and has gaps of its own.
            self.gaps += message["gap"] == self.group
            return
        position = tuple(message["at"])
        if position != (self.at[0], self.at[1] + 1):
            self.jumps.append((self.at, position))
            self.jumped += 1
        assert position not in self.got, f"{position} came twice to {self.group}"
        self.got[position] = message["text"]
        self.at = position

    @property
    def is_there(self):
        return self.client is not None and self.client.is_open

    @property
    def texts(self):
        return list(self.got.values())

    async def go(self, abort=True):
        """Leave, without a word unless ``abort`` is False."""
        client, self.client = self.client, None
        if client is not None:
            await client.close(abort)


KINDS = {"daphne": [Daphne, Daphne], "uvicorn": [Uvicorn, Uvicorn]}
SECRET = {"symmetric_encryption_keys": ["a secret of 32 characters or more"]}


CORE = {"TEST_LAYER_BACKEND": "channels_redis.core.RedisChannelLayer"}


class ClusterSite(Site):
    """Two processes on different nodes of a Redis Cluster."""

    def __init__(self, database):
        super().__init__(database)
        for kind, node in zip((Daphne, Uvicorn), self.cluster.nodes, strict=False):
            self.env["REDIS_URL"] = node.url
            self.start(kind)

    def start_redis(self):
        self.cluster = Cluster()
        return self.cluster.nodes[0]

    def stop_redis(self):
        self.cluster.stop()


def open_site(database, kind):
    """
    Two processes on one Redis, of one kind, "encrypted", or with the "core" layer; or on two
    nodes of a "cluster".
    """
    if kind == "core":
        return Site({**database, **CORE}, Daphne, Uvicorn)
    if kind == "cluster":
        return ClusterSite(database)
    if kind == "encrypted":
        return Site(database, Daphne, Uvicorn, **SECRET)
    return Site(database, *KINDS[kind])
