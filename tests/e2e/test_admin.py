"""Tokens in Django's admin, in a real browser."""

import re

import pytest
import pytest_asyncio
from playwright.async_api import Error, expect

from .processes import Daphne, manage

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIST = "/admin/filtered_websocket/token/"
PASSWORD = "a password for tests"

#: A page's WebSocket with a token; window.ending tells how it was closed.
CONNECT = """
key => new Promise((resolve, reject) => {
    const url = location.origin.replace("http", "ws");
    const socket = new WebSocket(url, ["fws", `fws.token.${key}`]);
    window.ending = new Promise(tell => {
        socket.onclose = event => tell([event.code, event.reason]);
    });
    socket.onopen = () => resolve(socket.protocol);
    socket.onerror = () => reject(new Error("refused"));
})
"""


@pytest.fixture(scope="module")
def superuser(database):
    names = {"USERNAME": "boss", "EMAIL": "boss@example.com", "PASSWORD": PASSWORD}
    env = {f"DJANGO_SUPERUSER_{name}": value for name, value in names.items()}
    manage({**database, **env}, "createsuperuser", "--noinput", "-v", "0")
    return names["USERNAME"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def session(browser, server, superuser):
    """The cookies of somebody who has logged in to the admin."""
    async with await browser.new_context(base_url=server.http()) as context:
        page = await context.new_page()
        await page.goto("/admin/")
        await page.fill("#id_username", superuser)
        await page.fill("#id_password", PASSWORD)
        await page.click("[type=submit]")
        await expect(page.locator("#user-tools")).to_contain_text(superuser)
        return await context.storage_state()


@pytest_asyncio.fixture(loop_scope="session")
async def page(request, new_context, session):
    """A window of the admin that may use the clipboard."""
    name = getattr(request, "param", "server")
    base_url = request.getfixturevalue(name).http()
    context = await new_context(base_url=base_url, storage_state=session)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    assert wrong == []


async def create(page, name):
    """A token by the form; its key."""
    await page.goto(f"{LIST}add/")
    await page.fill("#id_name", name)
    await page.click("[name=_save]")
    return await page.inner_text("#fws-key")


async def copied(page):
    await page.click("#fws-copy")
    await expect(page.locator("#fws-copied")).not_to_be_empty()
    said = await page.inner_text("#fws-copied")
    return said, await page.evaluate("navigator.clipboard.readText()")


async def test_a_key_is_shown_once_copied_and_never_again(page, server):
    key = await create(page, "once")
    assert re.fullmatch(r"fws_[\w-]{43}", key)
    assert await copied(page) == ("Copied", key)
    await page.click("text=Done")
    await expect(page.locator("#id_name")).to_have_value("once")
    seen = [await page.content()]
    for url in (LIST, "/admin/"):
        await page.goto(url)
        seen.append(await page.content())
    assert all(key[:12] in content and key not in content for content in seen)
    assert key not in server.output


LINES = {
    "fws-js": 'new WebSocket("{url}", ["fws", "fws.token.{key}"])',
    "fws-header": "Authorization: Token {key}",
    "fws-subprotocol": "Sec-WebSocket-Protocol: fws, fws.token.{key}",
}


async def test_the_page_with_a_key_says_how_to_connect_with_it(page, server):
    key = await create(page, "how")
    for name, line in LINES.items():
        await page.evaluate("navigator.clipboard.writeText('')")
        await page.click(f"[data-copies={name}]")
        await expect(page.locator("#fws-copied")).to_have_text("Copied")
        got = await page.evaluate("navigator.clipboard.readText()")
        assert got == line.format(key=key, url=server.ws())
    user = await page.context.new_page()
    await user.goto("/")
    # What is copied is a line that works.
    code = LINES["fws-js"].format(key=key, url=server.ws())
    opened = f"new Promise(tell => {{ const s = {code}; s.onopen = () => tell(s.protocol); }})"
    assert await user.evaluate(opened) == "fws"


async def test_the_list_fits_on_a_small_screen_and_states_differ_by_more_than_words(page):
    await page.set_viewport_size({"width": 1280, "height": 800})
    for name in ("a long name of a lamp", "closed"):
        await page.goto(f"{LIST}add/")
        await page.fill("#id_name", name)
        await page.fill("#id_expires_at_0", "2100-01-02")
        await page.fill("#id_expires_at_1", "03:04")
        await page.click("[name=_save]")
        await expect(page.locator("#fws-key")).to_be_visible()
    await page.click("text=Done")
    await page.click("text=Revoke")
    await page.click("#content [type=submit]")
    await expect(page.locator("#id_name")).to_have_value("closed")
    await page.goto(LIST)
    cut = "e => e.scrollWidth > e.clientWidth"
    assert not await page.locator("#changelist .results").evaluate(cut)
    for column in ("Expires", "Last used"):
        await expect(page.get_by_role("columnheader", name=column)).to_be_in_viewport(ratio=1)
    expires = page.locator(".field-expires time").first
    await expect(expires).to_have_text(re.compile(r"^in \d+\syears$"))
    assert "2100" in await expires.get_attribute("title")
    colours = {
        await page.locator(state).first.evaluate("e => getComputedStyle(e).backgroundColor")
        for state in (".fws-active", ".fws-revoked")
    }
    assert len(colours) == 2


async def test_loading_the_page_with_a_key_again_shows_another(page):
    key = await create(page, "twice")
    async with page.expect_navigation():
        await page.evaluate("location.reload()")
    again = await page.inner_text("#fws-key")
    assert again != key
    await page.goto(LIST)
    assert await page.get_by_role("link", name="twice", exact=True).count() == 2


async def test_going_back_the_browser_has_kept_no_key(page):
    await create(page, "back")
    await page.goto(LIST)
    # Chromium's "Confirm Form Resubmission".
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        await page.go_back()


async def test_where_there_is_no_clipboard_a_key_is_copied_as_of_old(page):
    await page.add_init_script("delete Navigator.prototype.clipboard")
    key = await create(page, "plain")
    await page.click("#fws-copy")
    await expect(page.locator("#fws-copied")).to_have_text("Copied")
    await page.evaluate("document.body.innerHTML = '<textarea id=paste></textarea>'")
    await page.press("#paste", "Control+v")
    await expect(page.locator("#paste")).to_have_value(key)


async def test_where_nothing_copies_the_key_is_selected(page):
    await page.add_init_script(
        "delete Navigator.prototype.clipboard; Document.prototype.execCommand = () => false"
    )
    key = await create(page, "by hand")
    await page.click("#fws-copy")
    await expect(page.locator("#fws-copied")).to_have_text("Selected: copy it by hand")
    assert await page.evaluate("getSelection().toString()") == key


async def test_a_key_is_rotated_after_a_question(page):
    old = await create(page, "rotated")
    await page.click("text=Done")
    await page.click("text=Rotate key")
    await page.click("text=No, take me back")
    await expect(page.locator(".field-prefix .readonly")).to_have_text(old[:12])
    await page.click("text=Rotate key")
    await page.click("#content [type=submit]")
    new = await page.inner_text("#fws-key")
    assert new != old
    assert await copied(page) == ("Copied", new)
    await page.click("text=Done")
    await expect(page.locator(".field-prefix .readonly")).to_have_text(new[:12])


async def test_tokens_are_revoked_by_the_action(page):
    await create(page, "revoked one")
    await create(page, "revoked two")
    await page.goto(f"{LIST}?q=revoked")
    for row in await page.locator("#result_list tbody tr").all():
        await row.locator(".action-select").check()
    await page.select_option("[name=action]", "revoke_selected")
    await page.click("[name=index]")
    await expect(page.locator(".messagelist .success")).to_have_text("2 tokens were revoked.")
    await expect(page.locator(".field-state")).to_have_text(["revoked", "revoked"])
    await page.click("text=revoked one")
    await expect(page.locator("text=Rotate key")).to_have_count(0)


async def test_a_whole_key_in_the_search_box_does_not_leave_it(page, server):
    key = await create(page, "searched")
    await page.goto(LIST)
    await page.fill("#searchbar", f" {key} ")
    async with page.expect_navigation():
        await page.press("#searchbar", "Enter")
    await expect(page.locator("#result_list tbody tr")).to_have_count(1)
    assert key[:12] in page.url
    assert key not in page.url
    assert key not in server.output


async def test_a_page_is_closed_with_4401_when_its_token_is_revoked(page, server):
    key = await create(page, "of a page")
    await page.click("text=Done")
    await expect(page.locator("#id_name")).to_have_value("of a page")
    await page.reload()
    assert key not in await page.content()

    user = await page.context.new_page()
    await user.goto("/")
    assert await user.evaluate(CONNECT, key) == "fws"
    # The admin sees it.
    await page.reload()
    await expect(page.locator(".field-connections .readonly")).to_have_text("1")

    await page.goto(f"{LIST}?q=of+a+page")
    await page.locator("#result_list tbody tr .action-select").check()
    await page.select_option("[name=action]", "revoke_selected")
    await page.click("[name=index]")
    await expect(page.locator(".messagelist .success")).to_have_text("1 token was revoked.")
    code, reason = await user.evaluate("window.ending")
    assert (code, reason) in ((4401, "token revoked"), (4401, ""))

    # And nobody comes in with it again.
    refused = await user.evaluate(f"({CONNECT})({key!r}).catch(error => error.message)")
    assert refused == "refused"
    assert not re.search(re.escape(key[12:]), server.output)


@pytest.fixture
def with_apps(database):
    server = Daphne(env={**database, "DJANGO_SETTINGS_MODULE": "tests.e2e.admin_settings"})
    yield server
    server.stop()


@pytest.mark.parametrize("page", ["with_apps"], indirect=True)
async def test_the_secret_of_a_pusher_app_and_its_master_key_are_copied(page):
    await page.goto("/admin/filtered_websocket/pusherapp/add/")
    await page.fill("#id_name", "shop")
    await page.click("[name=_save]")
    secret = await page.inner_text("#fws-key")
    assert re.fullmatch(r"fws_[\w-]{43}", secret)
    assert await copied(page) == ("Copied", secret)
    await page.click("[data-copies=fws-master]")
    master = await page.inner_text("#fws-master")
    assert await page.evaluate("navigator.clipboard.readText()") == master and len(master) == 44
    await page.click(".closelink")
    await expect(page.locator("#id_name")).to_have_value("shop")
    assert secret not in await page.content()
