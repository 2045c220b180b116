"""Orders and questions by the API."""

import time

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from filtered_websocket import publish as publishing
from filtered_websocket.api import control, methods
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import connect

from ..protocols.clients import Speaker
from ..protocols.clients import app as protocol_app
from ..waiting import until
from .calling import app, error, grouppatterns, result

aresult = sync_to_async(result)
aerror = sync_to_async(error)


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(control, "WAIT", 0.15)


@pytest.fixture
def users(transactional_db):
    return [User.objects.create(username=name) for name in ("ann", "bob")]


def come(user=None):
    return connect(app(), user=user)


async def test_a_user_is_subscribed_and_unsubscribed(users):
    ann, bob = users
    async with come(ann) as one, come(ann) as two, come(bob) as other:
        fields = {"user": str(ann.pk), "channel": "news"}
        assert await aresult("subscribe", **fields) == {}
        await aresult("publish", channel="news", data="x")
        assert await one.receive() == await two.receive() == "x"
        assert await other.received_nothing()
        assert await aresult("unsubscribe", **fields, client=one.connection.id) == {}
        await aresult("publish", channel="news", data="y")
        assert await two.receive() == "y" and await one.received_nothing()


async def test_one_connection_of_a_user_is_named_with_its_user(users):
    ann, bob = users
    async with come(ann) as one, come(ann) as two, come() as anonymous:
        for user, client, group in [
            (ann, one, "room:1"),
            (bob, one, "room:2"),
            (None, one, "room:3"),
            (None, anonymous, "room:4"),
            (ann, anonymous, "room:5"),
        ]:
            name = "" if user is None else str(user.pk)
            fields = {"user": name, "client": client.connection.id, "channel": group}
            assert await aresult("subscribe", **fields) == {}
        await until(lambda: "room:4" in anonymous.connection.joined)
        home = {"(no filters)"}
        joined = [client.connection.joined - home for client in (one, two, anonymous)]
        assert joined == [{"room:1"}, set(), {"room:4"}]


async def test_a_user_is_disconnected_but_for_the_connections_to_keep(users):
    ann, bob = users
    async with come(ann) as one, come(ann) as two, come(bob) as other:
        kept = [two.connection.id]
        assert await aresult("disconnect", user=str(ann.pk), whitelist=kept) == {}
        assert (await one.closed(), one.close_reason) == (3503, "force disconnect")
        how = {"code": 4009, "reason": "bye"}
        assert await aresult("disconnect", user=str(ann.pk), disconnect=how) == {}
        assert (await two.closed(), two.close_reason) == (4009, "bye")
        assert other.connection.user == bob


async def test_one_connection_is_disconnected_if_it_is_the_users(users):
    ann, bob = users
    async with come(ann) as one, come() as anonymous:
        client = one.connection.id
        for name in (str(bob.pk), ""):
            await aresult("disconnect", user=name, client=client, code=4000)
        assert one.connection.id == client
        await aresult("disconnect", user=str(ann.pk), client=client, code=4001, reason="one")
        assert (await one.closed(), one.close_reason) == (4001, "one")
        await aresult("disconnect", user="", client=anonymous.connection.id, code=4002)
        assert (await anonymous.closed(), anonymous.close_reason) == (4002, "")


async def test_a_connection_expires_when_the_backend_says(users):
    ann, bob = users
    async with come(ann) as one, come(bob) as two, come() as anonymous:
        assert await aresult("refresh", user=str(ann.pk), expired=True) == {}
        assert (await one.closed(), one.close_reason) == (3005, "expired")
        later = int(time.time()) + 3600
        fields = {"user": str(bob.pk), "client": two.connection.id}
        await aresult("refresh", **fields, expire_at=later)
        await until(lambda: two.connection.deadline is not None)
        await aresult("refresh", **fields)
        await until(lambda: two.connection.deadline is None)
        await aresult("refresh", **fields, expire_at=1)
        assert await two.closed() == 4401
        await aresult("refresh", user="", client=anonymous.connection.id, expired=True)
        assert await anonymous.closed() == 3005


