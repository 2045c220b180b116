"""Who may look at the console, and for how long."""

import asyncio
import json

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission, User

from filtered_websocket import WebSocketMessageFilter
from filtered_websocket.console import filters, taps
from filtered_websocket.console.actions import page_key
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import disconnect_session
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.models import Token
from filtered_websocket.pipelines.route import known_routes
from filtered_websocket.routing import websocket_application, with_websockets
from filtered_websocket.testing import connect

from ..handshaking import shake_hands
from ..waiting import LIMIT, until
from .conftest import knock, log_in, look, make_staff

pytestmark = pytest.mark.django_db(transaction=True)
DENIED = 3507


@pytest.fixture
def staff():
    return make_staff("view_console")


async def is_refused(watcher):
    await watcher.client.send('{"id": 1, "connect": {}}')
    code, reason = await watcher.closed()
    await watcher.client.close()
    assert code == DENIED
    return reason


# The handshake


async def test_staff_with_the_permission_look(site, staff):
    async with look(site, staff) as watcher:
        answer = await watcher.call("overview")
    assert [one["num_clients"] for one in answer["processes"]] == [1]
    assert watcher.client.subprotocol == "centrifuge-json"


async def test_a_superuser_looks(site):
    boss = await sync_to_async(User.objects.create_superuser)("boss")
    async with look(site, boss) as watcher:
        assert (await watcher.call("errors"))["rows"] is not None


async def test_a_permission_of_a_group_of_users_counts(site):
    @sync_to_async
    def grant():
        user = make_staff()
        operators = Group.objects.create(name="operators")
        operators.permissions.add(Permission.objects.get(codename="view_console"))
        user.groups.add(operators)
        return user

    async with look(site, await grant()) as watcher:
        assert (await watcher.call("overview"))["num_processes"] == 1


@pytest.mark.parametrize(
    ("permissions", "fields"),
    [
        ((), {}),
        (("tee_console", "close_console", "publish_console"), {}),
        (("view_console",), {"is_staff": False}),
    ],
    ids=["no permission", "only others", "no staff"],
)
async def test_nobody_else_looks(site, permissions, fields):
    user = await sync_to_async(make_staff)(*permissions)
    await User.objects.filter(pk=user.pk).aupdate(**fields)
    assert await is_refused(await knock(site, user)) == "no permission for the console"


async def test_a_permission_that_is_taken_away_at_the_last_moment_is_asked_for(site, staff):
    """The user of the handshake has been looked up before."""
    watcher = await knock(site, staff)
    await staff.user_permissions.aclear()
    assert await is_refused(watcher) == "no permission for the console"


async def test_who_has_no_session_does_not_look(site, staff):
    watcher = await knock(site, staff, cookie="sessionid=" + "a" * 32)
    assert await is_refused(watcher) == "the console needs a session"


async def test_a_token_of_the_staff_is_no_session(site, staff):
    _, key = await sync_to_async(Token.objects.create_key)(name="t", user=staff)
    offered = ["centrifuge-json", filters.PREFIX + page_key(staff)]
    client = await shake_hands(
        site,
        path="/fws-console/",
        raw_path=b"/fws-console/",
        headers=[("authorization", f"Token {key}".encode())],
        subprotocols=offered,
    )
    await client.send('{"id": 1, "connect": {}}')
    assert await client.closed() == DENIED
    await client.close()


async def test_a_session_that_no_logout_would_end_is_none(site, staff, settings):
    """A site without SessionAuthenticator: nothing depends on the session."""
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": []}
    assert await is_refused(await knock(site, staff)) == "the console needs a session"


@pytest.mark.parametrize("offers", ["none", "empty", "of another", "guessed", "no ASCII"])
async def test_a_page_that_is_not_the_consoles_cannot_use_the_cookie(site, staff, offers):
    """Of another origin that the site allows, with the same cookie."""
    other = await sync_to_async(make_staff)("view_console", name="kim")
    offered = {
        "none": [],
        "empty": [filters.PREFIX],
        "of another": [filters.PREFIX + page_key(other)],
        "guessed": [filters.PREFIX + "0" * 64],
        "no ASCII": [filters.PREFIX + "\u00e9\ud800" * 32],
    }[offers]
    watcher = await knock(site, staff, subprotocols=["centrifuge-json", *offered])
    assert await is_refused(watcher) == "not the page of the console: load it again"


