"""What staff do by the console, and what the admin's log says of it."""

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser

from filtered_websocket import publish as publishing
from filtered_websocket.console import actions
from filtered_websocket.console.actions import ACTIONS, ALL, Refused, find_permissions
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.testing import connect
from filtered_websocket.types import TokenUser

from ..handshaking import shake_hands
from ..secrecy import failing_database
from ..waiting import until
from .conftest import look, make_staff

pytestmark = pytest.mark.django_db(transaction=True)
HOSTILE = "<img src=x onerror=alert(1)>"


async def staff(*permissions):
    return await sync_to_async(make_staff)("view_console", *permissions)


@sync_to_async
def logged():
    """Each line of the admin's log: who, about what, and what."""
    return [
        (one.user.username, one.object_repr, one.get_change_message())
        for one in LogEntry.objects.all()
    ]


def visitor(user=None, **options):
    app = FilteredWebSocketConsumer.as_asgi(filters=[], **options)
    return connect(app, user=user)


# Closing


async def test_a_connection_is_closed(site):
    async with visitor() as ann, visitor() as bob:
        ann_id = ann.connection.id
        async with look(site, await staff("close_console")) as watcher:
            assert await watcher.call("close", id=ann_id) == {"done": True}
        assert await ann.closed() == 4401
        assert ann.close_reason == "closed by the staff"
        assert await bob.received_nothing()
    assert await logged() == [("sam", f"connection {ann_id}", "Closed the connection.")]


async def test_all_connections_of_a_user_are_closed(site):
    ann = await User.objects.acreate(username="ann")
    async with visitor(ann) as first, visitor(ann) as second, visitor() as other:
        async with look(site, await staff("close_console")) as watcher:
            assert await watcher.call("close_user", user=str(ann.pk)) == {"done": True}
        assert (await first.closed(), await second.closed()) == (4401, 4401)
        assert await other.received_nothing()
    said = "Closed all connections of the user."
    assert await logged() == [("sam", f"user {ann.pk}", said)]


async def test_a_group_is_taken_away_from_one_connection(site):
    async with visitor(groups=["a", "b"]) as ann, visitor(groups=["a"]) as bob:
        name = ann.connection.id
        async with look(site, await staff("unsubscribe_console")) as watcher:
            assert await watcher.call("unsubscribe", id=name, group="a") == {"done": True}
        await until(lambda: ann.connection.groups == {"b"})
        assert bob.connection.groups == {"a"}
    said = "Unsubscribed the connection from 'a'."
    assert await logged() == [("sam", f"connection {name}", said)]


async def test_the_own_group_of_a_user_cannot_be_taken_away(site):
    async with look(site, await staff("unsubscribe_console")) as watcher:
        answer = await watcher.call("unsubscribe", id="1", group="user:5")
    assert "begin with 'user:'" in answer["problem"]


# Publishing


@pytest.mark.parametrize(
    ("data", "arrives"),
    [("hello", "hello"), ({"text": "é"}, '{"text":"é"}'), ([1, 2], "[1,2]")],
    ids=["text", "object", "list"],
)
async def test_a_message_is_published_to_a_group(site, data, arrives):
    async with visitor(groups=["news"]) as ann:
        async with look(site, await staff("publish_console")) as watcher:
            assert await watcher.call("publish", group="news", data=data) == {"done": True}
        assert (await ann.receive()).replace(" ", "") == arrives
    [(who, what, said)] = await logged()
    assert (who, what) == ("sam", "group news")
    assert said.startswith("Published a message of ") and "hello" not in said


@pytest.mark.parametrize("data", [None, "", 5, True])
async def test_what_is_no_message_is_not_published(site, data):
    async with look(site, await staff("publish_console")) as watcher:
        answer = await watcher.call("publish", group="news", data=data)
    assert answer == {"problem": "a message is a text, or a JSON object or list"}
    assert await logged() == []


def test_why_it_cannot_be_published_is_told(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 10}
    with pytest.raises(Refused, match="cannot publish 11 bytes: MAX_MESSAGE_SIZE is 10"):
        ACTIONS["publish"].do(make_staff(), {"group": "news", "data": "x" * 11})


# Tokens


async def test_a_token_is_revoked_which_closes_its_connections(site):
    token, key = await sync_to_async(Token.objects.create_key)(name="lamp")
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    lamp = await shake_hands(app, headers=[("authorization", f"Token {key}".encode())])
    async with look(site, await staff("change_token")) as watcher:
        row = (await watcher.call("connection", id=lamp.connection.id))["row"]
        assert row["token"] == {"id": token.pk, "name": "lamp"}
        assert await watcher.call("revoke", token=token.pk) == {"done": True}
        assert await lamp.closed() == 4401
    await lamp.close()
    await token.arefresh_from_db()
    assert token.state == "revoked"
    assert await logged() == [("sam", str(token), "Revoked.")]
    entry = await LogEntry.objects.aget()
    assert entry.object_id == str(token.pk)
    assert (await sync_to_async(entry.get_admin_url)()).endswith(f"/token/{token.pk}/change/")


