"""HTTP streams and server-sent events: the package ``centrifuge`` of npm, unmodified."""

import asyncio
import contextlib
import itertools
import json
import signal
import sys
from http.client import HTTPConnection, HTTPSConnection, IncompleteRead

import jwt
import pytest
import pytest_asyncio

from filtered_websocket.streams.elsewhere import MOST_OF_ONE

from ..javascript.clients import Client, InNode, InPage, JsError, install
from ..waiting import LIMIT, limited
from .processes import Daphne, Process, Uvicorn, Valkey, free_port
from .protocol_processes import APPLICATION, SETTINGS
from .test_proxies import HOST, PROXIES, folder, running

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()
WAYS = ["http_stream", "sse"]
__all__ = ["folder"]


class Site:
    """One process of daphne and one of uvicorn, on one Redis."""

    def __init__(self, database):
        self.valkey = Valkey()
        self.env = {
            **database,
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "REDIS_URL": self.valkey.url,
            "DJANGO_ALLOWED_HOSTS": f"127.0.0.1,{HOST}",
        }
        self.daphne = Daphne(APPLICATION, env=self.env)
        self.uvicorn = Uvicorn(APPLICATION, env=self.env)

    def kill_daphne(self):
        self.daphne.signal(signal.SIGKILL)
        self.daphne.wait()

    def revive_daphne(self):
        self.daphne = Daphne(APPLICATION, env=self.env, port=self.daphne.port)

    def stop(self):
        for process in (self.daphne, self.uvicorn, self.valkey):
            process.stop()


@pytest.fixture(scope="module")
def site(database):
    install()
    site = Site(database)
    yield site
    site.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runtime(site):
    async with InNode("json") as js:
        yield js


@pytest_asyncio.fixture(loop_scope="session")
async def js(runtime):
    yield runtime
    async with limited():
        await runtime.carry_out("end")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
async def test_commands_reach_a_stream_by_any_process(js, site, name, way):
    server = getattr(site, name)
    other = site.uvicorn if server is site.daphne else site.daphne
    room = f"room:{next(NAMES)}"
    ann = await Client.connect(js, server, [way], emulationEndpoint=other.http("/emulation"))
    bob = await Client.connect(js, other, [way])
    for client in (ann, bob):
        await client.subscribe(room)
    await ann.do("publish", room, {"shout": "grüße"})
    for client in (ann, bob):
        assert (await client.hears("publication"))["data"] == {"shout": "GRÜSSE"}
    assert await ann.do("rpc", "add", [1, 2, 3]) == 6
    assert len((await bob.ask("presence", room))["clients"]) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_after_a_killed_process_all_that_was_missed_is_there(js, site, way):
    group = f"kept:{next(NAMES)}"
    ann = await Client.connect(js, site.daphne, [way])
    bob = await Client.connect(js, site.uvicorn)
    await ann.subscribe(group)
    site.kill_daphne()
    try:
        await ann.hears("subscribing", of="subscription")
        for number in range(1, 20):
            await bob.do("publish", group, {"n": number})
    finally:
        site.revive_daphne()
    again = await ann.hears("subscribed", of="subscription", wasRecovering=True)
    assert again["recovered"]
    await ann.hears("publication", offset=19)
    heard = [one["data"]["n"] for one in ann.heard if one["event"] == "publication"]
    assert heard == list(range(1, 20))


async def test_a_stream_speaks_protobuf(site):
    async with InNode("protobuf") as js:
        ann = await Client.connect(js, site.uvicorn, ["http_stream"])
        room = f"room:{next(NAMES)}"
        await ann.subscribe(room)
        await ann.do("publish", room, {"shout": "grüße"})
        assert (await ann.hears("publication"))["data"] == {"shout": "GRÜSSE"}
        assert await ann.do("rpc", "add", [1, 2]) == 3


@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
async def test_a_stream_that_the_server_ends_tells_the_code(js, site, name):
    server = getattr(site, name)
    ann = await Client.connect(js, server, ["sse"])
    with contextlib.suppress(JsError):  # the answer may come before the end
        await ann.do("rpc", "close", 4501)
    assert (await ann.hears("disconnected"))["code"] == 4501
    # The log of the server has nothing of the query, which may have credentials.
    await asyncio.to_thread(server.said, r'"GET /connection/sse( HTTP/1.1)?" 200')


