"""The live console in the admin, in a real browser."""

import asyncio
import contextlib
import json
import re
import sys

import pytest
import pytest_asyncio
from playwright.async_api import expect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..waiting import limited, look_again
from .processes import Daphne, Process
from .sockets import connect

pytestmark = pytest.mark.asyncio(loop_scope="session")
PAGE = "/admin/filtered_websocket/console/"
PASSWORD = "a password for tests"
HOSTILE = "<img src=x onerror=alert(1)>"


def in_django(env, code):
    """What some code of Django prints, with the database of the servers."""
    process = Process([sys.executable, "-c", f"import django; django.setup()\n{code}"], env=env)
    assert process.wait() == 0, process.output
    return process.output


@pytest.fixture(scope="module")
def operator(database):
    """A superuser, and one who may only look; the name of the first."""
    for name in ("operator", HOSTILE):
        in_django(
            database,
            "from django.contrib.auth.models import User\n"
            f"User.objects.create_superuser({name!r}, password={PASSWORD!r})",
        )
    return "operator"


def make_watcher(env, name, *permissions):
    in_django(
        env,
        "from django.contrib.auth.models import Permission, User\n"
        f"one = User.objects.create_user({name!r}, password={PASSWORD!r}, is_staff=True)\n"
        f"one.user_permissions.set(Permission.objects.filter(codename__in={permissions!r}))",
    )


class Window:
    """A window of the admin, and everything that went wrong in it."""

    def __init__(self, page):
        self.page = page
        self.wrong = []
        #: Frames that the page has sent.
        self.sent = []
        page.on("console", lambda m: m.type == "error" and self.wrong.append(m.text))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", self._dialog)
        page.on("websocket", self._websocket)

    async def _dialog(self, dialog):
        self.wrong.append(f"a dialog opened: {dialog.message}")
        await dialog.dismiss()

    def _websocket(self, socket):
        socket.on("framesent", lambda payload: self.sent.append(str(payload)))

    async def log_in(self, name):
        await self.page.goto("/admin/")
        await self.page.fill("#id_username", name)
        await self.page.fill("#id_password", PASSWORD)
        await self.page.click("[type=submit]")
        await expect(self.page.locator("#user-tools")).to_be_visible()

    async def look(self, tab="pipelines"):
        await self.page.goto(f"{PAGE}#{tab}")
        await expect(self.page.locator("#fws-status")).to_have_text("live")
        return self

    def tab(self, name):
        return self.page.get_by_role("tab", name=re.compile(f"^{name}"))

    def row(self, text):
        return self.page.locator("tbody tr:visible", has_text=text)

    @property
    def detail(self):
        return self.page.locator("#fws-detail")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def session(browser, server, operator):
    """The cookies of the operator."""
    async with await browser.new_context(base_url=server.http()) as context:
        window = Window(await context.new_page())
        await window.log_in(operator)
        return await context.storage_state()


@pytest_asyncio.fixture(loop_scope="session")
async def open_window(new_context, server, session):
    """Windows of the operator; nothing may go wrong in them."""
    made = []

    async def open_window(**options):
        settings = {"base_url": server.http(), "storage_state": session, **options}
        context = await new_context(**settings)
        # Else the admin has an icon that is not there.
        await context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        made.append(Window(await context.new_page()))
        return made[-1]

    yield open_window
    assert [window.wrong for window in made] == [[]] * len(made)


@pytest_asyncio.fixture(loop_scope="session")
async def window(open_window):
    return await open_window()


async def closed(socket):
    """The code with which the server closes it."""
    async with limited():
        with contextlib.suppress(ConnectionClosed):
            async for _ in socket:
                pass
    return socket.close_code


# What one sees