@pytest.mark.parametrize(
    ("own", "welcome"), [(None, False), ("acme", True), ("other", False)], ids=str
)
async def test_the_staff_of_a_tenant_see_nothing_of_the_others(site, staff, settings, own, welcome):
    """What the console shows belongs to all: one tenant may be named whose staff look at it."""
    settings.FILTERED_WEBSOCKET = {"TENANT": lambda: "acme", "CONSOLE_TENANT": own}
    watcher = await knock(site, staff)
    if welcome:
        assert "connect" in await watcher.ask(connect={})
        await watcher.client.close()
    else:
        reason = "the console shows all tenants: see CONSOLE_TENANT"
        assert await is_refused(watcher) == reason


async def test_after_a_change_of_the_password_the_page_has_to_be_loaded_again(staff):
    before = page_key(staff)
    staff.set_password("another")
    assert page_key(staff) != before
    assert len(before) == 64 and before.isalnum()


async def test_a_page_of_an_origin_that_is_not_allowed_is_refused(site, staff):
    headers = {"cookie": await log_in(staff), "origin": "http://evil.example"}
    client = await connect(site, "/fws-console/", headers=headers)
    assert not client.accepted
    await client.close()


# While it is open


async def test_a_permission_that_is_taken_away_ends_it(site, staff, monkeypatch):
    monkeypatch.setattr(filters, "LOOK_AGAIN", 0.0)
    async with look(site, staff) as watcher:
        assert (await watcher.call("overview"))["num_processes"] == 1
        await staff.user_permissions.aclear()
        await watcher.client.send('{"id": 9, "rpc": {"method": "overview"}}')
        assert await watcher.closed() == (DENIED, "no permission for the console")


async def test_permissions_are_asked_for_again_after_a_while_only(site, staff, monkeypatch, caplog):
    asked = []
    now_permitted = filters._now_permitted
    monkeypatch.setattr(
        filters, "_now_permitted", lambda user: asked.append(user) or now_permitted(user)
    )
    async with look(site, staff) as watcher:
        for _ in range(3):
            await watcher.call("errors")
        assert len(asked) == 1
        monkeypatch.setattr(filters, "LOOK_AGAIN", 0.0)
        await watcher.call("errors")
        assert len(asked) == 2


async def test_a_logout_ends_it(site, staff):
    cookie = await log_in(staff)
    async with look(site, staff, cookie=cookie) as watcher:
        disconnect_session(cookie.removeprefix("sessionid="))
        assert (await watcher.closed())[0] == 3500


async def test_who_is_no_longer_active_is_closed(site, staff):
    async with look(site, staff) as watcher:
        staff.is_active = False
        await staff.asave()
        assert (await watcher.closed())[0] == 3500


async def test_while_the_database_is_away_one_may_go_on_looking_for_a_while(
    site, staff, monkeypatch, settings
):
    monkeypatch.setattr(filters, "LOOK_AGAIN", 0.0)

    def fail(user):
        raise OSError("away")

    async with look(site, staff) as watcher:
        monkeypatch.setattr(filters, "_now_permitted", fail)
        assert "rows" in await watcher.call("errors")
        settings.FILTERED_WEBSOCKET = {"RECHECK": 1e-9}
        assert await watcher.call("errors") == 100


async def test_a_page_that_floods_is_answered_with_an_error(site, staff, monkeypatch):
    async with look(site, staff) as watcher:
        replies = [await watcher.ask(ping={}) for _ in range(60)]
    assert replies[0] == {"ping": {}}
    assert replies[-1]["error"]["code"] == 111


# Calls


async def test_a_method_that_there_is_not(site, staff):
    async with look(site, staff) as watcher:
        assert await watcher.call("drop_table") == 104
        assert await watcher.ask(rpc={}) == {"error": {"code": 104, "message": "method not found"}}


