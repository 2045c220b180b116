"""The demo page in a real browser."""

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect

from ..waiting import limited
from .processes import Daphne

HOSTILE = "<img src=x onerror=alert(1)>"


class Window:
    """One browser window on the demo page, and everything that went wrong in it."""

    def __init__(self, page):
        self.page = page
        self.wrong = []
        page.on("console", lambda m: m.type == "error" and self.wrong.append(m.text))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", self._dialog)

    async def _dialog(self, dialog):
        self.wrong.append(f"a dialog opened: {dialog.message}")
        await dialog.dismiss()

    async def open(self, url, name):
        await self.page.goto(url)
        await self.page.fill("#name", name)
        await self.is_connected()
        return self

    async def is_connected(self):
        await expect(self.page.locator('body[data-state="open"]')).to_have_count(1, timeout=30_000)

    async def say(self, text):
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def shows(self, text, author):
        message = self.page.locator("#log .message", has=self.page.get_by_text(text, exact=True))
        await expect(message.last.locator(".text")).to_have_text(text)
        await expect(message.last.locator(".author")).to_have_text(author)


@pytest.fixture
async def windows(browser):
    """Two windows that share nothing, not even cookies."""
    return [Window(await (await browser.new_context()).new_page()) for _ in range(2)]


async def test_two_windows_chat_with_each_other(windows, server):
    ann, bob = windows
    await ann.open(server.http(), "ann")
    await bob.open(server.http(), "bob")
    await ann.say("Hello, Bob")
    await bob.shows("Hello, Bob", "ann")
    await bob.say("Hello, Ann. Grüße, 世界")
    await ann.shows("Hello, Ann. Grüße, 世界", "bob")
    assert ann.wrong == bob.wrong == []


async def test_a_message_is_shown_as_text_never_as_html(windows, server):
    ann, bob = windows
    await ann.open(server.http(), "ann")
    await bob.open(server.http(), HOSTILE[:24])
    await ann.say(HOSTILE)
    await bob.shows(HOSTILE, "ann")
    await bob.say(HOSTILE)
    await ann.shows(HOSTILE, HOSTILE[:24])
    for window in windows:
        assert await window.page.locator("#log img").count() == 0
        assert window.wrong == []


async def test_a_command_line_client_and_a_window_chat(windows, server):
    window = await windows[0].open(server.http("/rooms/lab/"), "ann")
    async with connect(server.ws("/rooms/lab/")) as client:
        await client.send("from a terminal")
        await window.shows("FROM A TERMINAL", "guest")
        await window.say("from a window")
        async with limited():
            assert await client.recv() == "ANN: FROM A WINDOW"


async def test_the_page_shows_the_pipeline_it_talks_to(windows, server):
    lobby = await windows[0].open(server.http(), "ann")
    room = await windows[1].open(server.http("/rooms/lab/"), "bob")
    text = await lobby.page.inner_text("body")
    assert "tidy | broadcast_messages | stdout_messages" in " ".join(text.split())
    text = await room.page.inner_text("body")
    assert "tidy | shout | broadcast_messages" in " ".join(text.split())


async def test_the_page_comes_back_by_itself(windows, database):
    first = Daphne(env=database)
    try:
        window = await windows[0].open(first.http(), "ann")
    finally:
        first.stop()
    await expect(window.page.locator('body[data-state="waiting"]')).to_have_count(1, timeout=20_000)
    again = Daphne(env=database, port=first.port)
    try:
        await window.is_connected()
        async with connect(again.ws()) as client:
            await window.say("back again")
            async with limited():
                assert await client.recv() == "ann: back again"
    finally:
        again.stop()