#: A page that only listens; ``heard`` is what it has.
LISTENS = """
(query) => {
  window.heard = [];
  window.events = new EventSource(`/events/?${query}`);
  const note = (event) => {
    heard.push(event.data === undefined ? event.type : event.data);
    window.last = event.lastEventId;
  };
  for (const name of ["open", "message", "error", "gap"]) events.addEventListener(name, note);
}
"""


async def test_a_page_that_listens_misses_nothing_when_its_server_is_killed(js, new_context, site):
    group = f"kept:{next(NAMES)}"
    bob = await Client.connect(js, site.uvicorn)
    page = await (await new_context()).new_page()
    await page.goto(site.daphne.http())
    await page.evaluate(LISTENS, f"group={group}")
    await page.wait_for_function("heard.includes('open')")
    await bob.do("publish", group, 0)
    await page.wait_for_function("heard.includes('0')")
    site.kill_daphne()
    try:
        await page.wait_for_function("heard.includes('error')")
        for number in range(1, 4):
            await bob.do("publish", group, number)
    finally:
        site.revive_daphne()
    await page.wait_for_function("heard.includes('3')")
    numbers = "heard.filter((one) => one.length === 1)"
    assert await page.evaluate(numbers) == ["0", "1", "2", "3"]
    assert not await page.evaluate("heard.includes('gap')")
    # What is final, a browser takes for the end.
    for query in (f"group={group}&last_event_id=!", "group=nothing"):
        await page.evaluate("events.close()")
        await page.evaluate(LISTENS, query)
        await page.wait_for_function("heard.includes('error')")
        assert await page.evaluate("events.readyState") == 2


async def test_a_page_listens_by_uvicorn(new_context, site):
    group = f"kept:{next(NAMES)}"
    page = await (await new_context()).new_page()
    await page.goto(site.uvicorn.http())
    await page.evaluate(LISTENS, f"group={group}")
    await page.wait_for_function("heard.includes('open')")
    async with Raw(site.daphne.port) as bob:
        await bob.ask(publish={"channel": group, "data": 1})
        await page.wait_for_function("heard.includes('1')")
        # What was missed meanwhile is there.
        await page.evaluate("events.close()")
        await bob.ask(publish={"channel": group, "data": 2})
        last = await page.evaluate("last")
        await page.evaluate(LISTENS, f"group={group}&last_event_id={last}")
        await page.wait_for_function("heard.includes('2')")
        assert await page.evaluate("heard") == ["open", "2"]


# Behind proxies


async def pass_on(source, target):
    with contextlib.suppress(ConnectionError):
        while part := await source.read(65_536):
            target.write(part)
            await target.drain()
    target.close()


class Proxy:
    """In front of a process; it knows no WebSockets. ``async with``."""

    def __init__(self, server):
        self._server = server
        self._tasks = {}

    async def __aenter__(self):
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        writers = self._tasks[asyncio.current_task()] = [writer]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                return
            inside, outside = await asyncio.open_connection("127.0.0.1", self._server.port)
            writers.append(outside)
            outside.write(head)
            await asyncio.gather(pass_on(reader, outside), pass_on(inside, writer))

    async def __aexit__(self, *_):
        self._listening.close()
        for task, writers in self._tasks.items():
            task.cancel()
            for writer in writers:
                writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ws(self, path="/"):
        return f"ws://127.0.0.1:{self.port}{path}"

    def http(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"


async def goes_on_by(way, js, proxy):
    ann = await Client.connect(js, proxy, ["websocket", way])
    assert ann.transport == way
    room = f"room:{next(NAMES)}"
    await ann.subscribe(room)
    await ann.do("publish", room, {"n": 1})
    assert (await ann.hears("publication"))["data"] == {"n": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_in_a_browser_behind_a_proxy_without_upgrades_a_stream_gets_through(
    browser, site, way
):
    async with Proxy(site.uvicorn) as proxy, InPage("json", browser, proxy.http()) as page:
        await goes_on_by(way, page, proxy)


@pytest.mark.parametrize("way", WAYS)
async def test_so_it_does_in_node(js, site, way):
    async with Proxy(site.uvicorn) as proxy:
        await goes_on_by(way, js, proxy)


#: A page with client.js; what it hears, and by what it has asked.
OURS = """
async (group) => {
  const { connect } = await import("/static/filtered_websocket/client.js");
  window.heard = [];
  window.client = connect();
  const ready = new Promise((onsubscribe) =>
    client.subscribe(group, { onsubscribe, onmessage: (data) => heard.push(data) }));
  await ready;
}
"""


@pytest.mark.parametrize("way", WAYS)
async def test_client_js_goes_on_by_a_stream_by_itself(new_context, site, way):
    async with Proxy(site.uvicorn) as proxy:
        page = await (await new_context()).new_page()
        wrong, asked = [], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url.partition("?")[0]))
        if way == "sse":
            await page.route("**/http_stream", lambda route: route.abort())
        await page.goto(proxy.http())
        await page.evaluate(OURS, f"room:{next(NAMES)}")
        asks = "client.publish([...client.subscriptions.keys()][0], { shout: 'grüße' })"
        await page.evaluate(f"Promise.all([client.call('add', [1, 2]), {asks}])")
        await page.wait_for_function("heard.length")
        assert await page.evaluate("heard") == [{"shout": "GRÜSSE"}]
        assert proxy.http(f"/connection/{way}") in asked and proxy.http("/emulation") in asked
        # The way that was found is used again.
        tries = asked.count(proxy.http("/connection/http_stream"))
        await page.evaluate("client.close()")
        await page.evaluate(OURS, f"room:{next(NAMES)}")
        assert asked.count(proxy.http(f"/connection/{way}")) == 2
        again = 1 if way == "http_stream" else 0
        assert asked.count(proxy.http("/connection/http_stream")) == tries + again
        assert wrong == []


