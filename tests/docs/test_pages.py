"""What pages show of filters, users and tokens runs as it is written."""

import gc
import json
import os
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.db import transaction
from django.urls import URLPattern, URLResolver, path

from filtered_websocket import Close, NotAllowed, WebSocketConsumerFilter, WebSocketMessageFilter
from filtered_websocket.auth.authenticators import authenticate
from filtered_websocket.checks.settings import check_settings
from filtered_websocket.conf import conf
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group
from filtered_websocket.history import Page, ahistory
from filtered_websocket.models import Token
from filtered_websocket.publish import apublish
from filtered_websocket.routing import with_websockets
from filtered_websocket.storage_objects import get_storage_object
from filtered_websocket.testing import allows, connect, published
from filtered_websocket.types import Identity

from ..protocols.clients import speak
from ..snippets import named
from ..streams.clients import Streamed

JSON = "filtered_websocket.json_codec.JSONCodec"
BROADCAST = "filtered_websocket.filters.broadcast_messages"
FILTERS = "docs/filters.md"


@pytest.fixture(autouse=True)
def plain(settings):
    settings.FILTERED_WEBSOCKET = {}


class Tell(WebSocketMessageFilter):
    """Publish a JSON message to everyone, its sender too."""

    @classmethod
    def filter(cls, web_socket_instance, message):
        web_socket_instance.publish(message, to_self=True)


# Filters


async def test_who_joins_is_greeted_and_who_leaves_is_told(site):
    page = site.run(FILTERS, "join and leave")
    line, rules = [page.Welcome, page.Goodbye], [group("lobby"), group("full")]
    ann, bob = User(pk=1, username="ann"), User(pk=2, username="bob")
    async with connect(line, user=bob, group_rules=rules) as other:
        await other.connection.join("lobby")
        async with connect(line, user=ann, group_rules=rules) as client:
            with pytest.raises(NotAllowed):
                await client.connection.join("full")
            await client.connection.join("lobby")
            assert client.connection.subscriptions["lobby"].reply == {"topic": "filters"}
        assert await other.receive() == "{'name': 'ann'} has left"


async def test_a_call_has_an_answer(site):
    async with connect([site.run(FILTERS, "call").Add]) as client:
        assert await client.call("add", [1, 2]) == 3


async def test_only_staff_see_a_price(site):
    app = FilteredWebSocketConsumer.as_asgi(
        filters=[Tell, site.run(FILTERS, "send").ForStaff], codec=JSON
    )
    staff, other = User(pk=1, is_staff=True), User(pk=2)
    async with connect(app, user=staff) as one, connect(app, user=other) as two:
        await one.send('{"article": 1, "price": 2}')
        assert json.loads(await one.receive()) == {"article": 1, "price": 2}
        assert json.loads(await two.receive()) == {"article": 1}


def test_what_is_known_of_a_message_can_be_imported(site):
    assert site.run(FILTERS, "current").current.group is None


async def test_who_sends_too_fast_is_not_heard(site, settings):
    settings.INSTALLED_FILTERS = site.run(FILTERS, "rate_limit").INSTALLED_FILTERS
    async with connect() as ann, connect() as bob:
        for number in range(50):
            await ann.send(str(number))
        for number in range(40):
            assert await bob.receive() == str(number)
        # How many more come depends on the time that this has taken.
        await ann.settle()


async def test_an_option_is_checked_by_its_filter(site, settings):
    truncate = site.run(FILTERS, "options", "mysite.filters").Truncate
    entry = {"NAME": "mysite.filters.Truncate", "OPTIONS": {"length": 3}}
    async with connect([entry, BROADCAST]) as ann, connect([entry, BROADCAST]) as bob:
        await ann.send("shout")
        assert await bob.receive() == "sho"
    with pytest.raises(ValueError, match="length is 0"):
        type("Zero", (truncate,), {"length": 0})


async def test_a_route_says_who_may_join(site):
    async def teams_of(user):
        return {"red"}

    team = site.run(
        FILTERS,
        "may_join",
        FilteredWebSocketConsumer=FilteredWebSocketConsumer,
        teams_of=teams_of,
    ).TeamConsumer
    async with connect(team.as_asgi(filters=[], groups=["red"])) as client:
        with pytest.raises(NotAllowed):
            await client.connection.join("blue")
        assert set(client.connection.groups) == {"red"}


