"""A hub's link through connections of our own to Redis: layer.links."""

import asyncio
import time

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from filtered_websocket.layer import health
from filtered_websocket.layer.envelope import seal
from filtered_websocket.layer.link import LayerLink
from filtered_websocket.layer.links import RedisLink, open_link
from filtered_websocket.layer.redis_layer import redis_layer
from filtered_websocket.threads import tasks

from ..waiting import LIMIT, until
from .scripted_redis import ScriptedRedis
from .test_link import BATCH, FakeHub, answers

CHANNEL = b"asgi__group__fws.g.x"


class Redis(ScriptedRedis):
    """Hands on what is published, unless it is ``deaf``."""

    deaf = False

    def confirm(self, command):
        if command[0] == b"PUBLISH" and not self.deaf:
            self.hand_on(*command[1:])
        return super().confirm(command)

    def hand_on(self, channel, data):
        for client in self.clients:
            if channel in client.channels:
                client.say(self.message(channel, data))


@pytest.fixture(params=[2, 3])
async def server(request):
    async with Redis(request.param) as server:
        yield server


@pytest.fixture
async def layer(server):
    layer = RedisPubSubChannelLayer(hosts=[server.url])
    yield layer
    await redis_layer(layer).close()


@pytest.fixture(autouse=True)
def quick(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT, "LAYER_SETTLE": 0}
    monkeypatch.setattr(tasks, "MAX_PAUSE", 0.02)


class Sub(RedisPubSubChannelLayer):
    """It may change messages."""


async def test_connections_of_our_own_are_for_the_pubsub_layer_itself(layer, settings):
    for kind, expected in ((RedisPubSubChannelLayer, RedisLink), (Sub, LayerLink)):
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": f"{kind.__module__}.{kind.__name__}", "CONFIG": layer._kwargs}
        }
        callbacks = "on_lost", "on_back", "on_bad_envelope", "on_joined_late"
        link = open_link(None, None, **dict.fromkeys(callbacks))
        assert type(link) is expected
        await link.stop()


async def join(hub):
    hub.link.want("fws.g.x")
    assert await hub.link.wait_joined("fws.g.x")


async def test_a_group_is_joined_when_redis_has_confirmed_it(server, layer):
    held = []
    async with FakeHub(layer) as hub:
        assert await hub.link.round_trip()
        server.answer = lambda command: (
            held.append(command) if CHANNEL in command else server.confirm(command)
        )
        hub.link.want("fws.g.x")
        await until(lambda: held, 0)
        assert not hub.link.is_joined("fws.g.x")
        subscriber = next(client for client in server.clients if CHANNEL in client.channels)
        subscriber.say(server.confirm(held[0]))
        assert await hub.link.wait_joined("fws.g.x")
        server.answer = server.confirm
        await hub.link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)
        assert hub.publish_queue == [BATCH]
        assert server.named(b"PUBLISH")[-1] == [CHANNEL, layer.serialize(seal(BATCH))]
        assert await hub.link.round_trip()
    await until(lambda: [CHANNEL] in server.named(b"UNSUBSCRIBE"), 0)
    assert hub.lost == hub.bad == hub.late == []


async def test_bytes_that_are_no_message_cost_nobody_else(server, layer):
    async with FakeHub(layer) as hub:
        await join(hub)
        server.hand_on(CHANNEL, b"\xc1")
        server.hand_on(CHANNEL, layer.serialize({"v": 9}))
        server.hand_on(CHANNEL, layer.serialize(seal(BATCH)))
        await hub.until(lambda: hub.publish_queue)
        assert hub.publish_queue == [BATCH] and len(hub.bad) == 2 and hub.lost == []


async def test_a_cut_subscription_is_an_outage_that_ends_by_itself(server, layer):
    async with FakeHub(layer) as hub:
        await join(hub)
        subscriber = next(client for client in server.clients if CHANNEL in client.channels)
        subscriber.transport.abort()
        await hub.until(lambda: hub.lost)
        await hub.until(lambda: hub.back)
        assert isinstance(hub.lost[0], ConnectionError)
        assert await hub.link.wait_joined("fws.g.x")
        await hub.link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)
        assert len(hub.lost) == len(hub.back) == 1


