"""The recipes of the documentation run as they are written."""

import json
import unittest
from contextlib import AsyncExitStack

import pytest
from asgiref.sync import sync_to_async
from channels.routing import URLRouter
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import transaction
from django.db.models.signals import post_save
from django.test import RequestFactory

from filtered_websocket.checks.groups import check_groups
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import unsubscribe
from filtered_websocket.history import ahistory
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.presence import Info, apresence, apresence_stats
from filtered_websocket.publish import apublish, apublish_to_user
from filtered_websocket.testing import allows, connect

from ..snippets import named
from ..waiting import until

JSON = "filtered_websocket.json_codec.JSONCodec"
pytestmark = pytest.mark.django_db(transaction=True)


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


EXAMPLE = "mysite.groups"


@pytest.fixture
def example(site, settings):
    """All that rules can say, as the page has it; the rules of the settings."""
    settings.FILTERED_WEBSOCKET = {"GROUPS": EXAMPLE, "CODEC": JSON}
    groups, filters = site("docs/groups.md", "groups.py", "filters.py")
    del groups.grouppatterns
    exec(compile(named("docs/groups.md")["all of it"], "groups.py", "exec"), vars(groups))
    return [filters.Rooms]


@sync_to_async
def let_view_boards(user):
    kind = ContentType.objects.create(app_label="board", model="board")
    user.user_permissions.add(
        Permission.objects.create(codename="view_board", content_type=kind, name="view")
    )


async def test_all_that_rules_can_say_works_as_it_is_written(example):
    pk, ann, bob, eve = await members()
    await let_view_boards(bob)
    room = f"room:{pk}"
    for name, who in {"news": (ann, bob, eve), room: (ann, bob), "board:x": (bob,)}.items():
        for user in (ann, bob, eve):
            assert await allows(EXAMPLE, "join", name, user) is (user in who)
            assert await allows(EXAMPLE, "publish", name, user) is (user in who and name == room)
    for name in ("room:x", "board:x/y", "user:1", "elsewhere"):
        assert not await allows(EXAMPLE, "join", name, ann)
    async with connect(example, user=ann) as one, connect(example, user=bob) as two:
        await one.send(json.dumps({"join": room}))
        await one.settle()
        assert await apresence(room) == {one.connection.id: Info(str(ann.pk))}
        await one.send(json.dumps({"say": "hi", "to": room}))
        await one.settle()
        # Who comes later catches up, and then hears the rest.
        assert (await two.connection.recover(room, ("", 0))).recovered
        assert json.loads(await two.receive()) == {"from": "ann", "text": "hi"}
        assert (await apresence_stats(room)).users == 2
        for number in range(2):
            await apublish({"number": number}, "board:x")
        await two.send(json.dumps({"join": "board:x"}))
        assert json.loads(await two.receive()) == {"number": 1}
        assert len((await ahistory("board:x")).publications) == 1
    async with connect(example, user=ann, personal=True) as device:
        for number in range(21):
            await apublish_to_user(ann, {"number": number})
            assert json.loads(await device.receive()) == {"number": number}
    assert len((await ahistory(f"user:{ann.pk}")).publications) == 20


async def test_the_example_of_rules_is_printed_as_it_is_typed_and_has_no_mistake(example, capsys):
    """But for the permission of a model that this site does not have."""
    _served = FilteredWebSocketConsumer.as_asgi(filters=example)  # a route with these rules
    await sync_to_async(call_command)("groups")
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "  group('news')",
        "  group('room:<int:room>', join=is_member, publish=is_member, presence=True,"
        " join_leave=True, history=History(size=100, ttl=300))",
        "  group('board:<slug:name>', join='board.view_board', history=History(size=1, ttl=3600),"
        " latest=True)",
        "  personal(history=History(size=20, ttl=3600))",
    ]
    [mistake] = [one for one in check_groups() if "permission" in one.msg]
    assert [one.id for one in check_groups()] == [mistake.id]
    assert "'board.view_board'" in mistake.msg


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


async def test_the_tests_of_presence_and_history_pass(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups", "CODEC": JSON}
    *_, room = site("docs/presence.md", "groups.py", "filters.py", "test_room.py")
    await room.test_who_has_entered_is_online()
    settings.FILTERED_WEBSOCKET = {}
    [kept] = site("docs/history.md", "test_history.py")
    await kept.test_who_comes_back_gets_what_was_missed()


async def test_the_test_of_rules_passes(site):
    *_, rules = site("docs/groups.md", "groups.py", "test_groups.py")
    result = unittest.TestResult()
    await sync_to_async(unittest.defaultTestLoader.loadTestsFromModule(rules).run)(result)
    assert result.testsRun == 1 and result.wasSuccessful(), result