@pytest.mark.parametrize("kind", PROXIES)
async def test_proxies_pass_on_at_once(kind, folder, site):
    ports = [site.daphne.port, site.uvicorn.port]
    with running(kind, folder, ports) as proxy:
        tls = {"context": proxy.tls}
        async with Raw(proxy.port, https=tls, host=f"{HOST}:{proxy.port}") as ann:
            reply = await ann.ask(rpc={"method": "add", "data": [1, 2]})
            assert reply["rpc"]["data"] == 3
            group = f"kept:{next(NAMES)}"
            events = {"accept": "text/event-stream", "host": f"{HOST}:{proxy.port}"}
            with contextlib.closing(HTTPSConnection("127.0.0.1", proxy.port, **tls)) as link:
                link.timeout = LIMIT
                link.request("GET", f"/events/?group={group}", headers=events)
                answer = await asyncio.to_thread(link.getresponse)
                assert answer.status == 200
                await ann.ask(publish={"channel": group, "data": "to a page"})
                while await asyncio.to_thread(answer.readline) != b'data: "to a page"\n':
                    pass


# Each server


class Raw:
    """A client of streams that says what it likes, and reads when it is told. ``async with``."""

    def __init__(self, port, connect=None, https=None, **headers):
        kind = HTTPConnection if https is None else HTTPSConnection
        self._make = lambda: kind("127.0.0.1", port, timeout=LIMIT, **(https or {}))
        self._connect = json.dumps({"id": 1, "connect": connect or {}})
        self._headers = {name.title(): value for name, value in headers.items()}
        self._number = 1

    async def __aenter__(self):
        try:
            await asyncio.to_thread(self._open)
        except BaseException:
            self.link.close()
            raise
        return self

    def _open(self):
        self.link = self._make()
        self.link.request("POST", "/connection/http_stream", self._connect, self._headers)
        self.answer = self.link.getresponse()
        assert self.answer.status == 200
        self.connected = json.loads(self.answer.readline())["connect"]

    async def __aexit__(self, *_):
        self.link.close()

    async def hear(self):
        line = await asyncio.to_thread(self.answer.readline)
        return json.loads(line) if line else None

    async def say(self, *commands, **fields):
        data = "\n".join(map(json.dumps, commands))
        body = {"data": data, **{key: self.connected[key] for key in ("session", "node")}, **fields}
        return await self.status("POST", "/emulation", json.dumps(body))

    async def ask(self, **asked):
        self._number += 1
        assert await self.say({"id": self._number, **asked}) == 204
        reply = await self.hear()
        assert reply.pop("id") == self._number
        return reply

    async def status(self, method, path, body="", **headers):
        return await asyncio.to_thread(self._status, method, path, body, headers)

    def _status(self, method, path, body, headers):
        with contextlib.closing(self._make()) as link:
            link.request(method, path, body, {**self._headers, **headers})
            return link.getresponse().status