async def test_a_route_takes_json_alone(site):
    page = site.run(FILTERS, "JSON", FilteredWebSocketConsumer=FilteredWebSocketConsumer)
    async with connect(page.chat) as client:
        await client.send("no JSON")
        assert await client.closed() == 4400


async def test_a_codec_of_ones_own(site):
    codec = site.run(FILTERS, "codec").CSVCodec()
    app = FilteredWebSocketConsumer.as_asgi(filters=[Tell], groups=["rows"], codec=codec)
    async with connect(app) as client:
        await client.send('"a",b\r\n')
        assert await client.receive() == "a,b"


async def test_the_entries_of_a_pipeline(site, settings):
    site.run(FILTERS, "options", "mysite.filters")
    page = site.run("docs/settings.md", "INSTALLED_FILTERS")
    settings.INSTALLED_FILTERS = [
        entry.replace("Shout", "Truncate") if isinstance(entry, str) else entry
        for entry in page.INSTALLED_FILTERS
    ]
    async with connect() as client:
        await client.send("to myself")
        assert await client.receive() == "to myself"


# Who connects


@pytest.mark.parametrize("page", ["README.md", "docs/authentication.md"])
async def test_only_logged_in_users_connect(site, settings, page):
    settings.INSTALLED_FILTERS = site.run(page, "only logged-in users").INSTALLED_FILTERS
    anonymous = await connect()
    assert not anonymous.accepted
    await anonymous.close()
    async with connect(user=User(pk=1)) as client:
        assert client.accepted


async def test_a_way_to_connect_of_ones_own(site, settings):
    ann = User(pk=1, username="ann")
    claims = {"Bearer eyGood": SimpleNamespace(user=ann, expires_at=None), "Bearer eyBad": None}
    site.run("docs/authentication.md", "auth.py", "mysite.auth", check_somehow=claims.get)
    page = site.run("docs/authentication.md", "settings for auth.py")
    settings.FILTERED_WEBSOCKET = page.FILTERED_WEBSOCKET
    assert check_settings() == []

    def ask(*headers):
        return authenticate({"type": "websocket", "headers": headers, "query_string": b""})

    identity = await ask((b"authorization", b"Bearer eyGood"))
    assert identity == Identity(user=ann, token=claims["Bearer eyGood"])
    assert await ask() is None
    with pytest.raises(Close) as closing:
        await ask((b"authorization", b"Bearer eyBad"))
    assert closing.value.code == 4401


@pytest.mark.django_db(transaction=True)
async def test_connections_are_closed_from_anywhere(site, settings):
    @sync_to_async
    def make():
        return User.objects.create(username="ann"), Token.objects.create_key(name="lamp")

    user, (token, _) = await make()
    async with connect([], user=user) as of_user, connect([]) as by_id:
        names = {"user": user, "token": token, "connection_id": by_id.connection.id}
        await sync_to_async(site.run)("docs/authentication.md", "disconnect", **names)
        assert await of_user.closed() == 4401
        assert await by_id.closed() == 4401


def test_a_tenant_is_what_a_context_variable_says(site, settings):
    page = site.run("docs/authentication.md", "tenant")
    settings.FILTERED_WEBSOCKET = page.FILTERED_WEBSOCKET
    page.schema.set("a")
    assert check_settings() == [] and conf.TENANT() == "a"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("page", "label"),
    [("docs/groups.md", "subscribe and unsubscribe"), ("docs/users.md", "end it")],
)
async def test_groups_are_taken_and_given(site, page, label):
    user = await User.objects.acreate(username="ann")
    rules = [group("room:<int:room>")]
    async with connect([], user=user, group_rules=rules) as client:
        await client.connection.join("room:7")
        await sync_to_async(site.run)(page, label, user=user)
        if label == "end it":
            assert await client.closed() == 4401
        else:
            await client.settle()
            assert client.connection.subscriptions.keys() & {"room:7", "room:8"} == {"room:8"}


# Messages, and what is kept


@pytest.mark.django_db(transaction=True)
def test_publish_from_anywhere(site):
    with published() as sent:
        with transaction.atomic():
            site.run("README.md", "publish from anywhere")
            assert sent == []
        assert [(one.group, json.loads(one.message)) for one in sent] == [
            ("product:17", {"stock": 3})
        ]