async def test_the_pipes_are_drawn_with_what_goes_through_them(window, server):
    stage = window.page.locator(".fws-pipeline", has_text="/rooms/").locator(".fws-stage")
    async with connect(server.ws("/rooms/pipes/")) as client:
        await client.send("hello")
        await window.look()
        await expect(stage.nth(0).locator(".fws-name")).to_have_text("tidy")
        await expect(stage.nth(1).locator(".fws-name")).to_have_text("shout")
        runs = int((await stage.nth(0).locator(".fws-runs").inner_text()).replace(",", ""))
        await client.send("again")
        await client.send("  ")
        now = f"{runs + 2:,}"
        await expect(stage.nth(0).locator(".fws-runs")).to_have_text(now)
        await expect(stage.nth(0).locator(".fws-drops")).to_contain_text("dropped")
        await expect(stage.nth(0).locator(".fws-mean")).to_have_text(re.compile(r"\d (µs|ms)$"))
        await expect(window.page.locator("#fws-totals")).to_contain_text("connections")
        await stage.nth(0).click()
    await expect(window.detail).to_contain_text("fws_project.filters.Tidy")
    await expect(window.detail.get_by_role("table", name="How long it took")).to_be_visible()
    await expect(window.tab("Processes")).to_have_text("Processes1")


async def test_while_messages_flow_the_pipe_shows_it(window, server):
    pipe = window.page.locator(".fws-pipeline", has_text="/rooms/").locator(".fws-pipe")
    async with connect(server.ws("/rooms/flow/")) as client:
        await window.look()
        flows = asyncio.create_task(expect(pipe).to_have_class(re.compile("fws-flows")))
        async with limited():
            while not flows.done():
                await client.send("drop")
                await look_again(flows)
        await flows
    await expect(pipe).not_to_have_class(re.compile("fws-flows"))


@pytest.fixture(scope="module")
def strict_server(database):
    """Whose pages have a strict policy, and whose filter raises what it is told."""
    process = Daphne(env={**database, "DJANGO_SETTINGS_MODULE": "tests.e2e.console_settings"})
    yield process
    process.stop()


async def test_under_a_strict_policy_the_page_works_and_shows_errors_as_text(
    open_window, strict_server, operator
):
    """A browser tells of all that a policy forbids, which is an error of the page here."""
    window = await open_window(base_url=strict_server.http(), storage_state=None)
    await window.log_in(operator)
    async with connect(strict_server.ws("/")) as client:
        for _ in range(3):
            await client.send(HOSTILE)
        await window.look()
        await expect(window.page.locator(".fws-failing .fws-errors")).to_have_text("3 errors")
        for tab in ("Processes", "Connections", "Groups", "Errors"):
            await window.tab(tab).click()
            await expect(window.tab(tab)).to_have_attribute("aria-selected", "true")
        await window.row("ValueError in tests.e2e.console_filters.Repeat").click()
        await expect(window.detail).to_contain_text(f"ValueError: {HOSTILE}")
        await expect(window.detail).to_contain_text("raise ValueError(data.decode())")
        assert await window.page.locator("#fws-console img").count() == 0
        await window.page.keyboard.press("Escape")
        await window.tab("Pipelines").click()
        await window.page.locator(".fws-failing").click()
        await expect(window.detail.get_by_role("table")).to_be_visible()


async def test_a_process_tells_how_it_does(window):
    await window.look("processes")
    process = window.page.locator(".fws-process")
    await expect(process).to_contain_text("version 1.")
    for fact in ("connections", "queue", "worst lag", "threads", "layer"):
        await expect(process.get_by_text(fact, exact=True)).to_be_visible()


async def test_connections_are_searched_and_one_is_looked_at(window, server):
    async with connect(server.ws("/rooms/search%20me/")), connect(server.ws("/")):
        await window.look("connections")
        await window.page.fill("#fws-connections [name=search]", "SEARCH me")
        await expect(window.page.locator("#fws-connections tbody tr")).to_have_count(1)
        await expect(window.page.locator("#fws-connections .fws-count")).to_contain_text("1 of 1, ")
        await window.page.fill("#fws-connections [name=search]", "group:room:search me")
        await window.row("/rooms/search me/").click()
        await expect(window.detail).to_contain_text("daphne's lane")
        await expect(window.detail.get_by_role("button", name="room:search me")).to_be_visible()
        await window.page.keyboard.press("Escape")
        await window.page.fill("#fws-connections [name=search]", "nobody is called so")
        await expect(window.page.locator("#fws-connections .fws-empty")).to_be_visible()