@pytest.mark.repeats
@pytest.mark.parametrize(
    "data", [None, 5, "text", [1], {"limit": "x", "search": 5, "id": [], "name": {}}]
)
@pytest.mark.parametrize("method", sorted(filters.LOOKS))
async def test_whatever_a_page_sends_has_an_answer(site, staff, method, data):
    async with look(site, staff) as watcher:
        reply = await watcher.ask(rpc={"method": method, "data": data})
    assert isinstance(reply["rpc"]["data"], dict)


@pytest.mark.parametrize("method", sorted(filters.ACTIONS))
async def test_nothing_is_done_without_its_own_permission(site, staff, method):
    async with look(site, staff) as watcher:
        assert await watcher.call(method, id="1", user="1", group="g", data="x", token=1) == 103


async def test_it_joins_no_group_and_publishes_nothing(site, staff):
    async with look(site, staff) as watcher:
        assert (await watcher.ask(subscribe={"channel": "news"}))["error"]["code"] == 102
        assert (await watcher.ask(publish={"channel": "news", "data": 1}))["error"]["code"] == 102
        assert not watcher.client.connection.groups


# The route


async def test_its_path_is_a_setting(staff, settings):
    settings.FILTERED_WEBSOCKET = {"CONSOLE": "ws/inside/"}
    site = with_websockets(None, [])
    client = await connect(site, "/ws/inside/")
    assert client.accepted
    await client.close()


@pytest.mark.parametrize("without", ["setting", "admin"])
async def test_without_the_setting_or_the_admin_there_is_none(staff, settings, without):
    if without == "setting":
        settings.FILTERED_WEBSOCKET = {"CONSOLE": None}
    else:
        settings.INSTALLED_APPS = [
            app for app in settings.INSTALLED_APPS if app != "django.contrib.admin"
        ]
    client = await connect(with_websockets(None, []), "/fws-console/")
    assert not client.accepted
    await client.close()


async def test_a_site_with_a_router_of_its_own_adds_it(staff):
    site = websocket_application(filters.console_urlpatterns())
    async with look(site, staff) as watcher:
        assert (await watcher.call("overview"))["num_processes"] == 1


def test_it_is_marked_as_this_packages_own(site):
    newest = known_routes()[-1]
    assert (newest.paths, newest.is_own) == (["/fws-console/"], True)


# A tee


async def watch(watcher, **about):
    assert await watcher.call("tee", **about) == {"done": True}


async def told(watcher, number, what):
    """What a page is told of a tee, up to the first that has this key, or is such a record."""
    while True:
        data = await watcher.push()
        assert data["tee"] == number, data
        record = data.get("record", {})
        if what in data or record.get("is") == what:
            return data if what in data else record


def chat(**options):
    return connect([Shout], **options)


class Shout(WebSocketMessageFilter):
    @classmethod
    def filter(cls, connection, data):
        return data.upper()


@pytest.fixture(autouse=True)
def a_busy_machine_may_be_late_to_renew_a_tee(monkeypatch):
    monkeypatch.setattr(taps, "LEASE", LIMIT)


@pytest.fixture
def trusted():
    return make_staff("view_console", "tee_console", name="tess")


@pytest.mark.parametrize("on", ["connection", "group", "route"])
async def test_a_page_is_sent_what_passes(site, trusted, on):
    app = FilteredWebSocketConsumer.as_asgi(
        filters=[Shout, BroadcastMessagesFilter], groups=["garden"]
    )
    app.route.paths = ["/tee/"]
    async with connect(app) as ann, connect(app) as bob, look(site, trusted) as watcher:
        subjects = {
            "connection": {"connection": ann.connection.id},
            "group": {"group": "garden"},
            "route": {"route": "/tee/", "part": "shout"},
        }
        await watch(watcher, number=7, **subjects[on])
        assert (await told(watcher, 7, "begin"))["found"] == 1
        await ann.send("hello")
        assert await bob.receive() == "HELLO"
        seen = await told(watcher, 7, "publish" if on == "group" else "chain")
        assert seen["in"]["text"] == ("HELLO" if on == "group" else "hello")
        assert (await watcher.ask(rpc={"method": "untee"})) == {"rpc": {"data": {"done": True}}}
        await ann.send("nobody sees it")
        assert await bob.receive() == "NOBODY SEES IT"
        assert await watcher.client.received_nothing()