async def test_a_subscription_that_is_cut_during_an_outage_is_none_until_it_is_confirmed(
    server, layer, settings
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT, "LAYER_SETTLE": 3600}
    async with FakeHub(layer) as hub:
        await join(hub)
        hub.link._health.note_lost(ConnectionError("away"))
        await until(lambda: hub.link._subscriptions.up_to_date.is_set(), 0)
        server.answer = lambda command: None
        subscriber = next(client for client in server.clients if CHANNEL in client.channels)
        subscriber.transport.abort()
        await until(lambda: server.connections == 3, 0)
        assert not hub.link.is_joined("fws.g.x")
        assert len(hub.lost) == 1


async def test_a_subscription_through_which_nothing_comes_is_cut(
    server, layer, settings, monkeypatch
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.5, "LAYER_SETTLE": 0}
    monkeypatch.setattr(health, "HEARTBEAT", 0.01)
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        await until(lambda: hub.link.is_joined("fws.g.x"))
        first = next(client for client in server.clients if CHANNEL in client.channels)
        server.deaf = True
        await until(lambda: first not in server.clients)
        server.deaf = False
        await hub.until(lambda: hub.back)
        assert hub.lost


async def test_a_missing_right_is_named_and_reported_once(server, layer):
    server.answer = lambda command: (
        b"-NOPERM No permissions to access a channel\r\n"
        if command[0] == b"SUBSCRIBE"
        else server.confirm(command)
    )
    async with FakeHub(layer) as hub:
        await hub.until(lambda: hub.lost)
        assert isinstance(hub.lost[0], PermissionError) and "its user needs" in str(hub.lost[0])
        count = len(server.named(b"SUBSCRIBE"))
        await until(lambda: len(server.named(b"SUBSCRIBE")) > count + 3)
        assert len(hub.lost) == 1
        server.answer = server.confirm
        await hub.until(lambda: hub.back)


async def test_a_publisher_opens_a_connection_for_commands_only(server, layer):
    hub = FakeHub(layer)
    await hub.link.send(BATCH)
    assert await answers(hub)
    await hub.link.stop()
    assert server.connections == 1 and server.named(b"SUBSCRIBE") == []


async def test_a_publisher_whose_probe_is_refused_sends_no_other_one(server, layer):
    server.answer = lambda command: b"-NOPERM No permissions to access a channel\r\n"
    hub = FakeHub(layer)
    assert not await hub.link.round_trip()
    assert len(server.named(b"PUBLISH")) == 1
    await hub.link.stop()


async def test_a_link_that_stops_before_it_has_begun_leaves_nothing(server, layer):
    hub = FakeHub(layer)
    hub.link.start()
    await hub.link.stop()
    assert redis_layer(layer)._listeners == {}
    await until(lambda: not server.clients)


async def test_what_cannot_be_sent_in_time_is_an_outage(server, layer, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.5, "LAYER_SETTLE": 0}
    server.answer = lambda command: None
    hub = FakeHub(layer)
    told = []
    hub.link.post(BATCH, told.append)
    await until(lambda: told)
    assert isinstance(told[0], TimeoutError) and len(hub.lost) == 1
    server.answer = server.confirm
    assert await hub.link.wait_available(time.monotonic() + LIMIT)
    await hub.link.stop()


async def test_many_groups_are_joined_again_with_one_command_each(server, layer):
    keys = [f"fws.g.{number}" for number in range(200)]
    async with FakeHub(layer) as hub:
        for key in keys:
            hub.link.want(key)
        await asyncio.gather(*map(hub.link.wait_joined, keys))
        subscriber = next(client for client in server.clients if client.channels)
        server.commands.clear()
        subscriber.transport.abort()
        await hub.until(lambda: hub.back)
        # And one for the probe's own group.
        assert len(server.named(b"SUBSCRIBE")) == 201


async def test_what_is_posted_is_told_once_and_later(server, layer):
    hub = FakeHub(layer)
    told = []
    for number in range(300):
        hub.link.post(BATCH._replace(first=number), told.append)
    with pytest.raises(TypeError):
        hub.link.post(BATCH._replace(first=object()), told.append)
    assert told == []
    await until(lambda: len(told) == 300, 0)
    assert set(told) == {None} and server.connections == 1
    sent = [layer.deserialize(data)["s"] for _, data in server.named(b"PUBLISH")]
    assert sent == list(range(300))
    await hub.link.stop()