# What clients choose is text


async def test_names_and_messages_of_clients_are_shown_as_text(open_window, server, operator):
    async with connect(server.ws(f"/rooms/{HOSTILE.replace(' ', '%20')}/")) as client:
        await client.send(HOSTILE)
        user = await open_window(storage_state=None)
        await user.log_in(HOSTILE)
        await user.look()
        window = await open_window()
        await window.look("connections")
        for shown in (HOSTILE, f"/rooms/{HOSTILE}/"):
            await expect(window.row(shown).first).to_be_visible()
        await window.row(f"/rooms/{HOSTILE}/").first.click()
        await expect(window.detail).to_contain_text(f"room:{HOSTILE}")
        await window.detail.get_by_role("button", name=f"room:{HOSTILE}").click()
        await expect(window.detail.get_by_role("heading", level=2)).to_have_text(f"room:{HOSTILE}")
        await window.page.keyboard.press("Escape")
        await window.tab("Groups").click()
        await expect(window.row(f"room:{HOSTILE}")).to_be_visible()
        await window.page.fill("#fws-groups [name=search]", HOSTILE)
        await expect(window.row(f"room:{HOSTILE}")).to_have_count(1)
        for one in (user, window):
            assert await one.page.locator("#fws-console img").count() == 0


# What one does


async def test_a_connection_is_closed_after_a_question_and_the_admin_remembers(window, server):
    async with connect(server.ws("/rooms/close/")) as client:
        await window.look("connections")
        await window.page.fill("#fws-connections [name=search]", "/rooms/close/")
        await window.row("/rooms/close/").click()
        button = window.detail.get_by_role("button", name="Close connection")
        await button.click()
        await expect(window.detail.get_by_role("button", name="No")).to_be_focused()
        await window.detail.get_by_role("button", name="No").click()
        await expect(button).to_be_focused()
        await button.click()
        await window.detail.get_by_role("button", name="Yes").click()
        assert await closed(client) == 4401
        await expect(window.detail).to_contain_text("It has ended.")
    await window.page.goto("/admin/")
    await expect(window.page.locator("#recent-actions-module")).to_contain_text("connection ")


async def test_a_connection_whose_process_was_too_busy_to_answer_can_be_closed_once_it_does(
    window, server
):
    hidden = set()

    def hide(socket):
        upstream = socket.connect_to_server()

        def ask(text):
            for line in text.splitlines():
                command = json.loads(line)
                if not hidden and command.get("rpc", {}).get("method") == "connection":
                    hidden.add(command["id"])
            upstream.send(text)

        def answer(text):
            lines = [json.loads(line) for line in text.splitlines()]
            for one in lines:
                if one.get("id") in hidden:
                    one["rpc"]["data"] = {"row": None, "sure": True}
            socket.send("\n".join(map(json.dumps, lines)))

        socket.on_message(ask)
        upstream.on_message(answer)

    await window.page.route_web_socket(re.compile("fws-console"), hide)
    async with connect(server.ws("/rooms/busy/")) as client:
        await window.look("connections")
        await window.page.fill("#fws-connections [name=search]", "/rooms/busy/")
        await window.row("/rooms/busy/").click()
        await window.detail.get_by_role("button", name="Close connection").click()
        await window.detail.get_by_role("button", name="Yes").click()
        assert await closed(client) == 4401
        await expect(window.detail).to_contain_text("It has ended.")
        await expect(window.detail.get_by_role("button", name="Close connection")).to_have_count(0)
    assert hidden