async def test_who_may_not_see_messages_sees_that_something_passes(site, staff):
    async with chat() as ann, look(site, staff) as watcher:
        await watch(watcher, number=1, connection=ann.connection.id)
        await told(watcher, 1, "begin")
        await ann.send("a secret")
        chain = await told(watcher, 1, "chain")
    assert chain["in"] == {"kind": "text", "size": 8}
    assert "secret" not in json.dumps(chain)


async def test_another_tee_takes_the_place_of_the_first(site, trusted):
    async with chat() as ann, chat() as bob, look(site, trusted) as watcher:
        await watch(watcher, number=1, connection=ann.connection.id)
        await told(watcher, 1, "begin")
        await watch(watcher, number=2, connection=bob.connection.id)
        await told(watcher, 2, "begin")
        await ann.send("of the first")
        await ann.settle()
        await bob.send("of the second")
        assert (await told(watcher, 2, "chain"))["in"]["text"] == "of the second"


async def test_of_tees_that_are_asked_for_at_once_one_goes_on(site, trusted):
    async with chat() as ann, look(site, trusted) as watcher:
        about = {"connection": ann.connection.id}
        requests = [
            json.dumps({"id": 50 + n, "rpc": {"method": "tee", "data": {"number": n, **about}}})
            for n in range(4)
        ]
        for request in requests:
            await watcher.client.send(request)
        replies = set()
        while len(replies) < 4:
            replies.add(json.loads(await watcher.client.receive()).get("id"))
            replies.discard(None)
        running = {task for task in asyncio.all_tasks() if task.get_name() == "fws-console-tee"}
        assert len(running) == 1


async def test_a_page_is_told_of_the_end_and_of_what_it_has_not_seen(site, trusted, monkeypatch):
    monkeypatch.setattr(filters, "TEE_MESSAGES", 2)
    async with chat() as ann, look(site, trusted) as watcher:
        await watch(watcher, number=3, connection=ann.connection.id)
        await told(watcher, 3, "begin")
        for text in ("one", "two", "three"):
            await ann.send(text)
        assert await told(watcher, 3, "ended") == {"tee": 3, "dropped": 0, "ended": True}


@pytest.mark.parametrize("taken", ["tee_console", "view_console"])
async def test_a_tee_ends_with_its_permission(site, trusted, monkeypatch, taken):
    monkeypatch.setattr(filters, "LOOK_AGAIN", 0.0)
    async with chat() as ann, look(site, trusted) as watcher:
        await watch(watcher, number=4, connection=ann.connection.id)
        await told(watcher, 4, "begin")
        await trusted.user_permissions.aremove(await Permission.objects.aget(codename=taken))
        await ann.send("too late")
        if taken == "tee_console":
            assert (await told(watcher, 4, "ended"))["ended"] is True
        else:
            assert await watcher.closed() == (DENIED, "no permission for the console")


async def test_a_tee_without_an_object_is_a_problem_of_the_page(site, staff):
    async with look(site, staff) as watcher:
        for about in ({}, {"connection": 5}, {"group": ""}):
            answer = await watcher.call("tee", number=1, **about)
            assert answer == {"problem": "a tee is on a connection, a group, or a place of a route"}
        assert await watcher.call("untee") == {"done": True}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("Redis"), "the channel layer does not answer: Redis"),
        (OSError("x"), "cannot be"),
    ],
)
async def test_a_tee_that_cannot_be_says_why(site, staff, monkeypatch, error, words):
    class Fails(filters.Tee):
        async def __aenter__(self):
            raise error

    monkeypatch.setattr(filters, "Tee", Fails)
    async with look(site, staff) as watcher:
        await watch(watcher, number=5, group="g")
        ended = await told(watcher, 5, "ended")
        assert words in ended["problem"]
        # The page goes on.
        assert "rows" in await watcher.call("errors")


async def test_a_tee_ends_with_the_page(site, trusted):
    async with chat() as ann:
        async with look(site, trusted) as watcher:
            await watch(watcher, number=6, connection=ann.connection.id)
            await told(watcher, 6, "begin")
        await until(lambda: not taps.taps)
        await ann.settle()