async def test_what_is_posted_and_refused_names_the_right_and_is_an_outage(server, layer):
    server.answer = lambda command: b"-NOPERM No permissions to access a channel\r\n"
    hub = FakeHub(layer)
    told = []
    hub.link.post(BATCH, told.append)
    await until(lambda: told, 0)
    assert isinstance(told[0], PermissionError) and "its user needs" in str(told[0])
    assert isinstance(hub.lost[0], PermissionError) and not hub.link.is_available
    server.answer = server.confirm
    await hub.until(lambda: hub.back)
    await hub.link.stop()


async def test_an_error_of_the_connection_itself_is_no_outage_if_it_is_none_of_redis(server, layer):
    hub = FakeHub(layer)
    told = []
    hub.link._answered(told.append, ValueError("a bug"))
    assert isinstance(told[0], ValueError) and hub.link.is_available
    await hub.link.stop()


# Joining and leaving


async def test_leaving_and_joining_again_at_once_ends_joined(server, layer):
    async with FakeHub(layer) as hub:
        await join(hub)
        held = []
        server.answer = lambda command: (
            held.append(command) if command[0] == b"UNSUBSCRIBE" else server.confirm(command)
        )
        hub.link.unwant("fws.g.x")
        await until(lambda: held, 0)
        assert not hub.link.is_joined("fws.g.x")
        hub.link.want("fws.g.x")
        subscriber = next(client for client in server.clients if client.channels)
        subscriber.say(server.confirm(held[0]))
        assert await hub.link.wait_joined("fws.g.x")
        assert server.named(b"SUBSCRIBE").count([CHANNEL]) == 2
        await hub.link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)
        server.answer = server.confirm


async def test_what_was_wanted_for_a_moment_only_costs_no_command(server, layer):
    async with FakeHub(layer) as hub:
        await join(hub)
        count = len(server.commands)
        hub.link.want("fws.g.y")
        hub.link.unwant("fws.g.y")
        hub.link.unwant("fws.g.x")
        hub.link.want("fws.g.x")
        await hub.link._subscriptions.up_to_date.wait()
        assert len(server.commands) == count and hub.link.is_joined("fws.g.x")


async def test_a_confirmation_that_comes_late_counts_and_is_told(server, layer, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.5, "LAYER_SETTLE": 0}
    async with FakeHub(layer) as hub:
        # The probe's own group is joined, and the connection there.
        await until(lambda: hub.link.is_joined(hub.link._probes.keys[0]))
        held = []
        server.answer = lambda command: (
            held.append(command) if CHANNEL in command else server.confirm(command)
        )
        hub.link.want("fws.g.x")
        assert not await hub.link.wait_joined("fws.g.x")
        await hub.until(lambda: hub.lost)
        assert isinstance(hub.lost[0], TimeoutError)
        [subscriber] = [client for client in server.clients if client.channels]
        subscriber.say(server.confirm(held[0]))
        await hub.until(lambda: hub.late and hub.back)
        assert hub.late == ["fws.g.x"] and len(held) == 1
        server.answer = server.confirm


async def test_groups_on_a_host_that_is_there_are_joined_although_another_one_is_not():
    async with Redis() as first, Redis() as second:
        second.refuse()
        theirs = RedisPubSubChannelLayer(hosts=[first.url, second.url])
        keys = [f"fws.g.{number}" for number in range(20)]
        async with FakeHub(theirs) as hub:
            for key in keys:
                hub.link.want(key)
            await hub.until(lambda: hub.lost)
            shards = theirs._shards
            there = [key for key in keys if theirs._get_shard(f"asgi__group__{key}") is shards[0]]
            assert 0 < len(there) < 20
            assert all(await asyncio.gather(*map(hub.link.wait_joined, there)))
            assert not any(map(hub.link.is_joined, set(keys) - set(there)))
        await redis_layer(theirs).close()


