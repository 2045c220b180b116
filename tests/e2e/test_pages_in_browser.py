"""Scripts that pages of the documentation show, in a real browser on the example's server."""

import asyncio
import re

import pytest
import pytest_asyncio

from ..javascript.clients import PACKAGES, install
from ..snippets import named
from ..waiting import limited

pytestmark = pytest.mark.asyncio(loop_scope="session")

#: Bundlers find these by their name: here the page does.
IMPORTS = """
<script src="/npm/centrifuge/dist/centrifuge.js"></script>
<script type="importmap">
  {"imports": {"centrifuge": "data:text/javascript,export const { Centrifuge } = window;"}}
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
  async function seen(name) {
    for (;;) {
      const found = noted.find(([of]) => of === name);
      if (found) return found.slice(1);
      await new Promise((woken) => { wake = woken; });
    }
  }
</script>
"""


class Pages:
    """Pages of the example's origin, with blocks in them."""

    def __init__(self, context, server):
        self._context = context
        self._server = server

    async def open(self, *parts):
        html = "<!doctype html><title>a page</title>" + NOTES + "".join(parts)
        html = re.sub(r"{% static '(.+?)' %}", r"/static/\1", html)
        page = await self._context.new_page()
        self.wrong = []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        await page.route(
            self._server.http("/npm/**"),
            lambda route: route.fulfill(path=PACKAGES / route.request.url.partition("/npm/")[2]),
        )
        await self._prepare(page)
        # One of the server's: Chromium lets no other open sockets to this machine.
        await page.goto(self._server.http("/health/live"))
        await page.set_content(html)
        return page

    async def _prepare(self, page):
        """For a test that has to do something before the page is opened."""


@pytest_asyncio.fixture(loop_scope="session")
async def pages(new_context, server):
    return Pages(await new_context(), server)


async def seen(page, name):
    async with limited():
        return await page.evaluate("name => seen(name)", name)


async def test_the_client_for_pages(pages):
    page = await pages.open(named("docs/client.md")["page"])
    assert await seen(page, "show") == [{"name": "guest", "text": "hello"}]
    assert await seen(page, "add") and pages.wrong == []


async def test_centrifuge_js(pages):
    install()
    page = await pages.open(IMPORTS, named("docs/centrifuge.md")["page"].replace("wss:", "ws:"))
    message, user = await seen(page, "log")
    assert message == {"name": "guest", "text": "hello"} and not user
    assert pages.wrong == []


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
    assert opened.empty() and pages.wrong == []
