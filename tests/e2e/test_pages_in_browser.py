"""Scripts that pages of the documentation show, in a real browser on a server of their blocks."""

import asyncio
import json
import os
import re
import subprocess

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import expect

from ..javascript.clients import PACKAGES, install
from ..snippets import named
from ..waiting import limited
from .pages_settings import FILTERED_WEBSOCKET
from .processes import Daphne
from .sockets import connect

pytestmark = pytest.mark.asyncio(loop_scope="session")

#: Bundlers find this by its name: here the page does.
IMPORTS = """
<script src="/npm/centrifuge/dist/centrifuge.js"></script>
<script type="importmap">
  {"imports": {"centrifuge": "data:text/javascript,\
export const { Centrifuge } = window; export const { UnauthorizedError } = Centrifuge;"}}
</script>
"""
#: What the scripts call, and how a test waits for it.
NOTES = """
<script>
  const noted = [];
  let wake = () => {};
  const note = (name) => (...what) => { noted.push([name, ...what]); wake(); };
  const [show, showAll, add, remove] = ["show", "showAll", "add", "remove"].map(note);
  console.log = note("log");
  async function seen(name, count = 1) {
    for (;;) {
      const found = noted.filter(([of]) => of === name);
      if (found.length >= count) return found[count - 1].slice(1);
      await new Promise((woken) => { wake = woken; });
    }
  }
</script>
"""
#: Where pages load packages from -> where they are installed.
ON_CDN = "https://cdn.jsdelivr.net/npm/"
INSTALLED = {
    "htmx.org@4/": "htmx.org/",
    "htmx.org@2/": "htmx-ext-ws/node_modules/htmx.org/",
    "htmx-ext-ws@2/": "htmx-ext-ws/",
    "pusher-js@8/": "pusher-js/",
    "/npm/": "",
}


@pytest.fixture(scope="module")
def site(database):
    process = Daphne(
        "tests.e2e.pages_site:application",
        env={**database, "DJANGO_SETTINGS_MODULE": "tests.e2e.pages_settings"},
    )
    yield process
    process.stop()


class Pages:
    """Pages of the site's origin, with blocks in them."""

    def __init__(self, context, site):
        self._context = context
        self.site = site
        self.wrong = []

    async def open(self, *parts, at="/"):
        html = "<!doctype html><title>a page</title>" + NOTES + "".join(parts)
        html = re.sub(r"{% static '(.+?)' %}", r"/static/\1", html)
        page = await self._context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        for address in (self.site.http("/npm/**"), f"{ON_CDN}**"):
            await page.route(address, self._install)
        await self._prepare(page)
        # One of the server's: Chromium lets no other open sockets to this machine.
        await page.goto(self.site.http(at))
        await page.set_content(html)
        return page

    async def _install(self, route):
        url = route.request.url
        prefix = next(prefix for prefix in INSTALLED if prefix in url)
        await route.fulfill(path=PACKAGES / INSTALLED[prefix] / url.partition(prefix)[2])

    async def _prepare(self, page):
        """For a test that has to do something before the page is opened."""


@pytest_asyncio.fixture(loop_scope="session")
async def pages(new_context, site):
    pages = Pages(await new_context(), site)
    yield pages
    assert pages.wrong == []


async def seen(page, name, count=1):
    async with limited():
        return await page.evaluate("([name, count]) => seen(name, count)", [name, count])


class Other:
    """Another client of the site, that speaks the protocol by hand."""

    def __init__(self, site):
        self._socket = connect(site.ws("/connection/websocket"))

    async def __aenter__(self):
        self.socket = await self._socket.__aenter__()
        await self.ask(connect={})
        return self

    async def __aexit__(self, *error):
        await self._socket.__aexit__(*error)

    async def ask(self, **command):
        await self.socket.send(json.dumps({"id": 1, **command}))
        async with limited():
            while "id" not in (reply := json.loads(await self.socket.recv())):
                pass
        return reply

    async def say_when_there(self, group, data, count=1):
        """Publish once so many are in the group."""
        async with limited():
            while True:
                reply = await self.ask(presence_stats={"channel": group})
                if reply["presence_stats"]["num_clients"] >= count:
                    break
        await self.ask(publish={"channel": group, "data": data})