async def test_who_is_no_user_of_the_tenant_is_left_alone(users, site):
    ann, _ = users
    site.FILTERED_WEBSOCKET = site.FILTERED_WEBSOCKET | {"TENANT": lambda: "acme"}
    async with come(ann) as one:
        site.FILTERED_WEBSOCKET = site.FILTERED_WEBSOCKET | {"TENANT": lambda: "other"}
        await aresult("subscribe", user=str(ann.pk), channel="news")
        site.FILTERED_WEBSOCKET = site.FILTERED_WEBSOCKET | {"TENANT": lambda: "acme"}
        await aresult("subscribe", user=str(ann.pk), channel="room:1")
        await until(lambda: "room:1" in one.connection.joined)
        assert "news" not in one.connection.joined


def test_an_order_that_the_layer_does_not_take_is_error_100(monkeypatch):
    def fail(group, item):
        raise ConnectionError("no Redis")

    monkeypatch.setattr(control, "send_now", fail)
    for method, fields in {
        "subscribe": {"channel": "news"},
        "unsubscribe": {"channel": "news"},
        "disconnect": {},
        "refresh": {},
    }.items():
        assert error(method, user="1", **fields)[0] == 100


# What is kept


async def test_presence_is_told_as_clients_know_it(users):
    ann, _ = users
    async with come(ann) as one, come() as two:
        ids = {str(ann.pk): one.connection.id, "": two.connection.id}
        for user, client in ids.items():
            await aresult("subscribe", user=user, client=client, channel="room:1")
        await until(lambda: two.connection.groups and "room:1" in two.connection.joined)
        hub = get_hub()
        await hub.presence.flushed()
        found = (await aresult("presence", channel="room:1"))["presence"]
        assert found == {client: {"client": client, "user": user} for user, client in ids.items()}
        stats = await aresult("presence_stats", channel="room:1")
        assert stats == {"num_clients": 2, "num_users": 2}
    assert await aresult("presence", channel="room:1") == {"presence": {}}


def test_what_a_join_filter_has_said_of_a_connection_is_its_info_there(monkeypatch):
    found = {"id": methods.Info("5", {"name": "ann"}), "other": methods.Info(None, None)}
    monkeypatch.setattr(methods, "read_presence", lambda group: found)
    assert result("presence", channel="room:1")["presence"] == {
        "id": {"client": "id", "user": "5", "chan_info": {"name": "ann"}},
        "other": {"client": "other", "user": ""},
    }


@pytest.fixture
def kept():
    """Five publications, and their epoch."""
    for number in range(1, 6):
        answer = result("publish", channel="kept:a", data=number)
    return answer["epoch"]


def test_a_history_is_read_in_pages(kept):
    def read(**fields):
        found = result("history", channel="kept:a", **fields)
        assert (found["offset"], found["epoch"]) == (5, kept)
        return [(one["offset"], one["data"]) for one in found["publications"]]

    every = [(number, number) for number in range(1, 6)]
    assert read() == read(limit=0) == []
    assert read(limit=-1) == read(limit=100) == every
    assert read(limit=2) == every[:2]
    assert read(limit=2, reverse=True) == every[:2:-1]
    since = {"offset": 3, "epoch": kept}
    assert read(limit=-1, since=since) == every[3:]
    assert read(limit=-1, since=since, reverse=True) == every[1::-1]
    assert read(limit=-1, since={}) == every


def test_a_position_of_another_epoch_is_error_112(kept):
    since = {"offset": 3, "epoch": "other"}
    code, message = error("history", channel="kept:a", limit=-1, since=since)
    assert code == 112 and kept in message


def test_who_asks_from_before_the_oldest_one_on_gets_what_there_is(kept):
    for number in range(6, 13):
        result("publish", channel="kept:a", data=number)

    def read(offset, **fields):
        since = {"offset": offset, "epoch": kept}
        found = result("history", channel="kept:a", limit=-1, since=since, **fields)
        return [one["offset"] for one in found["publications"]]

    assert read(0) == list(range(3, 13))
    assert read(20, reverse=True) == list(range(12, 2, -1))
    assert read(20) == read(1, reverse=True) == []


async def test_publications_have_what_is_known_of_them():
    async with connect(app()) as client:
        await aresult("publish", channel="kept:a", data="text", tags={"a": "b"})
        await aresult("publish", channel="kept:a", b64data="/wA=")
        await client.connection.apublish("said", "kept:a")
        sender = client.connection.id
        found = await aresult("history", channel="kept:a", limit=-1)
    assert found["publications"] == [
        {"offset": 1, "data": "text", "tags": {"a": "b"}},
        {"offset": 2, "data": None, "b64data": "/wA="},
        {"offset": 3, "data": "said", "info": {"client": sender}},
    ]