async def test_a_token_is_revoked_and_all_connections_of_a_user_are_closed(
    window, server, database
):
    printed = in_django(
        database,
        "from django.contrib.auth.models import User\n"
        "from filtered_websocket.models import Token\n"
        "for name in ('ann', 'bob'):\n"
        "    user = User.objects.create_user(f'{name} of tokens')\n"
        "    print('pk', user.pk)\n"
        "    for number in (1, 2):\n"
        "        token, key = Token.objects.create_key(name=f'{name} {number}', user=user)\n"
        "        print('key', key)",
    )
    keys = re.findall(r"^key (\S+)$", printed, re.MULTILINE)
    ann = re.search(r"^pk (\d+)$", printed, re.MULTILINE)[1]

    def connect_by(key, room):
        headers = {"Authorization": f"Token {key}"}
        return connect(server.ws(f"/rooms/{room}/"), additional_headers=headers)

    async def click(room, button):
        await window.page.fill("#fws-connections [name=search]", f"/rooms/{room}/")
        await window.row(f"/rooms/{room}/").click()
        await window.detail.get_by_role("button", name=button).click()
        await window.detail.get_by_role("button", name="Yes").click()

    async with (
        connect_by(keys[0], "revoked") as revoked,
        connect_by(keys[1], "other-token") as other_token,
        connect_by(keys[1], "another") as another,
        connect_by(keys[2], "bob") as bob,
    ):
        await window.look("connections")
        await click("revoked", "Revoke token")
        assert await closed(revoked) == 4401
        await expect(window.detail).to_contain_text("It has ended.")
        await window.page.keyboard.press("Escape")
        await click("other-token", "Close all of this user")
        assert await closed(other_token) == await closed(another) == 4401
        await window.page.keyboard.press("Escape")
        # Neither was for somebody else.
        await window.page.fill("#fws-connections [name=search]", "/rooms/bob/")
        await expect(window.row("/rooms/bob/")).to_have_count(1)
        async with limited():
            await (await bob.ping())
    with pytest.raises(InvalidStatus):
        await connect_by(keys[0], "revoked").__aenter__()
    # Its connections were closed; the token is good.
    async with connect_by(keys[1], "other-token"):
        pass
    await window.page.goto("/admin/filtered_websocket/token/?q=ann+1")
    await expect(window.page.locator(".fws-revoked")).to_have_count(1)
    await window.page.goto("/admin/")
    for done in ("ann 1", f"user {ann}"):
        await expect(window.page.locator("#recent-actions-module")).to_contain_text(done)


async def test_a_group_is_taken_away_and_a_message_published(window, server):
    async with connect(server.ws("/rooms/acts/")) as client:
        await window.look("groups")
        await window.page.fill("#fws-groups [name=search]", "room:acts")
        await window.row("room:acts").click()
        await window.detail.get_by_label("Message").fill('{"text": "from the console"}')
        await window.detail.get_by_role("button", name="Publish").click()
        await expect(window.page.locator("#fws-said")).to_have_text("Publish: done")
        async with limited():
            assert json.loads(await client.recv()) == {"text": "from the console"}
        await window.detail.get_by_label("Message").fill("a text")
        await window.detail.get_by_role("button", name="Publish").click()
        async with limited():
            assert await client.recv() == "a text"
        await window.detail.get_by_role("button", name="Show its connections").click()
        await expect(window.tab("Connections")).to_have_attribute("aria-selected", "true")
        await window.row("/rooms/acts/").click()
        await window.detail.get_by_role("button", name="Unsubscribe").click()
        await window.detail.get_by_role("button", name="Yes").click()
        await expect(window.detail).to_contain_text("0 groups")


