"""Pages that show who is in a room, and the processes that serve them."""

import asyncio
import contextlib
import itertools
import json

from websockets.exceptions import ConnectionClosed

from filtered_websocket.presence import Info, Stats, presence, presence_stats
from filtered_websocket.publishing.direct import close_senders

from ..presence.test_reading import use_layer
from ..waiting import limited, until, wait_until
from .processes import Daphne, Uvicorn, Valkey
from .sockets import connect

SITE = "tests.e2e.presence_site:application"
#: Seconds: short, so that a test need not wait for long.
LEASE = 3.0
ROOM = "room:1"


class Site:
    """Processes on one Redis, or each on a node of a cluster; every second one is of uvicorn."""

    def __init__(self, database, redis=None):
        self.valkey = redis or Valkey()
        self.env = {
            **database,
            "DJANGO_SETTINGS_MODULE": "tests.e2e.presence_settings",
            "TEST_SETTINGS": json.dumps({"PRESENCE_LEASE": LEASE}),
        }
        self.servers = []
        self._kinds = itertools.cycle([Daphne, Uvicorn])

    def start(self, node=None):
        env = {**self.env, "REDIS_URL": (node or self.valkey).url}
        self.servers.append(next(self._kinds)(SITE, env=env))
        return self.servers[-1]

    def stop(self):
        for server in self.servers:
            server.stop()
        self.valkey.stop()


@contextlib.contextmanager
def run_site(database, settings):
    """One on a Redis of its own, which this process publishes to as well."""
    site = Site(database)
    use_layer(settings, "pubsub", site.valkey.url)
    try:
        yield site
    finally:
        close_senders()
        site.stop()


class Page:
    """A client that knows of its room what it was told, and nothing else."""

    def __init__(self, server, user=None):
        self.server = server
        self.user = user
        self.id = self.room = None
        self.present = {}
        #: Joins and leaves, as they were told; and whether the user's first or last one.
        self.told = []
        self.users_told = []
        self._answers = asyncio.Queue()

    @classmethod
    async def open(cls, server, user=None):
        page = cls(server, user)
        query = "" if user is None else f"?user={user}"
        page._socket = await connect(server.ws(f"/{query}"))
        page._reading = asyncio.create_task(page._read())
        return page

    async def _read(self):
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                self._take(json.loads(frame))

    def _take(self, message):
        if "all" in message:
            self.present = message["all"]
        elif "changes" in message:
            for change in message["changes"]:
                kind = change["is"]
                self.told.append((kind, change["connection"]))
                is_users = change["first" if kind == "join" else "last"]
                self.users_told.append((kind, change["user"], is_users))
                if kind == "join":
                    self.present[change["connection"]] = change["user"]
                else:
                    self.present.pop(change["connection"], None)
        else:
            self._answers.put_nowait(message)

    async def ask(self, command):
        await self._socket.send(command)
        async with limited():
            return await self._answers.get()

    async def join(self, room=ROOM):
        self.id = (await self.ask(f"+{room}"))["id"]
        self.room = room

    async def leave(self):
        room, self.room = self.room, None
        await self.ask(f"-{room}")
        self.present, self.told, self.users_told = {}, [], []

    async def close(self):
        await self._socket.close()
        await self._reading


@contextlib.asynccontextmanager
async def open_pages(*wanted):
    """One for each (server, user), in the room."""
    pages = [await Page.open(*who) for who in wanted]
    try:
        for page in pages:
            await page.join()
        yield pages
    finally:
        for page in pages:
            await page.close()


async def look_at_redis(page, room, infos):
    await asyncio.to_thread(look, room, infos)


async def agree(pages, everyone=None, look=look_at_redis):
    """Wait until all pages show the same people as Redis has, and ``everyone`` who is there."""
    everyone = pages if everyone is None else everyone
    for room in {page.room for page in everyone} - {None}:
        there = [page for page in everyone if page.room == room]
        truth = {page.id: None if page.user is None else str(page.user) for page in there}

        def is_agreed(room=room, truth=truth):
            shown = [page.present for page in pages if page.room == room]
            return all(one == truth for one in shown)

        await until(is_agreed)
        infos = {key: Info(user) for key, user in truth.items()}
        await look(there[0], room, infos)


def look(room, infos):
    # After a restart of Redis the processes put their members back one after another.
    wait_until(lambda: presence(room) == infos)
    assert presence(room) == infos
    users = {info.user for info in infos.values()}
    assert presence_stats(room) == Stats(len(infos), len(users))