def test_a_history_is_removed(kept):
    assert result("history_remove", channel="kept:a") == {}
    found = result("history", channel="kept:a", limit=-1)
    assert (found["publications"], found["offset"]) == ([], 5) and found["epoch"] != kept


# All processes


async def test_groups_are_counted_and_found_by_a_pattern(users):
    ann, _ = users
    async with (
        connect(app("room:1", "news", personal=True), user=ann),
        connect(app("room:1", "room:22", "bad\ud800name")),
    ):
        for pattern, expected in {
            "": {f"#{ann.pk}": 1, "news": 1, "room:1": 2, "room:22": 1},
            "room:*": {"room:1": 2, "room:22": 1},
            "room:?": {"room:1": 2},
            "#*": {f"#{ann.pk}": 1},
            "[n]ews": {"news": 1},
            "nothing": {},
        }.items():
            found = (await aresult("channels", pattern=pattern))["channels"]
            assert found == {name: {"num_clients": n} for name, n in expected.items()}


async def test_users_of_another_tenant_are_not_listed(users, site):
    ann, _ = users
    tenant = ["acme"]
    site.FILTERED_WEBSOCKET = site.FILTERED_WEBSOCKET | {"TENANT": lambda: tenant[0]}
    async with connect(app("news", personal=True), user=ann):
        tenant[0] = "other"
        assert list((await aresult("channels"))["channels"]) == ["news"]
        tenant[0] = "acme"
        assert list((await aresult("channels"))["channels"]) == [f"#{ann.pk}", "news"]


async def test_processes_tell_of_themselves(users):
    ann, _ = users
    async with come(ann), connect(app("news", "room:1")):
        [node] = (await aresult("info"))["nodes"]
    assert node.pop("uid") and node.pop("name") and node.pop("uptime") >= 0
    assert node == {
        "version": "1.0.0.dev0",
        "num_clients": 2,
        "num_users": 1,
        "num_channels": 3,
        "num_subs": 3,
    }


def test_where_nobody_is_connected_and_no_other_process_is_reached_there_is_nothing():
    assert result("channels") == {"channels": {}} and result("info") == {"nodes": []}
    assert publishing._publisher is None


def test_while_the_layer_is_away_nobody_knows(monkeypatch):
    monkeypatch.setattr(methods, "is_shared", lambda: True)
    monkeypatch.setattr(methods, "count_members", lambda pattern: None)
    monkeypatch.setattr(methods, "describe_processes", lambda: None)
    assert error("channels")[0] == error("info")[0] == 100


async def test_clients_of_the_protocol_get_tags_and_are_known_as_publishers():
    async with Speaker(protocol_app(rules=grouppatterns)) as one:
        await one.ask(subscribe={"channel": "kept:said"})
        await aresult("publish", channel="kept:said", data={"n": 1}, tags={"kind": "a"})
        pushed = (await one.push())["pub"]
        assert (pushed["data"], pushed["tags"]) == ({"n": 1}, {"kind": "a"})
        await one.say({"id": 9, "publish": {"channel": "kept:said", "data": 2}})
        assert [len(await one.hear()) for _ in range(2)] == [1, 2]  # its own push, and the reply
        found = await aresult("history", channel="kept:said", limit=-1)
        assert [one.get("tags") for one in found["publications"]] == [{"kind": "a"}, None]
        assert found["publications"][1]["info"] == {"client": one.id}
        kept = await one.ask(history={"channel": "kept:said", "limit": -1})
        assert kept["history"]["publications"][0]["tags"] == {"kind": "a"}


async def test_a_user_whom_only_a_jwt_names_is_ordered_about_too(site):
    jwt = pytest.importorskip("jwt")
    site.FILTERED_WEBSOCKET = site.FILTERED_WEBSOCKET | {"JWT_KEY": "s" * 32}
    token = jwt.encode({"sub": "ann"}, "s" * 32, "HS256")
    async with Speaker(protocol_app(rules=grouppatterns), connects=False) as one:
        await one.ask(connect={"token": token})
        await aresult("subscribe", user="ann", channel="news")
        assert (await one.push())["channel"] == "news"
        assert list((await aresult("channels", pattern="news"))["channels"]) == ["news"]
        assert await aresult("disconnect", user="bob") == {}
        assert await aresult("disconnect", user="ann") == {}
        assert await one.closed() == 3503