async def test_what_a_rule_keeps_is_kept(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups"}
    site("docs/history.md", "groups.py")
    await apublish("one", "room:1")
    page = site.run("docs/history.md", "from Python")
    kept = await page.ahistory("room:1")
    assert isinstance(kept, Page) and [one.data for one in kept.publications] == [b"one"]
    await page.aforget_history("room:1")
    assert (await ahistory("room:1")).publications == []
    assert page.history.__name__ == "history" and page.forget_history.__name__ == "forget_history"


class Note(WebSocketConsumerFilter):
    seen = []

    @classmethod
    def filter(cls, web_socket_instance, event):
        cls.seen.append(event)


def shape(value):
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)


async def test_presence_is_told_and_read_as_the_page_says(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups"}
    site("docs/presence.md", "groups.py")
    user = User(pk=5)
    async with connect([Note], user=user) as one:
        await one.connection.join("room:7")
        async with connect([Note]) as two:
            await two.connection.join("room:7")
            page = await sync_to_async(site.run)("docs/presence.md", "reading")
            assert (await page.apresence("room:7"))[one.connection.id].user == "5"
            assert await page.apresence_stats("room:7") == (2, 2)
        await one.settle()
    shown = eval(named("docs/presence.md")["event"])
    told = [event for event in Note.seen if event["type"] == "presence"]
    assert shape(shown) == shape(told[0])
    kinds = [change for event in (shown, *told) for change in event["data"]["changes"]]
    for kind in ("join", "leave"):
        assert len({tuple(change) for change in kinds if change["is"] == kind}) == 1


def test_a_storage_object_is_shared_by_filters(site, settings):
    settings.FILTERED_WEBSOCKET = site.run("docs/storage.md", "settings.py").FILTERED_WEBSOCKET
    assert check_settings() == []


async def test_a_filter_remembers(site):
    async with connect([site.run("docs/storage.md", "filters.py").Remember]) as client:
        await client.send("")
        assert await client.receive() == "1 seen"
        get_storage_object().remove("seen", client.connection.id)


async def test_a_storage_object_of_ones_own(site, settings):
    site.run("docs/storage.md", "storage.py", "mysite.storage")
    settings.FILTERED_WEBSOCKET = {
        "STORAGE": {"BACKEND": "mysite.storage", "OPTIONS": {"colour": "blue"}}
    }
    assert check_settings() == []


def test_the_api_has_a_path_and_a_key(site, settings, monkeypatch):
    page = site.run("docs/http-api.md", "end of urls.py, for the API", urlpatterns=[], path=path)
    [api] = page.urlpatterns
    assert isinstance(api, URLResolver) and isinstance(api.url_patterns[0], URLPattern)
    monkeypatch.setenv("API_KEY", "a-long-one-as-secrets-makes-them")
    page = site.run("docs/http-api.md", "settings.py", os=os)
    settings.FILTERED_WEBSOCKET = page.FILTERED_WEBSOCKET
    assert check_settings() == []


def test_garbage_is_collected_less_often(site):
    before = gc.get_threshold()
    try:
        site.run("docs/load.md", "top of asgi.py")
        assert gc.get_threshold()[0] == 50_000
    finally:
        gc.set_threshold(*before)


# The Centrifuge protocol


async def test_clients_of_centrifuge_find_their_path_and_the_rules(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups"}
    site("docs/centrifuge.md", "groups.py")
    settings.INSTALLED_FILTERS = []
    app = site.run("docs/centrifuge.md", "asgi.py").application
    options = {"path": "/connection/websocket", "headers": {"host": "testserver"}}
    async with speak(application=app, **options) as client:
        assert "subscribe" in await client.ask(subscribe={"channel": "news"})
        assert await client.error(subscribe={"channel": "room:7"}) == 103
        assert await client.error(subscribe={"channel": "elsewhere"}) == 102
    assert await allows("mysite.groups", "join", "room:7", User(pk=5))


async def test_a_site_serves_streams(site, settings):
    settings.INSTALLED_FILTERS = []
    app = site.run("docs/streams.md", "asgi.py").application
    for sse in (False, True):
        async with Streamed(app, sse=sse) as client:
            assert await client.ask(ping={}) == {"ping": {}}


async def test_a_site_serves_the_client_for_pages(site, settings):
    settings.INSTALLED_FILTERS = []
    app = site.run(
        "docs/client.md",
        "end of asgi.py",
        application=get_asgi_application(),
        with_websockets=with_websockets,
    ).application
    options = {"path": "/connection/websocket", "headers": {"host": "testserver"}}
    async with speak(application=app, **options) as client:
        assert client.connected["connect"]["client"]
