"""Processes of ``tests.pusher_site`` on one Redis, and clients of pusher-js that they serve."""

import json
import signal
import socket
import urllib.request

from ..javascript.clients import HERE, PACKAGES, Client
from ..waiting import LIMIT, limited
from .processes import Daphne, Valkey, free_port

APPLICATION = "tests.pusher_site:application"


class PusherSite:
    """
    So many processes; tests kill the first one, and Redis. Their sockets listen all the while,
    as where systemd holds them: pusher-js tries only every 15 seconds where nobody does.
    """

    def __init__(self, folder, count, server=Daphne, **environment):
        self._server = server
        self._valkey = Valkey()
        self._env = {
            "DJANGO_SETTINGS_MODULE": "",
            "REDIS_URL": self._valkey.url,
            "PUSHER_DB": str(folder / "db.sqlite3"),
            **environment,
        }
        self._listening = [listen() for _ in range(count)]
        self.servers = [self._start(number) for number in range(count)]

    def _start(self, number):
        return self._server(APPLICATION, env=self._env, listening=self._listening[number])

    @property
    def first(self):
        return self.servers[0]

    @property
    def second(self):
        return self.servers[1]

    def kill(self):
        """Kill the first process."""
        self.first.signal(signal.SIGKILL)
        self.first.wait()

    def revive(self):
        """Start it again, at the same address."""
        self.servers[0] = self._start(0)

    def drain(self):
        """End the first process as a supervisor does, and start it again."""
        self.first.signal(signal.SIGTERM)
        self.first.wait()
        self.revive()

    def empty_redis(self):
        """Kill Redis; a new one, at the same address, knows nothing."""
        self._valkey = self._valkey.restart()

    def stop(self):
        for process in (*self.servers, self._valkey):
            process.stop()
        for listening in self._listening:
            listening.close()


def listen():
    """A socket that listens on a free port."""
    listening = socket.create_server(("127.0.0.1", free_port()))
    # As NoDelay= of systemd: uvicorn does not do so itself with a socket that it is given.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def say(server, where, text):
    """A view of the site publishes."""
    urllib.request.urlopen(server.http(f"/say/{where}?text={text}")).close()


class User:
    """Who is logged in by a session."""

    def __init__(self, server, name):
        with urllib.request.urlopen(server.http(f"/login/{name}")) as answer:
            told = json.load(answer)
            pairs = [value.partition(";")[0] for value in answer.headers.get_all("Set-Cookie")]
        self.id, self.csrf = told["id"], told["csrf"]
        self.cookie = "; ".join(pairs)


class PusherClient(Client):
    """One client of pusher-js."""

    @classmethod
    async def connect(cls, js, server, user=None, key="app-key", waits=True, **options):
        fields = {"wsHost": "127.0.0.1", "wsPort": server.port, "forceTLS": False, **options}
        if user is not None:
            fields |= {
                "cookie": user.cookie,
                "auth": server.http("/pusher"),
                "headers": {"X-CSRFToken": user.csrf},
            }
        async with limited():
            client = cls(js, (await js.carry_out("connect", key, fields))["value"])
        if waits:
            await client.hears("connected")
        return client

    async def subscribe(self, channel, *names):
        await self.do("subscribe", channel, list(names))
        return await self.hears("pusher:subscription_succeeded", channel=channel)

    async def subscribes_again(self, *channels):
        """It does so by itself, in any order."""
        left = set(channels)
        while left:
            left.discard((await self.hears("pusher:subscription_succeeded"))["channel"])

    async def refused(self, channel):
        """The error that a subscription ends with."""
        await self.do("subscribe", channel)
        return (await self.hears("pusher:subscription_error", channel=channel))["data"]


SCRIPTS = ("pusher-js/dist/web/pusher-with-encryption.js", "laravel-echo/dist/echo.iife.js")
PAGES = {"channelAuthorization": "auth", "userAuthentication": "user-auth"}
#: How a page makes its part of the clients.
IN_PAGE = """
(source) => {
  const { Remote, carryOut } = new Function(`${source}; return { Remote, carryOut }`)();
  const remote = new Remote(Pusher);
  window.carryOut = (command) => carryOut(remote, command);
}
"""


class PusherPage:
    """
    A page of the site in a browser, of who is logged in there, with pusher-js and Laravel Echo.
    ``async with``.
    """

    def __init__(self, browser, server, name):
        self._browser, self._server, self._name = browser, server, name

    async def __aenter__(self):
        self._context = await self._browser.new_context()
        self._context.set_default_timeout(LIMIT * 1000)
        self.page = await self._context.new_page()
        await self.page.goto(self._server.http(f"/login/{self._name}"))
        told = json.loads(await self.page.inner_text("body"))
        self.id, self.csrf = told["id"], told["csrf"]
        await self.page.goto(self._server.http("/"))
        for path in SCRIPTS:
            await self.page.add_script_tag(path=PACKAGES / path)
        source = (HERE / "pusher_remote.mjs").read_text().replace("export ", "")
        await self.page.evaluate(IN_PAGE, source)
        return self

    async def __aexit__(self, *_):
        await self._context.close()

    async def carry_out(self, *command):
        return await self.page.evaluate("command => carryOut(command)", command)

    async def connect(self, server=None, **options):
        """A client whose subscriptions the pages of the site sign, as a site's own page asks."""
        sign = {
            name: {"endpoint": f"/pusher/{path}", "headers": {"X-CSRFToken": self.csrf}}
            for name, path in PAGES.items()
        }
        return await PusherClient.connect(self, server or self._server, **sign, **options)
