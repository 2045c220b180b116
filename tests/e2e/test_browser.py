"""The demo page in a real browser."""

import json
import re

import pytest
import pytest_asyncio
from playwright.async_api import expect

from ..waiting import limited
from .processes import Daphne
from .sockets import connect

pytestmark = pytest.mark.asyncio(loop_scope="session")
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
        await self.is_connected()
        await self.page.fill("#name", name)
        # A room takes it when it is complete, and joins its group anew.
        await self.page.press("#name", "Tab")
        if await self.page.locator("#people").count():
            await expect(self.page.locator("#people .you")).to_have_text(name)
        return self

    async def is_connected(self):
        await expect(self.page.locator('body[data-state="open"]')).to_have_count(1)

    async def say(self, text):
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def shows(self, text, author):
        message = self.page.locator("#log .message", has=self.page.get_by_text(text, exact=True))
        await expect(message.last.locator(".text")).to_have_text(text)
        await expect(message.last.locator(".author")).to_have_text(author)


@pytest_asyncio.fixture(loop_scope="session")
async def window(new_context):
    return Window(await (await new_context()).new_page())


@pytest_asyncio.fixture(loop_scope="session")
async def windows(new_context):
    """Two windows that share nothing, not even cookies."""
    return [Window(await (await new_context()).new_page()) for _ in range(2)]


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


async def test_a_command_line_client_and_a_window_chat(window, server):
    await window.open(server.http("/rooms/lab/"), "ann")
    async with connect(server.ws("/rooms/lab/")) as client:
        await client.send("from a terminal")
        await window.shows("FROM A TERMINAL", "guest")
        await window.say("from a window")
        async with limited():
            assert json.loads(await client.recv()) == {"name": "ann", "text": "from a window"}


async def test_the_page_shows_the_pipeline_it_talks_to(windows, server):
    lobby = await windows[0].open(server.http(), "ann")
    room = await windows[1].open(server.http("/rooms/lab/"), "bob")
    text = await lobby.page.inner_text("body")
    assert "tidy | broadcast_messages | stdout_messages" in " ".join(text.split())
    text = await room.page.inner_text("body")
    assert "| tidy_said" in " ".join(text.split())


async def test_what_the_empty_page_proposes_works(window, server):
    await window.open(server.http("/rooms/proposal/"), "ann")
    async with window.page.context.expect_page() as opened:
        await window.page.click("text=Open this page in a second window")
    second = Window(await opened.value)
    await second.is_connected()
    await second.page.evaluate(f"async () => {{{await second.page.inner_text('#command')}}}")
    await window.shows("hello", "guest")
    assert window.wrong == second.wrong == []


async def test_where_static_files_are_not_served_the_page_says_so(window, server):
    told = window.page.get_by_text("The static files of this page are not served")
    await window.open(server.http(), "ann")
    await expect(told).to_be_hidden()
    await window.page.route("**/static/**", lambda route: route.fulfill(status=404))
    await window.page.goto(server.http())
    await expect(told).to_be_visible()


async def test_own_text_is_marked_as_typed_where_the_server_does_not_send_it_back(window, server):
    await window.open(server.http(), "ann")
    await window.say("quiet")
    await window.shows("quiet", "ann")
    await window.say("too")
    await expect(window.page.locator(".own .typed")).to_have_text(["as you typed it"] * 2)
    await expect(window.page.locator("#log .explains")).to_have_count(1)


async def test_a_room_shows_who_is_here_and_who_types(windows, server):
    ann, bob = windows
    await ann.open(server.http("/rooms/garden/"), "ann")
    await bob.open(server.http("/rooms/garden/"), HOSTILE[:24])
    await expect(ann.page.locator("#people li")).to_have_text(["ann", HOSTILE[:24]])
    await expect(ann.page.locator("#people .you")).to_have_text("ann")
    await ann.page.type("#text", "I am")
    await expect(bob.page.locator("#typing")).to_have_text("ann is typing")
    await ann.say("I am here")
    await bob.shows("I am here", "ann")
    await expect(bob.page.locator("#typing")).to_be_empty()
    await ann.page.close()
    await expect(bob.page.locator("#people li")).to_have_text([HOSTILE[:24]])
    assert ann.wrong == bob.wrong == []


async def test_a_room_shows_the_last_messages_and_those_that_were_missed(windows, server):
    ann, bob = windows
    await ann.open(server.http("/rooms/kept/"), "ann")
    await bob.open(server.http("/rooms/kept/"), "bob")
    for number in range(51):
        await ann.say(f"number {number}")
        await ann.shows(f"number {number}", "ann")
    await bob.shows("number 50", "ann")
    await bob.page.context.set_offline(True)
    await expect(bob.page.locator('body[data-state="open"]')).to_have_count(0)
    await ann.say("missed")
    await ann.shows("missed", "ann")
    await bob.page.context.set_offline(False)
    await bob.shows("missed", "ann")
    notices = ["While you were away:", "Connected again."]
    await expect(bob.page.locator("#log .notice")).to_have_text(notices)
    await ann.page.reload()
    await ann.shows("missed", "ann")
    await expect(ann.page.locator("#log .message")).to_have_count(50)


