"""Clients of npm in Node or in a page, as tests of Python use them; here ``centrifuge``."""

import asyncio
import fcntl
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ..waiting import LIMIT, limited

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "node_modules"


def install():
    """Install what package-lock.json names, once; skips where that is not possible."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine: apt-get install nodejs npm")
    installed, wanted = PACKAGES / ".package-lock.json", HERE / "package-lock.json"
    with open(HERE / "package.json") as lock:
        # Another process of the tests may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
            return
        command = ["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install centrifuge: {(done.stdout + done.stderr)[-500:]}")


class JsError(Exception):
    """What a promise was rejected with."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class InNode:
    """One process of Node. ``async with``."""

    def __init__(self, form, script="in_node.mjs"):
        self._form = form
        self._script = script
        self._ids = itertools.count()
        self._asked = {}

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            *("node", HERE / self._script, self._form),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_):
        self._process.stdin.close()
        await self._reading
        await self._process.wait()

    async def _read(self):
        async for line in self._process.stdout:
            answer = json.loads(line)
            asked = self._asked.pop(answer.pop("id"))
            if not asked.done():  # nobody waits for it any longer
                asked.set_result(answer)
        for asked in self._asked.values():
            asked.set_exception(ConnectionError("Node has ended"))

    async def carry_out(self, *command):
        number = next(self._ids)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "command": command})
        self._process.stdin.write(line.encode() + b"\n")
        return await asked


#: How a page makes its part of the clients.
IN_PAGE = """
([source, isProtobuf]) => {
  const names = "{ Remote, carryOut, counting }";
  const { Remote, carryOut, counting } = new Function(`${source}; return ${names}`)();
  const make = (url, options, sent) =>
    new Centrifuge(url, { ...options, websocket: counting(WebSocket, sent) });
  const remote = new Remote(make, isProtobuf);
  window.carryOut = (command) => carryOut(remote, command);
}
"""


class InPage:
    """One page of a browser. ``async with``."""

    def __init__(self, form, browser, site):
        self._form = form
        self._browser = browser
        self._site = site

    async def __aenter__(self):
        self._context = await self._browser.new_context()
        self._context.set_default_timeout(LIMIT * 1000)
        self._page = await self._context.new_page()
        # Any page of the site: others may not connect.
        await self._page.goto(self._site)
        name = "centrifuge.protobuf.js" if self._form == "protobuf" else "centrifuge.js"
        await self._page.add_script_tag(path=PACKAGES / "centrifuge" / "dist" / name)
        source = (HERE / "remote.mjs").read_text().replace("export ", "")
        await self._page.evaluate(IN_PAGE, [source, self._form == "protobuf"])
        return self

    async def __aexit__(self, *_):
        await self._context.close()

    async def carry_out(self, *command):
        return await self._page.evaluate("command => carryOut(command)", command)


def endpoint(server, way):
    """Where the server has a transport of this name."""
    path = f"/connection/{way}"
    return server.ws(path) if way == "websocket" else server.http(path)


class Client:
    """One client of the package."""

    def __init__(self, js, number):
        self._js = js
        self._number = number
        self._events = []
        #: Name of an event -> how many of all were looked at for one of these.
        self._read = {}

    @classmethod
    async def connect(cls, js, server, ways=(), **options):
        """By a WebSocket, or by these transports, each tried after the one before."""
        url = server.ws("/connection/websocket")
        if ways:
            url = [{"transport": way, "endpoint": endpoint(server, way)} for way in ways]
            options.setdefault("emulationEndpoint", server.http("/emulation"))
        async with limited():
            client = cls(js, (await js.carry_out("connect", url, options))["value"])
        connected = await client.hears("connected")
        client.id, client.transport = connected["client"], connected["transport"]
        return client

    async def do(self, name, *values):
        """Have the client do something; what it answers. :exc:`JsError` where it fails."""
        async with limited():
            answer = await self._js.carry_out(name, self._number, *values)
        if "error" in answer:
            raise JsError(**answer["error"])
        return answer["value"]

    async def ask(self, method, *values):
        """Call a method of the client."""
        return await self.do("ask", method, *values)

    async def subscribe(self, channel, **options):
        await self.do("subscribe", channel, options)
        return await self.hears("subscribed", channel=channel)

    async def hears(self, event, **fields):
        """The next event of this name with these fields. Others of this name are passed over."""
        wanted = {"event": event, **fields}
        # Pings come for ever.
        async with limited():
            while True:
                for place in range(self._read.get(event, 0), len(self._events)):
                    if wanted.items() <= self._events[place].items():
                        self._read[event] = place + 1
                        return self._events[place]
                self._events += await self.do("events", len(self._events))

    @property
    def heard(self):
        """All events that it was asked about."""
        return self._events


def running(form, browser, site):
    """The package for one format, in a page of a site, or where there is no browser in Node."""
    return InNode(form) if browser is None else InPage(form, browser, site)