async def test_the_client_for_pages(pages):
    page = await pages.open(named("docs/client.md")["page"])
    assert await seen(page, "show") == [{"text": "hello"}]
    assert await seen(page, "add")


async def test_centrifuge_js(pages):
    install()
    page = await pages.open(IMPORTS, named("docs/centrifuge.md")["page"].replace("wss:", "ws:"))
    message, user = await seen(page, "log")
    assert message == {"text": "hello"} and not user


async def test_a_page_whose_socket_fails_gets_a_stream(pages):
    """There is no TLS here, so that its WebSocket fails."""
    install()
    page = await pages.open(IMPORTS, named("docs/streams.md")["page"])
    assert await seen(page, "log") == ["http_stream"]


async def test_a_page_that_only_listens(pages, site):
    page = await pages.open(named("docs/streams.md")["listen"])
    async with Other(site) as other:
        await other.say_when_there("room:7", {"text": "hello"})
    assert await seen(page, "show") == [{"text": "hello"}]


async def test_a_script_comes_back_by_itself(pages, monkeypatch):
    """The server of the page is this test: it restarts once, and then has closed for good."""
    opened = asyncio.Queue()

    async def prepare(page):
        await page.route_web_socket("wss://example.com/", opened.put_nowait)

    monkeypatch.setattr(pages, "_prepare", prepare)
    blocks = named("docs/reconnecting.md")
    # A module, as that is run after what is deferred.
    script = f'<script type="module">{blocks["reconnect"]}</script>'
    page = await pages.open(blocks["script"], script)
    for code in (4200, 1000):
        async with limited():
            socket = await opened.get()
        await socket.close(code=code)
    assert await page.evaluate("new Reconnect().closed(1000)") is None
    assert opened.empty()


async def test_calls_have_answers(pages):
    page = await pages.open(named("docs/calls.md")["page"])
    assert await seen(page, "show") == ["kettle: 3"]
    assert await seen(page, "show", 2) == ["log in first"]


async def test_a_dashboard_begins_with_the_latest_numbers_and_follows_them(pages):
    async with Other(pages.site) as task:
        numbers = {"users": 3, "active": 2}
        await task.ask(publish={"channel": "dashboard:users", "data": numbers})
        page = await pages.open(named("docs/dashboard.md")["page"])
        await expect(page.locator("#users")).to_have_text("3")
        await task.ask(publish={"channel": "dashboard:users", "data": {**numbers, "active": 3}})
        await expect(page.locator("#active")).to_have_text("3")


async def test_front_ends_without_a_bundler(pages):
    page = await pages.open(named("docs/frontend.md")["plain page"])
    async with Other(pages.site) as other:
        await other.say_when_there("room:7", {"text": "hi"})
    assert await seen(page, "show") == [{"text": "hi"}]


#: How a page puts a component into itself.
MAIN = {
    "React": """
        import { createRoot } from "react-dom/client";
        import { Room } from "./Room.jsx";
        createRoot(document.getElementById("app")).render(<Room name="NAME" />);
    """,
    "Vue": """
        import { createApp } from "vue";
        import Room from "./Room.vue.js";
        createApp(Room, { name: "NAME" }).mount("#app");
    """,
}
FILES = {
    "React": {"useGroup.jsx": "useGroup.jsx", "Room.jsx": "Room.jsx"},
    "Vue": {"useGroup.js": "useGroup.js", "Room.vue": "Room.vue.js"},
}


async def bundled(file):
    """A script with all that it imports."""
    command = [
        *(PACKAGES / "esbuild" / "bin" / "esbuild", file, "--bundle"),
        *("--format=esm", "--jsx=automatic", '--define:process.env.NODE_ENV="production"'),
    ]
    env = {**os.environ, "NODE_PATH": str(PACKAGES)}
    return await asyncio.to_thread(subprocess.check_output, command, env=env, text=True)


