"""With DEBUG, the pages of the demo show the way of a message through the pipe."""

import pytest
import pytest_asyncio
from playwright.async_api import expect

from .sockets import connect
from .test_browser import Window

pytestmark = pytest.mark.asyncio(loop_scope="session")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest_asyncio.fixture(loop_scope="session")
async def window(new_context):
    """A phone that wants no motion."""
    context = await new_context(
        viewport={"width": 390, "height": 844}, reduced_motion="reduce", color_scheme="dark"
    )
    return Window(await context.new_page())


async def look(window, url):
    """Open the page, and have it see messages pass."""
    await window.open(url, "ann")
    await window.page.click("#tee")
    await expect(window.page.locator("#tee")).to_have_attribute("data-watches", "")
    return window.page


async def stations(page):
    """Of the filters in the picture, from top to bottom."""
    return [
        " ".join((await one.locator("strong").inner_text()).split())
        for one in await page.locator("#way-pipe .station").all()
    ]


async def test_a_message_shows_its_way_stage_by_stage(window, server):
    page = await look(window, server.http())
    async with connect(server.ws()) as bob:
        await window.say(f"  {HOSTILE} token=secret  ")
        assert await bob.recv() == f"ann:   {HOSTILE} token=secret"
    button = page.locator("#log .own .its-way")
    await expect(button).to_contain_text("3 filters")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#way")).to_be_visible()
    assert await stations(page) == ["tidy", "broadcast_messages", "stdout_messages"]
    tidy = page.locator("#way-pipe .station").first
    await expect(tidy.locator("del")).to_have_text("␣␣")
    await expect(tidy.locator(".now")).to_contain_text(f"ann:   {HOSTILE} token=***")
    text = await page.inner_text("#way")
    assert "To the group default" in text and "Through memory" in text
    assert "passed on as it was" in text and "1 browser" in text
    assert "µs" in text or "ms" in text
    assert await page.locator("#way img").count() == 0
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    assert await page.evaluate(moving) == 0
    await page.keyboard.press("Escape")
    await expect(page.locator("#way")).to_be_hidden()
    await expect(button).to_be_focused()
    assert window.wrong == []


async def test_a_message_that_is_dropped_shows_where_its_pipe_ends(window, server):
    page = await look(window, server.http())
    async with connect(server.ws()) as client:
        await client.send(" \n")
        ended = page.locator("#log .ended")
        await expect(ended).to_contain_text("was dropped by tidy")
        await ended.click()
    await expect(page.locator("#way-pipe .stops")).to_contain_text("dropped: nothing is left")
    assert await stations(page) == ["tidy"]
    await expect(page.locator("#way-pipe .end")).to_have_count(0)
    await page.click("#way-close")
    # What comes while nobody looks is not seen.
    await page.click("#tee")
    await window.say("unseen")
    await window.shows("unseen", "ann")
    await page.click("#tee")
    await expect(page.locator("#tee")).to_have_attribute("data-watches", "")
    await window.say("seen")
    await expect(page.locator("#log .message").last.locator(".its-way")).to_have_count(1)
    await expect(page.locator("#log .message .its-way")).to_have_count(1)
    assert window.wrong == []


async def test_a_room_shows_the_way_to_all_who_are_there(window, server):
    page = await look(window, server.http("/rooms/pipe/"))
    await window.say("  hello ")
    button = page.locator("#log .message .its-way")
    await expect(button).to_contain_text("1 filter")
    await page.locator("#log .message .text").click()
    assert await stations(page) == ["tidy_said"]
    text = await page.inner_text("#way")
    assert "To the group room:pipe" in text and "1 browser" in text
    assert window.wrong == []