async def test_who_may_only_look_is_offered_nothing_else(new_context, server, database, operator):
    make_watcher(database, "looks only", "view_console")
    context = await new_context(base_url=server.http())
    window = Window(await context.new_page())
    await window.log_in("looks only")
    async with connect(server.ws("/rooms/untouched/")):
        await window.look("connections")
        await window.row("/rooms/untouched/").click()
        await expect(window.detail).to_contain_text("1 group")
        for name in ("Close connection", "Unsubscribe"):
            await expect(window.detail.get_by_role("button", name=name)).to_have_count(0)
        await window.detail.get_by_role("button", name="room:untouched").click()
        await expect(window.detail).to_contain_text("members")
        await expect(window.detail.get_by_label("Message")).to_have_count(0)


async def test_a_permission_that_is_taken_away_while_one_looks(
    new_context, server, database, operator
):
    make_watcher(database, "for a while", "view_console")
    context = await new_context(base_url=server.http())
    window = Window(await context.new_page())
    await window.log_in("for a while")
    await window.look()
    in_django(
        database,
        "from django.contrib.auth.models import User\n"
        "User.objects.get(username='for a while').user_permissions.clear()",
    )
    status = window.page.locator("#fws-status")
    await expect(status).to_contain_text("closed: no permission for the console")
    await window.page.reload()
    await expect(window.page.locator("body")).to_contain_text("403 Forbidden")


async def test_the_cookie_alone_does_not_open_the_console(window, server, session):
    """As a page of another origin has it, which a site may allow to connect."""
    [cookie] = [one for one in session["cookies"] if one["name"] == "sessionid"]
    headers = {"Cookie": f"sessionid={cookie['value']}"}
    url = server.ws("/fws-console/")
    async with connect(url, additional_headers=headers, subprotocols=["centrifuge-json"]) as client:
        await client.send('{"id": 1, "connect": {}}')
        assert await closed(client) == 3507


# A tee


async def test_what_passes_through_a_pipe_is_shown_stage_by_stage(window, server):
    await window.look()
    pipeline = window.page.locator(".fws-pipeline", has_text="/rooms/")
    await pipeline.get_by_role("button", name="Watch").click()
    await expect(window.tab("Tee")).to_be_focused()
    state = window.page.locator("#fws-tee-state")
    # Who is connected to that route comes later.
    await expect(state).to_have_text("waiting: nobody is there now")
    records = window.page.locator(".fws-record")
    async with connect(server.ws("/rooms/tee/")) as client:
        seen = expect(records.filter(has_text="message").first).to_contain_text(HOSTILE)
        # Until the server has begun to watch.
        await say_until(client, f" {HOSTILE} ", seen)
    await records.filter(has_text="message").first.click()
    steps = records.locator("details[open] .fws-steps li")
    await expect(steps).to_have_count(3)
    await expect(steps.nth(0)).to_contain_text("tidy")
    await expect(steps.nth(1)).to_contain_text(HOSTILE.upper())
    assert await window.page.locator("#fws-console img").count() == 0
    await window.page.get_by_role("button", name="Stop").click()
    await expect(state).to_contain_text("you have stopped it")
    await window.page.get_by_role("button", name="Watch again").click()
    await expect(records).to_have_count(0)
    await window.page.get_by_role("button", name="Stop").click()


async def say_until(client, text, expected):
    """Send it again and again, until what is awaited is true."""
    task = asyncio.ensure_future(expected)
    async with limited():
        while not task.done():
            await client.send(text)
            await look_again(task, 0.2)
    await task


async def test_who_may_not_see_messages_sees_their_sizes(new_context, server, database, operator):
    make_watcher(database, "no messages", "view_console")
    context = await new_context(base_url=server.http())
    window = Window(await context.new_page())
    await window.log_in("no messages")
    async with connect(server.ws("/rooms/sizes/")) as client:
        await window.look("connections")
        await window.row("/rooms/sizes/").click()
        await window.detail.get_by_role("button", name="Watch").click()
        message = window.page.locator(".fws-record", has_text="message").first
        await say_until(client, "a secret", expect(message).to_contain_text("text, 8 B"))
    assert "a secret" not in await window.page.content()