@pytest.mark.parametrize("pk", [0, "1", None])
async def test_a_token_that_there_is_not(site, pk):
    async with look(site, await staff("change_token")) as watcher:
        assert await watcher.call("revoke", token=pk) == {"problem": "there is no such token"}


def test_a_revocation_that_cannot_be_logged_is_undone():
    user, (token, _) = make_staff("change_token"), Token.objects.create_key(name="lamp")
    with failing_database('INSERT INTO "django_admin_log"'), pytest.raises(RuntimeError):
        ACTIONS["revoke"].do(user, {"token": token.pk})
    token.refresh_from_db()
    assert token.state == "active"
    publishing._close()


# What all have in common


async def test_what_cannot_be_logged_is_not_done(site, monkeypatch):
    def fail(*args):
        raise OSError("the database is away")

    monkeypatch.setattr(actions, "log", fail)
    async with visitor(groups=["news"]) as ann:
        name = ann.connection.id
        sam = await staff("close_console", "unsubscribe_console", "publish_console")
        async with look(site, sam) as watcher:
            for method, about in {
                "close": {"id": name},
                "close_user": {"user": "1"},
                "unsubscribe": {"id": name, "group": "news"},
                "publish": {"group": "news", "data": "x"},
            }.items():
                assert await watcher.call(method, **about) == 100
        assert await ann.received_nothing()
        assert ann.connection.groups == {"news"}


@pytest.mark.parametrize("taken", ["permission", "staff"])
async def test_the_permission_is_asked_for_at_each_action(site, taken):
    sam = await staff("publish_console")
    async with look(site, sam) as watcher:
        assert await watcher.call("publish", group="g", data="x") == {"done": True}
        if taken == "permission":
            may_publish = await Permission.objects.aget(codename="publish_console")
            await sam.user_permissions.aremove(may_publish)
            assert await watcher.call("publish", group="g", data="x") == 103
            assert "rows" in await watcher.call("errors")
        else:
            # As a query of the site's own, of which no process is told.
            await User.objects.filter(pk=sam.pk).aupdate(is_staff=False)
            await watcher.client.send(
                '{"id": 9, "rpc": {"method": "publish", "data": {"group": "g", "data": "x"}}}'
            )
            assert (await watcher.closed())[0] == 3507
    assert len(await logged()) == 1


@pytest.mark.parametrize("method", ["close", "close_user", "unsubscribe", "publish"])
@pytest.mark.parametrize("value", [None, "", 5, ["x"], "x" * 1025])
def test_what_an_action_is_about_must_be_a_text(method, value):
    user = make_staff()
    with pytest.raises(Refused, match="is a text of 1 to 1024 characters"):
        ACTIONS[method].do(user, {"id": value, "user": value, "group": value, "data": "x"})
    with pytest.raises(Refused):
        ACTIONS[method].do(user, {})
    assert not LogEntry.objects.exists()


def test_an_action_that_cannot_be_sent_says_so(monkeypatch):
    monkeypatch.setattr(actions, "close", lambda *args: False)
    with pytest.raises(Refused, match="the channel layer cannot be reached"):
        ACTIONS["close"].do(make_staff(), {"id": "1"})


def test_the_log_shows_names_as_text(site):
    """And what is about no row of the database has no link that leads nowhere."""
    user = User.objects.create_superuser("boss")
    actions.log(user, f"group {HOSTILE}", "Published a message of 5 bytes.")
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(user)
    shown = browser.get("/admin/").content.decode()
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown and HOSTILE not in shown
    assert LogEntry.objects.get().get_admin_url() is None


@pytest.mark.parametrize("name", ["\0", "\ud800", "\u202e"])
def test_a_name_that_a_database_may_not_take_is_escaped(name):
    actions.log(make_staff(), f"group {name}", f"Unsubscribed the connection from {name}.")
    entry = LogEntry.objects.get()
    escaped = name.encode("unicode_escape").decode()
    assert entry.object_repr == f"group {escaped}"
    assert escaped in entry.change_message


# Permissions


def test_permissions_are_those_of_active_staff_who_may_look():
    everything = make_staff(*(name.partition(".")[2] for name in ALL))
    assert find_permissions(everything) == frozenset(ALL)
    for field in ("is_active", "is_staff"):
        fields = {"is_active": True, "is_staff": True, field: False}
        for name, value in fields.items():
            setattr(everything, name, value)
        assert not find_permissions(everything)
    assert not find_permissions(make_staff("close_console", name="kim"))
    assert not find_permissions(None)
    assert not find_permissions(TokenUser("7"))


async def test_nothing_waits_once_all_have_left(site):
    async with look(site, await staff()) as watcher:
        await watcher.call("overview")
    assert get_hub().over
