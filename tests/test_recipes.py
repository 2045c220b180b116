"""The recipes of the documentation run as they are written."""

import json
import sys
import types
from contextlib import AsyncExitStack

import pytest
from asgiref.sync import sync_to_async
from channels.routing import URLRouter
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models.signals import post_save
from django.test import RequestFactory

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import unsubscribe
from filtered_websocket.history import memory
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import allows, connect

from .snippets import named
from .waiting import until

JSON = "filtered_websocket.json_codec.JSONCodec"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(monkeypatch):
    """Makes modules of ``mysite`` from the blocks of a page."""

    def make(page, *files):
        package = types.ModuleType("mysite")
        package.__path__ = []
        monkeypatch.setitem(sys.modules, "mysite", package)
        made = []
        for file in files:
            name = f"mysite.{file.removesuffix('.py')}"
            module = types.ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            exec(compile(named(page)[file], file, "exec"), vars(module))
            made.append(module)
        return made

    return make


@sync_to_async
def members():
    """A room, who is in it, and who is not."""
    room = Group.objects.create(name="room")
    ann, bob, eve = (User.objects.create(username=name) for name in ("ann", "bob", "eve"))
    room.user_set.add(ann, bob)
    return room.pk, ann, bob, eve


async def told(client, message):
    await client.send(json.dumps(message))
    return json.loads(await client.receive())


async def test_rooms_with_permissions(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups", "RECHECK": 0.05}
    _, _, routes = site("docs/groups.md", "groups.py", "filters.py", "routes.py")
    app = URLRouter(routes.routes)
    pk, ann, bob, eve = await members()
    room = f"room:{pk}"
    assert await allows("mysite.groups", "join", room, ann)
    assert not await allows("mysite.groups", "join", room, eve)
    async with (
        connect(app, "/rooms/", user=ann) as one,
        connect(app, "/rooms/", user=bob) as two,
        connect(app, "/rooms/", user=eve) as other,
    ):
        refusal = {"refused": "may not join this group", "group": room}
        assert await told(other, {"join": room}) == refusal
        for client in (one, two):
            await client.send(json.dumps({"join": room}))
            await client.settle()
        await one.send(json.dumps({"say": "hi", "to": room}))
        assert json.loads(await two.receive()) == {"from": "ann", "text": "hi"}
        answer = await told(other, {"say": "hi", "to": room})
        assert answer == {"refused": "may not publish to this group", "group": room}
        assert (await told(other, {"join": "staff:it"}))["group"] == "staff:it"
        # A right that ends, found by asking again; and one that is taken at once.
        left = [c for c in get_hub().connections.values() if c.user.username == "bob"]
        await sync_to_async(bob.groups.clear)()
        await until(lambda: room not in left[0].groups)
        unsubscribe(ann, room)
        await one.send(json.dumps({"leave": "news"}))
        assert await two.received_nothing() and await one.received_nothing()
        assert room not in get_hub().groups.names


async def test_notify_a_user(site):
    asgi, views, signals = site("docs/users.md", "asgi.py", "views.py", "signals.py")
    _, ann, bob, _ = await members()
    app = URLRouter(asgi.routes)

    def greet():
        request = RequestFactory().post("/", {"text": "hi"})
        request.user = ann
        with transaction.atomic():
            assert views.greet(request, bob.pk).status_code == 204

    def rename():
        bob.first_name = "Robert"
        bob.save()

    try:
        async with (
            connect(app, "/me/", user=bob) as laptop,
            connect(app, "/me/", user=bob) as phone,
            connect(app, "/me/", user=ann) as other,
        ):
            await sync_to_async(greet)()
            await sync_to_async(rename)()
            for device in (laptop, phone):
                assert json.loads(await device.receive()) == {"from": "ann", "text": "hi"}
                assert json.loads(await device.receive()) == {"profile": "Robert"}
            assert await other.received_nothing()
    finally:
        post_save.disconnect(signals.profile_saved, sender=User)


async def test_per_recipient_fields(site):
    _, routes = site("docs/recipes.md", "filters.py", "routes.py")
    users = {
        "staff": User(pk=1, username="staff", is_staff=True),
        "seller": User(pk=2, username="seller"),
        "other": User(pk=3, username="other"),
        "guest": None,
    }
    article = {"name": "kettle", "cost": 3, "seller": 2}
    expected = {
        "staff": {"name": "kettle", "cost": 3, "mine": False},
        "seller": {"name": "kettle", "mine": True},
        "other": {"name": "kettle", "mine": False},
        "guest": {"name": "kettle", "mine": False},
    }
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(connect(routes.shop, user=user))
            for name, user in users.items()
        }
        await clients["staff"].send(json.dumps({"internal": True, "name": "inventory"}))
        await clients["staff"].send(json.dumps(article))
        assert json.loads(await clients["staff"].receive())["name"] == "inventory"
        for name, client in clients.items():
            assert json.loads(await client.receive()) == expected[name]


async def test_who_is_online(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups", "CODEC": JSON}
    ann, bob = await sync_to_async(two_users)()
    _, filters = site("docs/presence.md", "groups.py", "filters.py")
    line = [filters.EnterRoom, filters.ShowWhoIsOnline]
    everyone = {"room": "room:1", "online": [str(ann.pk), str(bob.pk)]}
    alone = {"room": "room:1", "online": [str(ann.pk)]}
    async with connect(line, user=ann) as one:
        assert await told(one, {"room": 1}) == alone
        async with connect(line, user=bob) as two:
            assert await told(two, {"room": 1}) == everyone
            assert json.loads(await one.receive()) == everyone
        assert json.loads(await one.receive()) == alone


def two_users():
    return [User.objects.create(username=name) for name in ("ann", "bob")]


async def test_last_20_and_catching_up(site):
    [chat] = site("docs/history.md", "chat.py")
    memory.forget_all()
    app = FilteredWebSocketConsumer.as_asgi(
        filters=[chat.Chat, chat.Place], groups=["home"], group_rules=chat.grouppatterns
    )
    async with connect(app) as ann, connect(app) as bob:
        assert (await told(ann, {"chat": 1}))["last"] == []
        for number in range(30):
            said = await told(ann, {"chat": 1, "say": f"m{number}"})
            assert said["text"] == f"m{number}"
        answer = await told(bob, {"chat": 1})
        assert answer["last"] == [f"m{number}" for number in range(10, 30)]
        assert answer["at"] == said["at"] == [said["at"][0], 30]
    async with connect(app) as ann, connect(app) as bob:
        await told(ann, {"chat": 1})
        said = await told(ann, {"chat": 1, "say": "m30"})
        back = await told(bob, {"chat": 1, "since": answer["at"]})
        assert back == {"text": "m30", "at": said["at"]}
        await bob.send(json.dumps({"chat": 1, "since": ["other", 3]}))
        assert len(json.loads(await bob.receive())["last"]) == 20