@pytest.mark.parametrize("framework", MAIN)
async def test_a_component_shows_what_is_said(pages, tmp_path, framework):
    install()
    blocks = named("docs/frontend.md")
    (tmp_path / "live.js").write_text(blocks["live.js"])
    for label, name in FILES[framework].items():
        (tmp_path / name).write_text(blocks[label])
    (tmp_path / "main.jsx").write_text(MAIN[framework].replace("NAME", framework))
    bundle = await bundled(tmp_path / "main.jsx")
    page = await pages.open('<div id="app"></div>')
    await page.add_script_tag(type="module", content=bundle)
    async with Other(pages.site) as other:
        await other.say_when_there(f"room:{framework}", {"text": "hi"})
        await other.ask(publish={"channel": f"room:{framework}", "data": {"text": "again"}})
    await expect(page.locator("li")).to_have_text(["hi", "again"])


@pytest.mark.parametrize("library", ["pusher.js", "echo.js"])
async def test_libraries_of_pusher(pages, tmp_path, library):
    install()
    file = tmp_path / library
    file.write_text(named("docs/frontend.md")[library])
    page = await pages.open(at="/log-in/")
    await page.add_script_tag(type="module", content=await bundled(file))
    async with Other(pages.site) as other:
        await other.say_when_there("presence-room-7", {"text": "hi"})
    assert await seen(page, "show") == [{"text": "hi"}]


async def test_a_template_for_pusher_js(pages):
    install()
    # The page, and not its cookie, says what the token is.
    token = "document.cookie.match(/csrftoken=(\\w+)/)[1]"
    html = named("docs/pusher.md")["page"].replace('"{{ csrf_token }}"', token)
    page = await pages.open(html, at="/log-in/")
    assert await seen(page, "log") == [1, "here"]
    async with Other(pages.site) as other:
        await other.say_when_there("presence-room-7", {"text": "hi"})
    assert await seen(page, "log", 2) == [{"text": "hi"}]


async def test_an_app_asks_for_a_token_and_stays_away_without_one(pages, monkeypatch):
    install()
    site, key = pages.site, FILTERED_WEBSOCKET["JWT_KEY"]
    answers = [{"status": 200, "json": {"token": jwt.encode({"sub": "5"}, key, "HS256")}}]

    async def prepare(page):
        await page.route(
            "**/live/token/",
            lambda route: route.fulfill(**(answers.pop() if answers else {"status": 401})),
        )

    monkeypatch.setattr(pages, "_prepare", prepare)
    script = named("docs/spa.md")["live.js"].replace("export ", "window.")
    for old, new in (("https:", "http:"), ("wss:", "ws:")):
        script = script.replace(f"{old}//api.example.com", site.http("").replace("http:", new))
    script = script.replace("window.const client", "window.client")
    page = await pages.open(IMPORTS, f'<script type="module">{script}</script>')
    async with Other(site) as other:
        await page.evaluate("client.newSubscription('room:spa').subscribe()")
        await other.say_when_there("room:spa", "hi")
        there = await other.ask(presence={"channel": "room:spa"})
        assert [one["user"] for one in there["presence"]["presence"].values()] == ["5"]
    await page.evaluate("client.disconnect(); client.setToken(''); client.connect()")
    await page.wait_for_function("client.state === 'disconnected'")


@pytest.mark.parametrize("version", ["htmx 4", "htmx 2"])
async def test_htmx_shows_what_is_said_also_after_a_restart(pages, monkeypatch, version):
    install()
    opened = []

    async def serve(socket):
        """The first one is closed as by a server that restarts."""
        opened.append(socket)
        if len(opened) > 1:
            socket.connect_to_server()
        else:
            await socket.close(code=4200)

    async def prepare(page):
        await page.route_web_socket("**/chat/", serve)
        # It waits for a random time, so that not all clients come at once.
        await page.add_init_script("Math.random = () => 0")

    monkeypatch.setattr(pages, "_prepare", prepare)
    page = await pages.open(named("docs/htmx.md")[version])
    async with limited():
        while len(opened) < 2:  # noqa: ASYNC110 - Playwright tells it by a call
            await asyncio.sleep(0.01)
    await page.fill("[name=text]", "<b>hello")
    await page.press("[name=text]", "Enter")
    await expect(page.locator("#log li")).to_have_text(["AnonymousUser: <b>hello"])
