"""Presence over whole connections: on plain routes, in memory and on Redis."""

import asyncio
import json

import pytest
from channels.layers import channel_layers
from django.contrib.auth import get_user_model

from filtered_websocket import WebSocketConsumerFilter, WebSocketMessageFilter
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import active_hub
from filtered_websocket.layer.envelope import BadEnvelope, Batch, group_key, seal
from filtered_websocket.presence import Info, Stats, apresence, apresence_stats
from filtered_websocket.presence.base import Event, seal_events
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect

from ..layer.test_link import Layer
from ..waiting import until
from .test_reading import use_layer
from .worlds import call, entry

RULES = [
    group("room:<int:room>", presence=True, join_leave=True),
    group("quiet", presence=True),
    group("plain"),
]
told = []


class Commands(WebSocketMessageFilter):
    """``+group``, ``-group``."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        text = message.decode()
        if text[0] == "+":
            is_joined = await web_socket_instance.join(text[1:])
            who = web_socket_instance.present(text[1:])
            assert (web_socket_instance.id in who) == text.startswith("+room")
            web_socket_instance.push(f"joined {is_joined}")
        else:
            await web_socket_instance.leave(text[1:])


class Note(WebSocketConsumerFilter):
    @classmethod
    def filter(cls, web_socket_instance, event):
        if event["type"] == "presence":
            who = web_socket_instance.present(event["data"]["group"])
            told.append((event["data"]["group"], event["data"]["changes"], set(who)))


@pytest.fixture(autouse=True)
def clear():
    told.clear()


@pytest.fixture(params=["memory", "pubsub", "encrypted", "core", "foreign"])
def layer(request, settings, valkey):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 60.0, "LAYER_SETTLE": 0}
    if request.param == "foreign":
        channel_layers.set("default", Layer())
    elif request.param != "memory":
        kind = "core" if request.param == "core" else "pubsub"
        use_layer(settings, kind, valkey.url)
        if request.param == "encrypted":
            config = settings.CHANNEL_LAYERS["default"]["CONFIG"]
            config["symmetric_encryption_keys"] = ["a secret of 32 characters or more"]
    yield request.param
    channel_layers.backends.clear()


def app(*filters):
    return FilteredWebSocketConsumer.as_asgi(filters=[Commands, *filters], group_rules=RULES)


def user(pk):
    return get_user_model()(pk=pk)


async def test_who_joins_is_present_until_they_leave(layer):
    site = app()
    async with connect(site, user=user(1)) as ann, connect(site) as bob:
        for client in (ann, bob):
            await client.send("+room:1")
            assert await client.receive() == "joined True"
        assert set((await here("room:1")).values()) == {Info("1"), Info(None)}
        assert await apresence_stats("room:1") == Stats(2, 2)
        await ann.send("-room:1")
        await ann.settle()
        assert await here("room:1") == {only(): Info(None)}
        await bob.close()
        assert await here("room:1") == {}
    assert await here("room:1") == {}


async def here(group):
    """What the store has, which is what this process has told."""
    found = await apresence(group)
    if active_hub() is not None:
        await until(lambda: active_hub().presence.present(group) == found)
    return found


def only():
    [found] = get_hub().presence.present("room:1")
    return found


async def test_joins_and_leaves_are_told_to_the_consumer_chain(layer):
    site = app(Note)
    async with connect(site, user=user(1)) as ann:
        await ann.send("+room:1")
        await ann.receive()
        async with connect(site, user=user(1)) as again:
            await again.send("+room:1")
            await again.receive()
        await ann.settle()
        await until(lambda: len(told) > 2)
        await ann.send("-room:1")
        await ann.settle()
    changes = [change for group, some, _ in told for change in some if group == "room:1"]
    assert [{key: one.get(key) for key in ("is", "user", "first", "last")} for one in changes] == [
        {"is": "join", "user": "1", "first": True, "last": None},
        {"is": "join", "user": "1", "first": False, "last": None},
        {"is": "leave", "user": "1", "first": None, "last": False},
    ]
    json.dumps(changes)


@pytest.mark.parametrize("layer", ["pubsub"], indirect=True)
async def test_who_joins_while_the_last_one_leaves_is_told_of_it(layer, settings, monkeypatch):
    """Its join is published before Redis has subscribed this process to the group again."""
    # No renewal finds it out.
    settings.FILTERED_WEBSOCKET |= {"PRESENCE_LEASE": 3600.0}
    site = app(Note)
    async with connect(site, user=user(1)) as ann, connect(site, user=user(2)) as bob:
        await ann.send("+room:1")
        assert await ann.receive() == "joined True"
        hub, made, answered, subscribes = active_hub(), [], asyncio.Event(), []
        store, redis = hub.presence.store, hub.link.redis
        change, subscribe = store.change, redis.join

        async def change_slowly(origin, calls):
            answers = await change(origin, calls)
            made.append(calls)
            await answered.wait()
            return answers

        monkeypatch.setattr(store, "change", change_slowly)
        monkeypatch.setattr(redis, "join", lambda *arguments: subscribes.append(arguments))
        await ann.send("-room:1")
        await until(lambda: made and not hub.link.is_joined(group_key("room:1")))
        await bob.send("+room:1")
        await until(lambda: subscribes)
        answered.set()
        await until(lambda: len(made) == 2)
        for arguments in subscribes:
            subscribe(*arguments)
        assert await bob.receive() == "joined True"
        await until(lambda: told and told[-1][1][-1]["user"] == "2")
        assert told[-1][1][-1]["is"] == "join"


async def test_without_join_leave_nothing_is_told(layer):
    site = app(Note)
    async with connect(site) as ann:
        await ann.send("+quiet")
        await ann.receive()
        hub = active_hub()
        assert len((await hub.presence._worker.store.members("quiet")).entries) == 1
        view = hub.view(site.route.pipeline)
        assert view.present("quiet") == {}
        # Another route of the process may have a rule that tells.
        view.tell("quiet", [])
    assert told == []


async def test_groups_without_presence_pay_nothing():
    async with connect(app()) as ann:
        await ann.send("+plain")
        assert await ann.receive() == "joined True"
        hub = active_hub()
        assert hub.presence._worker is None
        assert hub.view(app().route.pipeline).present("plain") == {}
        hub.presence.miss("plain")
        hub.presence.layer_back()
        hub.presence._receive("plain", [])
        await hub.presence.entered("plain", "nobody")
        await ann.send("-plain")
        await ann.settle()
        hub.presence.leave("plain", "nobody")
        assert hub.presence._worker is None


async def test_an_info_that_cannot_be_kept_refuses_the_join(monkeypatch):
    class Long(WebSocketMessageFilter):
        @classmethod
        async def filter(cls, web_socket_instance, message):
            await web_socket_instance.join("room:1")

    monkeypatch.setattr("filtered_websocket.presence.base.MAX_ENTRY", 3)
    async with connect(app(Long)) as ann:
        await ann.send("+room:1")
        await ann.settle()
        hub = active_hub()
        assert hub.counts["not_allowed"] == 1
        assert "room:1" not in hub.groups.names


async def test_after_a_gap_and_an_outage_the_group_is_read_again(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 60.0, "LAYER_SETTLE": 0}
    monkeypatch.setattr("filtered_websocket.presence.worker.SETTLE", 0.0)
    layer = Layer()
    channel_layers.set("default", layer)
    async with connect(app(Note), user=user(1)) as ann:
        await ann.send("+room:1")
        await ann.receive()
        await ann.settle()
        store = active_hub().presence._worker.store
        # Of another process, and its join is lost.
        monkeypatch.setattr(store, "_on_events", lambda group, events: None)
        await call(store, "other", "room:1", ("b", entry("2")))
        for number in (0, 5):
            batch = Batch("o", group_key("room:1"), number, [new_item("hi")])
            await layer.group_send(batch.key, seal(batch))
        await until(lambda: len(told) > 1)
        assert told[-1][1][0] == {
            "is": "join", "connection": "b", "user": "2", "info": None, "first": True
        }  # fmt: skip
        await call(store, "other", "room:1", ("b", None))
        layer.away = True
        await active_hub().link.round_trip()
        active_hub().link._health.note_lost(ConnectionError("away"))
        layer.away = False
        await until(lambda: len(told) > 2)
        assert told[-1][1][0]["is"] == "leave"
    channel_layers.backends.clear()


async def test_what_is_no_join_or_leave_is_skipped():
    async with connect(app()) as ann:
        await ann.send("+room:1")
        await ann.receive()
        presence = active_hub().presence
        with pytest.raises(BadEnvelope):
            presence.receive({"v": 2, "p": 1})
        event = Event(1, "join", "c", '"1"\nnull', True)
        presence.receive(seal_events(group_key("room:2"), [event]))


def test_each_test_has_a_world_of_its_own():
    async def leave_open():
        client = await connect(app())
        await client.send("+room:1")
        await client.receive()
        assert len(await apresence("room:1")) == 1

    for _ in range(2):
        asyncio.run(leave_open())