class Hypercorn(Process):
    def __init__(self, application, env):
        self.port = free_port()
        bind = ("--workers", "0", "--bind", f"127.0.0.1:{self.port}", "--graceful-timeout", "15")
        super().__init__([sys.executable, "-m", "hypercorn", *bind, application], env=env)
        self.listens_on(self.port)


SERVERS = {"daphne": Daphne, "uvicorn": Uvicorn, "hypercorn": Hypercorn}


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_serves_refuses_and_drains(site, name):
    settings = {"TEST_SETTINGS": json.dumps({"DRAIN_WINDOW": 0})}
    server = await asyncio.to_thread(SERVERS[name], APPLICATION, env=site.env | settings)
    other = {"Origin": "https://evil.example"}
    try:
        async with Raw(server.port) as ann, Raw(site.uvicorn.port) as bob:
            room = f"room:{next(NAMES)}"
            for client in (ann, bob):
                await client.ask(subscribe={"channel": room})
            assert (await bob.say({"id": 5, "publish": {"channel": room, "data": 1}})) == 204
            for session in ("nobody", ann.connected["session"] + "x"):
                assert await ann.say({}, session=session) == 404
                assert await bob.say({}, session=session, node=ann.connected["node"]) == 404
            assert await ann.status("PUT", "/emulation") == 405
            assert await ann.status("GET", "/connection/http_stream") == 405
            assert await ann.status("GET", "/connection/sse") == 400
            for path in ("/emulation", "/connection/http_stream", "/connection/sse"):
                assert await ann.status("POST", path, "{}", **other) == 403
            server.signal(signal.SIGTERM)
            while (message := await ann.hear()) is not None:
                last = message
            assert last["push"]["disconnect"]["code"] == 3001
        assert await asyncio.to_thread(server.wait) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.output and "ASGI callable" not in server.output
    finally:
        await asyncio.to_thread(server.stop)


async def emulate(port, client, command):
    """The status of the answer to a command, by a connection of its own."""
    own = {key: client.connected[key] for key in ("session", "node")}
    body = json.dumps({**own, "data": json.dumps(command)})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /emulation HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    status = int((await reader.readline()).split()[1])
    writer.transport.abort()
    return status


async def test_a_flood_by_another_process_than_the_streams_holds_up_nobody(site):
    """No more than 32 wait for a process that does not answer, and others are served."""
    add = {"rpc": {"method": "add", "data": [1, 2]}}
    async with Raw(site.daphne.port) as ann, Raw(site.uvicorn.port) as bob, limited():
        site.daphne.signal(signal.SIGSTOP)
        try:
            commands = [emulate(site.uvicorn.port, ann, {"id": 9, "ping": {}}) for _ in range(60)]
            flood = [asyncio.create_task(one) for one in commands]
            for count, one in enumerate(asyncio.as_completed(flood), 1):
                assert await one == 503
                if count == 60 - MOST_OF_ONE:
                    break
            assert (await bob.ask(**add))["rpc"]["data"] == 3
        finally:
            site.daphne.signal(signal.SIGCONT)
        answers = await asyncio.gather(*flood)
        taken = answers.count(204)
        assert taken + answers.count(503) == 60 and taken <= MOST_OF_ONE
        # All are answered in the stream, which goes on; and no process is taken for silent.
        for _ in range(taken):
            assert await ann.hear() == {"id": 9, "ping": {}}
        while await emulate(site.uvicorn.port, ann, {"id": 10, **add}) != 204:
            pass
        assert (await ann.hear())["rpc"]["data"] == 3


@pytest.mark.parametrize("name", ["daphne", "uvicorn"])
async def test_who_does_not_read_is_cut_off(js, site, name):
    server, room = getattr(site, name), f"room:{next(NAMES)}"
    ann = await Client.connect(js, site.uvicorn)
    await ann.subscribe(room, joinLeave=True)
    claims = {"sub": "slow", "channels": [room]}
    token = jwt.encode(claims, "a secret of 32 characters or more", "HS256")
    async with Raw(server.port, connect={"token": token}) as slow:
        for _ in range(2):
            joined = await ann.hears("join", channel=room)
        assert joined["info"]["user"] == "slow"
        for _ in range(160):
            await ann.do("publish", room, "x" * 65_536)
        assert (await ann.hears("leave"))["info"]["client"] == slow.connected["client"]
        with contextlib.suppress(ConnectionError, IncompleteRead):
            while await asyncio.to_thread(slow.answer.read, 1_048_576):
                pass
    assert "ASGI callable" not in server.output and "Traceback" not in server.output