async def test_own_text_is_what_comes_back_where_the_server_sends_it_back(window, database):
    env = {**database, "DJANGO_SETTINGS_MODULE": "tests.e2e.self_settings"}
    process = Daphne(env=env)
    try:
        await window.open(process.http(), "ann")
        await window.say("  quiet  ")
        await window.shows("QUIET", "ANN")
        await expect(window.page.locator("#log .message.own")).to_have_count(1)
        await expect(window.page.locator("#log .message")).to_have_count(1)
        await expect(window.page.locator(".typed")).to_have_count(0)
    finally:
        process.stop()


#: Counts the attempts of a page, and sends them to a path that no route serves.
ASTRAY = """
window.attempts = 0;
window.WebSocket = class extends WebSocket {
    constructor(url) {
        super(url + window.astray);
        document.documentElement.dataset.attempts = ++window.attempts;
    }
};
window.astray = "nowhere/";
"""


async def test_a_socket_that_is_refused_again_and_again_is_told_so(window, server):
    page = window.page
    await page.add_init_script(ASTRAY)
    await page.goto(server.http())
    await expect(page.locator("#refused")).to_be_visible(timeout=60_000)
    text = await page.inner_text("#refused")
    assert "Its log says why" in text and "manage.py check" in text
    await expect(page.locator("#status")).to_contain_text("refused")
    assert await page.evaluate("attempts") >= 3
    await page.evaluate("astray = ''; dispatchEvent(new Event('online'))")
    await window.is_connected()
    await expect(page.locator("#refused")).to_be_hidden()


#: Holds the page's next question by HTTP until "answer" is called, which returns when it is done.
HOLD = """
const fetched = window.fetch;
window.fetch = (...question) => new Promise((resolve) => {
    window.fetch = fetched;
    window.answer = async () => {
        resolve(await fetched(...question));
        await new Promise((done) => setTimeout(done));
    };
    document.documentElement.dataset.held = "yes";
});
"held"  // what ends in a function would be called
"""


@pytest.mark.parametrize("path", ["/", "/rooms/one/"])
async def test_an_answer_that_comes_late_does_not_say_refused(window, server, path):
    """The page asks by HTTP why it was refused, and is connected when that is answered."""
    page = window.page
    await page.add_init_script(ASTRAY)
    await page.goto(server.http(path))
    await expect(page.locator("#refused")).to_be_visible()
    await page.evaluate(HOLD)
    await expect(page.locator("html")).to_have_attribute("data-held", "yes")
    await page.evaluate("astray = ''; dispatchEvent(new Event('online'))")
    await window.is_connected()
    await expect(page.locator("#refused")).to_be_hidden()
    await page.evaluate("answer()")
    await expect(page.locator("#refused")).to_be_hidden()


@pytest.mark.parametrize("answer", [None, 502])
async def test_a_server_that_is_away_is_not_said_to_refuse(window, server, answer):
    """By no answer at all, or by what a proxy in front answers in its place."""
    page = window.page
    await page.add_init_script(ASTRAY)
    await page.goto(server.http())
    if answer is None:
        await page.route("**/*", lambda route: route.abort())
    else:
        await page.route("**/*", lambda route: route.fulfill(status=answer))
    enough = re.compile(r"[5-9]|\d\d")
    await expect(page.locator("html")).to_have_attribute("data-attempts", enough)
    await expect(page.locator("#status")).to_contain_text(re.compile("reconnecting|connecting"))
    await expect(page.locator("#refused")).to_be_hidden()


@pytest.mark.parametrize("path", ["/", "/rooms/a-room-with-quite-a-long-name/"])
async def test_on_a_phone_most_of_the_screen_is_the_chat(new_context, server, path):
    context = await new_context(viewport={"width": 390, "height": 844})
    window = await Window(await context.new_page()).open(server.http(path), "ann")
    share = "document.querySelector('main').getBoundingClientRect().height / innerHeight"
    assert await window.page.evaluate(share) > 0.75
    await window.say("hello")
    await window.shows("hello", "ann")
    log = "document.getElementById('log').getBoundingClientRect().height / innerHeight"
    assert await window.page.evaluate(log) > 0.6
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not await window.page.evaluate(wide)


async def test_the_page_comes_back_by_itself(window, database):
    first = Daphne(env=database)
    try:
        await window.open(first.http(), "ann")
    finally:
        first.stop()
    await expect(window.page.locator('body[data-state="waiting"]')).to_have_count(1)
    again = Daphne(env=database, port=first.port)
    try:
        await window.is_connected()
        async with connect(again.ws()) as client:
            await window.say("back again")
            async with limited():
                assert await client.recv() == "ann: back again"
    finally:
        again.stop()