async def test_a_group_that_is_left_before_it_is_confirmed_is_left_in_redis(
    server, layer, settings
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.5, "LAYER_SETTLE": 0}
    async with FakeHub(layer) as hub:
        await until(lambda: hub.link.is_joined(hub.link._probes.keys[0]))
        held = []
        server.answer = lambda command: (
            held.append(command) if CHANNEL in command else server.confirm(command)
        )
        hub.link.want("fws.g.x")
        await hub.until(lambda: hub.lost)
        hub.link.unwant("fws.g.x")
        await hub.until(lambda: hub.back)
        server.answer = server.confirm
        [subscriber] = [client for client in server.clients if client.channels]
        subscriber.say(server.confirm(held[0]))
        await until(lambda: [CHANNEL] in server.named(b"UNSUBSCRIBE"))


async def test_a_group_that_came_and_went_during_an_outage_is_not_subscribed(server, layer):
    async with FakeHub(layer) as hub:
        await until(lambda: hub.link.is_joined(hub.link._probes.keys[0]))

        def cut(command):
            for client in tuple(server.clients):
                client.transport.abort()

        server.answer = cut
        hub.link.want("fws.g.x")
        await until(lambda: server.named(b"SUBSCRIBE").count([CHANNEL]) > 3)
        hub.link.unwant("fws.g.x")
        await until(lambda: "fws.g.x" not in hub.link._subscriptions._changed)
        server.commands.clear()
        server.answer = server.confirm
        await hub.until(lambda: hub.back)
        assert server.named(b"SUBSCRIBE")
        assert [CHANNEL] not in server.named(b"SUBSCRIBE")


async def test_a_group_that_is_refused_and_left_is_asked_for_no_more(server, layer):
    server.answer = lambda command: (
        b"-NOPERM No permissions to access a channel\r\n"
        if command == [b"SUBSCRIBE", CHANNEL]
        else server.confirm(command)
    )
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        await hub.until(lambda: hub.lost)
        hub.link.unwant("fws.g.x")
        await hub.until(lambda: hub.back)
        await until(hub.link._subscriptions.up_to_date.is_set)
        server.commands.clear()
        subscriber = next(client for client in server.clients if client.channels)
        subscriber.transport.abort()
        await hub.until(lambda: len(hub.back) == 2)
        assert [CHANNEL] not in server.named(b"SUBSCRIBE")


# Connections through which nothing comes


def confirm_nothing(server, silent):
    """Have the connections in ``silent`` subscribe to nothing, and answer nothing."""

    def answer(command):
        asking = [client for client in server.clients if command[1] in client.channels]
        if command[0] == b"SUBSCRIBE" and asking:
            silent[:] = silent or asking
            if asking[-1] in silent:
                asking[-1].channels.clear()
                return None
        return server.confirm(command)

    server.answer = answer


async def test_a_connection_that_confirms_nothing_is_replaced(server, layer, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1, "LAYER_SETTLE": 0}
    confirm_nothing(server, [])
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        await until(lambda: hub.lost and hub.link.is_joined("fws.g.x"))
        await until(lambda: hub.link.is_available)


async def test_a_connection_that_confirms_nothing_is_replaced_beside_one_that_works(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1, "LAYER_SETTLE": 0}
    async with Redis() as first, Redis() as second:
        confirm_nothing(second, [])
        theirs = RedisPubSubChannelLayer(hosts=[first.url, second.url])
        async with FakeHub(theirs) as hub:
            await until(lambda: [client for client in first.clients if client.channels])
            [there] = [client for client in first.clients if client.channels]
            await until(lambda: hub.lost and hub.link.is_available)
            assert [client for client in first.clients if client.channels] == [there]
        await redis_layer(theirs).close()


async def test_a_redis_that_is_silent_altogether_keeps_the_connections(server, layer, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    held = []
    server.answer = held.append
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        await until(lambda: len(server.named(b"PUBLISH")) > 3)
        [subscriber] = [client for client in server.clients if client.channels]
        server.answer = server.confirm
        for command in [command for command in held if command[0] == b"SUBSCRIBE"]:
            subscriber.say(server.confirm(command))
        await until(lambda: hub.link.is_joined("fws.g.x") and hub.link.is_available)
        assert [client for client in server.clients if client.channels] == [subscriber]