async def test_nothing_moves_in_the_list_while_one_reads_it(window, server):
    await window.look()
    pipeline = window.page.locator(".fws-pipeline", has_text="/rooms/")
    await pipeline.get_by_role("button", name="Watch").click()
    records = window.page.locator(".fws-record")
    async with connect(server.ws("/rooms/still/")) as client:
        await say_until(client, "first", expect(records.first).to_be_visible())
        await records.first.locator("summary").focus()
        before = await records.count()
        await client.send("second")
        state = window.page.locator("#fws-tee-state")
        await expect(state).to_have_text("what is new is shown when you leave the list")
        assert await records.count() == before
        await window.page.get_by_role("button", name="Stop").focus()
        await expect(records.filter(has_text="second").first).to_be_visible()
        await expect(state).to_have_text("")


# Looking costs only while somebody looks


async def test_a_page_that_is_paused_or_hidden_asks_for_nothing(open_window):
    window = await open_window()
    await window.page.clock.install()
    await window.look("connections")
    asked = len(window.sent)
    await window.page.clock.run_for(10_000)
    assert len(window.sent) > asked
    for pause, go_on in (
        ("document.getElementById('fws-pause').click()",) * 2,
        (
            "Object.defineProperty(document, 'hidden', { configurable: true, value: true });",
            "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))",
        ),
    ):
        await window.page.evaluate(pause)
        # What was asked before is answered.
        await expect(window.page.locator("#fws-console[data-asking]")).to_have_count(0)
        await window.page.clock.run_for(10_000)
        await expect(window.page.locator("#fws-console[data-asking]")).to_have_count(0)
        quiet = [one for one in window.sent if one != "{}"]
        await window.page.clock.run_for(60_000)
        assert [one for one in window.sent if one != "{}"] == quiet, "but for pongs"
        await window.page.evaluate(go_on)
        await expect(window.page.locator("#fws-status")).to_have_text("live")
        await window.page.clock.run_for(5_000)


async def test_a_crowd_is_shown_in_few_rows(window, server):
    """The others are found by a search."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(60):
            await stack.enter_async_context(connect(server.ws(f"/rooms/crowd{number}/")))
        await window.look("connections")
        rows = window.page.locator("#fws-connections tbody tr")
        await expect(rows).to_have_count(25)
        await window.page.get_by_role("button", name="Show more").click()
        await expect(rows).to_have_count(50)
        await window.page.fill("#fws-connections [name=search]", "/rooms/crowd0/")
        await expect(rows).to_have_count(1)


# For everybody


async def test_all_of_it_can_be_reached_by_keys(window, server):
    async with connect(server.ws("/rooms/keys/")), connect(server.ws("/rooms/keys/")):
        await window.look()
        page = window.page
        await window.tab("Pipelines").focus()
        for _ in range(2):
            await page.keyboard.press("ArrowRight")
        await expect(window.tab("Connections")).to_be_focused()
        await expect(page.locator("#fws-connections")).to_be_visible()
        await page.keyboard.press("End")
        await expect(window.tab("Tee")).to_be_focused()
        await page.keyboard.press("Home")
        await page.keyboard.press("ArrowLeft")
        await expect(window.tab("Tee")).to_be_focused()
        await window.tab("Connections").click()
        rows = page.locator("#fws-connections tbody th button")
        await expect(rows.nth(1)).to_be_visible()
        await rows.nth(0).focus()
        await page.keyboard.press("ArrowDown")
        await expect(rows.nth(1)).to_be_focused()
        # One row is a stop of the Tab key, not all of them.
        assert await rows.evaluate_all("all => all.filter(one => one.tabIndex === 0).length") == 1
        await page.keyboard.press("Enter")
        await expect(window.detail).to_be_visible()
        assert await page.evaluate(
            "document.getElementById('fws-detail').contains(document.activeElement)"
        )
        await page.keyboard.press("Escape")
        await expect(window.detail).to_be_hidden()
        await expect(rows.nth(1)).to_be_focused()


async def test_a_screen_reader_hears_the_state_and_not_every_number(window):
    await window.look()
    live = window.page.locator(
        "#fws-console [aria-live], #fws-console [role=status], #fws-console [role=alert]"
    )
    assert await live.evaluate_all("all => all.map(one => one.id)") == [
        "fws-status",
        "fws-help",
        "fws-tee-state",
        "fws-said",
    ]
    for panel in await window.page.locator("[role=tabpanel]").all():
        label = await panel.get_attribute("aria-labelledby")
        assert await window.page.locator(f"#{label}[role=tab]").count() == 1
    for field in await window.page.locator("#fws-console :is(input, select)").all():
        assert await field.evaluate("one => one.labels.length") == 1


@pytest.mark.parametrize(
    "tab", ["pipelines", "processes", "connections", "groups", "errors", "tee"]
)
async def test_it_fits_on_a_phone(open_window, server, tab):
    window = await open_window(viewport={"width": 390, "height": 844}, has_touch=True)
    long = "a-room-with-quite-a-long-name-without-a-space-" * 3
    async with connect(server.ws(f"/rooms/{long}/")):
        await window.look(tab)
        shown = {"connections": "tbody tr", "groups": "tbody tr", "pipelines": ".fws-stage"}
        if tab in shown:
            await window.page.locator(f"#fws-{tab} {shown[tab]}").first.tap()
            await expect(window.detail).to_be_visible()
            width = await window.detail.evaluate("one => one.getBoundingClientRect().width")
            assert width == 390
        assert not await window.page.evaluate("document.documentElement.scrollWidth > innerWidth")


async def test_it_follows_the_theme_of_the_admin(open_window):
    """And that of the system, where nobody has chosen one."""
    seen = set()
    for scheme, chosen in (("light", ""), ("dark", ""), ("light", "dark"), ("dark", "light")):
        window = await open_window(color_scheme=scheme)
        await window.look()
        await window.page.evaluate(f"document.documentElement.dataset.theme = {chosen or 'auto'!r}")
        colours = await window.page.locator(".fws-stage").first.evaluate(
            "one => [getComputedStyle(one).backgroundColor, getComputedStyle(one).color].join()"
        )
        seen.add((chosen or scheme, colours))
    assert len(seen) == 2 and {theme for theme, _ in seen} == {"light", "dark"}


async def test_where_no_websocket_is_the_page_says_what_may_be_wrong(open_window):
    window = await open_window()
    await window.page.add_init_script(
        "const Real = WebSocket; window.WebSocket = class extends Real {"
        " constructor(url, ...rest) { super(url.replace('fws-console', 'nowhere'), ...rest); } }"
    )
    await window.page.goto(PAGE)
    await expect(window.page.locator("#fws-help")).to_contain_text("/fws-console/")
    await expect(window.page.locator("#fws-status")).to_have_text("reconnecting")
    window.wrong.clear()  # Chromium's own lines about the refused sockets


# Several processes


async def test_one_page_shows_all_processes_and_reaches_into_them(
    new_context, two_servers, operator
):
    here, there = two_servers
    context = await new_context(base_url=here.http())
    window = Window(await context.new_page())
    await window.log_in(operator)
    async with connect(here.ws("/rooms/here/")), connect(there.ws("/rooms/there/")) as far:
        await window.look("processes")
        await expect(window.page.locator(".fws-process")).to_have_count(2)
        await window.tab("Connections").click()
        await window.row("/rooms/there/").click()
        await window.detail.get_by_role("button", name="Close connection").click()
        await window.detail.get_by_role("button", name="Yes").click()
        assert await closed(far) == 4401
        await expect(window.detail).to_contain_text("It has ended.")
        await window.page.keyboard.press("Escape")
        await expect(window.row("/rooms/here/")).to_have_count(1)
