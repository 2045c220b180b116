"""Groups that are one of this package and one of Channels: layer.bridge."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from contextvars import ContextVar

import msgpack
import pytest
import redis
from channels.consumer import AsyncConsumer, get_handler_name
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import ImproperlyConfigured

from filtered_websocket import WebSocketGroupFilter, current
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import forward, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.layer.links import open_link
from filtered_websocket.layer.names import Names, needed_rights
from filtered_websocket.publish import apublish
from filtered_websocket.testing import connect
from filtered_websocket.threads.tasks import Tasks, end_tasks

from ..e2e.processes import Valkey
from ..protocols import clients as centrifuge
from ..pusher import clients as pusher
from ..snippets import ROOT
from ..waiting import LIMIT, limited, until


class TurnIntoText(WebSocketGroupFilter):
    """What a site writes for events of Channels; it changes what it gets."""

    @classmethod
    def filter(cls, hub, message):
        if isinstance(message, dict):
            return f"{current.group} {current.event}: {message.pop('text')}"


class SlowlyIntoText(WebSocketGroupFilter):
    @classmethod
    async def filter(cls, hub, message):
        await asyncio.sleep(0)
        return TurnIntoText.filter(hub, message)


class Subclass(RedisPubSubChannelLayer):
    """It may do more, so redis-py connects."""


LAYERS = {
    "memory": "channels.layers.InMemoryChannelLayer",
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "redis-py": f"{__name__}.Subclass",
}


def use(settings, name, url=None, **more):
    config = {} if url is None else {"hosts": [{"address": url, "socket_timeout": None}]}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYERS[name], "CONFIG": config}}
    settings.FILTERED_WEBSOCKET = {
        "CHANNELS_GROUPS": ["chat", "orders-*", forward("chat", type="chat.message")],
        "LAYER_TIMEOUT": LIMIT,
        "LAYER_SETTLE": 0,
        **more,
    }


@pytest.fixture(params=LAYERS)
async def layer(request, settings):
    url = None if request.param == "memory" else request.getfixturevalue("valkey").url
    use(settings, request.param, url)
    yield request.param
    if request.param in ("pubsub", "redis-py"):
        await get_channel_layer().flush()


def route(*filters, groups=("chat",)):
    return FilteredWebSocketConsumer.as_asgi(filters=list(filters), groups=list(groups))


def numsub(name):
    """How many processes have subscribed to a group of Channels."""
    [host] = get_channel_layer()._shards
    with redis.Redis.from_url(host.host["address"]) as client:
        return client.pubsub_numsub(f"asgi__group__{name}")[0][1]


async def group_send(name, **event):
    """As existing code does. redis-py does not wait until Redis has subscribed."""
    layer = get_channel_layer()
    if type(layer) is Subclass and name in get_hub().groups.names:
        await until(lambda: numsub(name))
    await layer.group_send(name, event)


class Stock(AsyncConsumer):
    """A consumer of Channels, without a socket."""

    def __init__(self, groups, events):
        self._groups, self._events = groups, events

    async def dispatch(self, message):
        # As Channels does, but that it closes old connections to the database, which it may not.
        await getattr(self, get_handler_name(message))(message)

    async def start(self, message):
        for name in self._groups:
            await self.channel_layer.group_add(name, self.channel_name)
        self._events.put_nowait("joined")

    async def chat_message(self, event):
        self._events.put_nowait(event)


@contextlib.asynccontextmanager
async def consumer(*groups):
    """What a stock consumer gets."""
    received, events = asyncio.Queue(), asyncio.Queue()
    received.put_nowait({"type": "start"})
    task = asyncio.ensure_future(Stock(groups, events)({}, received.get, None))
    try:
        async with limited():
            assert await events.get() == "joined"
            if isinstance(get_channel_layer(), RedisPubSubChannelLayer):
                # channels_redis does not wait until Redis has subscribed.
                await until(lambda: all(map(numsub, groups)))
            yield events
    finally:
        await end_tasks([task])


# From Channels


async def test_what_is_sent_to_a_group_of_channels_reaches_the_members_of_ours_once(layer):
    plain, both = route(groups=["chat", "orders-7"]), route(TurnIntoText, groups=["orders-7"])
    other = route(SlowlyIntoText)
    async with connect(plain) as ann, connect(both) as bob, connect(other) as cid:
        await group_send("chat", type="chat.message", text="hi")
        await group_send("orders-7", type="order.paid", text="7", n=[1])
        await group_send("chat", type="chat.message", text="all")
        assert json.loads(await ann.receive()) == {"type": "chat.message", "text": "hi"}
        # Groups do not wait for one another on channels_redis.core.
        rest = [json.loads(await ann.receive()) for _ in "12"]
        assert {"type": "order.paid", "text": "7", "n": [1]} in rest
        assert {"type": "chat.message", "text": "all"} in rest
        assert await bob.receive() == "orders-7 order.paid: 7"
        assert [await cid.receive() for _ in "12"] == [
            "chat chat.message: hi",
            "chat chat.message: all",
        ]
        for client in (ann, bob, cid):
            assert await client.received_nothing()
        assert get_hub().counts["gap"] == get_hub().counts["bad_envelope"] == 0


async def test_a_group_is_left_with_its_last_member(layer):
    async with connect(route()) as ann:
        async with connect(route(groups=["orders-1"])) as bob, connect(route(groups=["orders-1"])):
            await group_send("orders-1", type="x")
            assert json.loads(await bob.receive()) == {"type": "x"}
        await until(lambda: "orders-1" not in get_hub().link.bridge._boxes._channels)
        await group_send("orders-1", type="x")
        # It is joined again with another one.
        async with connect(route(groups=["orders-1"])) as bob:
            await group_send("orders-1", type="y")
            assert json.loads(await bob.receive()) == {"type": "y"}
        await group_send("chat", type="z")
        assert json.loads(await ann.receive()) == {"type": "z"}


async def test_filters_get_what_json_cannot_say_and_each_pipeline_a_dict_of_its_own(layer):
    seen = []

    class Note(WebSocketGroupFilter):
        @classmethod
        def filter(cls, hub, message):
            seen.append(message.copy())
            message.clear()
            return "seen"

    class Other(Note):
        """Of another pipeline: the chain of each runs once."""

    async with connect(route()) as ann, connect(route(Note)) as bob, connect(route(Other)) as cid:
        event = {"type": "chat.file", "data": b"\x00\xff", "of": {"name": "ann"}}
        await group_send("chat", **event)
        said = json.loads(await ann.receive())
        assert said == {"type": "chat.file", "data": "AP8=", "of": {"name": "ann"}}
        assert [await bob.receive(), await cid.receive()] == ["seen"] * 2
        assert seen == [event] * 2


async def test_clients_of_a_protocol_get_it_as_any_publication(settings):
    use(settings, "memory", PUSHER_APPS=pusher.with_app()["PUSHER_APPS"])
    said = {"type": "chat.message", "text": "hi"}
    rules = [group("chat")]
    async with centrifuge.speak(rules=rules) as ann, pusher.speak(rules=rules) as bob:
        await ann.ask(subscribe={"channel": "chat"})
        await bob.say("pusher:subscribe", {"channel": "chat"})
        await bob.hears("pusher_internal:subscription_succeeded", channel="chat")
        await group_send("chat", **said)
        assert await ann.push() == {"channel": "chat", "pub": {"data": said}}
        assert json.loads(await bob.hears("chat.message", channel="chat")) == said


async def test_what_is_no_event_is_counted_and_costs_nobody_else(layer, settings, caplog):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "MAX_MESSAGE_SIZE": 100}
    async with connect(route()) as ann:
        await group_send("chat", text="no type")
        await group_send("chat", type="long", text="x" * 100)
        await group_send("chat", type="nan", number=float("nan"))
        await group_send("chat", type="short")
        assert json.loads(await ann.receive()) == {"type": "short"}
        assert get_hub().counts["bad_envelope"] == 3
    assert "an event of Channels is a dict with a type" in caplog.text


# To Channels


@pytest.mark.repeats
@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"from": "ann", "text": "hi", "type": "x"}, {"from": "ann", "text": "hi"}),
        ("hi", {"message": "hi"}),
        (b"\xff", {"message": b"\xff"}),
        (["hi"], {"message": ["hi"]}),
    ],
    ids=["dict", "text", "bytes", "list"],
)
async def test_consumers_hear_what_is_published_and_members_get_it_once(layer, message, event):
    async with consumer("chat", "orders-1") as events, connect(route()) as ann:
        if layer == "redis-py":
            await until(lambda: numsub("chat") == 1)
        await apublish(message, "chat")
        await apublish("not forwarded", "orders-1")
        heard = await ann.receive()
        assert await events.get() == {
            **event,
            "type": "chat.message",
            "filtered_websocket": group_key("chat"),
        }
        # What comes back over Channels comes before the next event.
        await group_send("chat", type="chat.message", text="end")
        assert await events.get() == {"type": "chat.message", "text": "end"}
        assert (
            await ann.receive(),
            json.loads(heard) if isinstance(message, dict | list) else heard,
        ) == (
            '{"type":"chat.message","text":"end"}',
            message,
        )
        assert await ann.received_nothing() and events.empty()


async def test_what_a_consumer_sends_on_from_one_group_reaches_the_other(layer):
    async with (
        consumer("chat") as events,
        connect(route()) as ann,
        connect(route(groups=["orders-1"])) as bob,
    ):
        if layer == "redis-py":
            await until(lambda: numsub("chat") == 1)
        await apublish({"text": "hi"}, "chat")
        assert json.loads(await ann.receive()) == {"text": "hi"}
        await group_send("orders-1", **await events.get())
        assert json.loads(await bob.receive()) == {"text": "hi", "type": "chat.message"}
        assert await ann.received_nothing()


async def test_what_earlier_versions_have_forwarded_is_no_second_message(settings):
    use(settings, "memory")
    async with connect(route()) as ann:
        await group_send("chat", type="chat.message", text="hi", filtered_websocket=1)
        await group_send("chat", type="x")
        assert json.loads(await ann.receive()) == {"type": "x"}


async def test_what_a_client_publishes_is_never_sent_as_what_crosses_the_layer(valkey, settings):
    """The key of a group is the name of one in Channels, and a message has the client's keys."""
    use(settings, "pubsub", valkey.url, CHANNELS_GROUPS=["*", forward("*")])
    said = {"v": 1, "p": [], "probe": "x", "o": "o", "g": group_key("chat"), "s": 9, "m": []}
    async with connect(route()) as ann, connect(route(groups=["of.all"])) as bob:
        key = group_key("chat")
        await apublish(said, key)
        hub = get_hub()
        await hub.publish_queue.sent()
        await ann.connection.join(key)
        assert key not in hub.link.bridge._boxes._channels
        await group_send("of.all", type="x")
        assert json.loads(await bob.receive()) == {"type": "x"}
        assert hub.counts["bad_envelope"] == 0
        # From a site with another NAMESPACE, say.
        await group_send(key, type="y", **said)
        await until(lambda: hub.counts["bad_envelope"] == 1)
        assert hub.counts["gap"] == 0 and await ann.received_nothing()


# Several processes


@contextlib.asynccontextmanager
async def process(settings, **ours):
    """One of the site, in which two clients have joined; the lines that it prints."""
    arguments = [json.dumps(one) for one in (settings.CHANNEL_LAYERS, ours)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.layer.bridging", *arguments),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
    try:
        async with limited():
            assert await process.stdout.readline() == b"joined\n"
        yield process.stdout
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.repeats
@pytest.mark.parametrize("layer", ["core", "pubsub"], indirect=True)
async def test_each_process_gets_an_event_once_and_those_without_the_setting_as_before(
    layer, settings
):
    ours = {"LAYER_TIMEOUT": LIMIT}
    new = process(settings, CHANNELS_GROUPS=["c*"], **ours)
    old, stock = process(settings, **ours), consumer("chat")
    async with new as heard_by_new, old as heard_by_old, stock as events, connect(route()) as ann:
        await group_send("chat", type="chat.message", text="hi")
        assert await events.get() == {"type": "chat.message", "text": "hi"}
        assert json.loads(await ann.receive()) == {"type": "chat.message", "text": "hi"}
        # It goes to the group of Channels, too, and comes back to nobody.
        await apublish("said", "chat")
        assert (await events.get())["message"] == await ann.receive() == "said"
        await apublish("end", "chat")
        assert (await events.get())["message"] == await ann.receive() == "end"
        async with limited():
            new_ones, old_ones = [
                json.loads(await lines.readline()) for lines in (heard_by_new, heard_by_old)
            ]
        assert new_ones == ["an event of type chat.message", "said", "end"]
        assert old_ones == ["said", "end"]


# Outages


@pytest.mark.parametrize("name", ["core", "pubsub"])
async def test_groups_of_channels_are_joined_again_when_redis_is_back(name, settings):
    server = await asyncio.to_thread(Valkey)
    try:
        use(settings, name, server.url)
        async with connect(route()) as ann:
            hub = get_hub()
            assert hub.link.bridge._groups.is_joined("chat")
            await asyncio.to_thread(server.kill)
            await until(lambda: hub.layer_is_lost)
            assert not hub.link.is_joined(group_key("chat"))
            server = await asyncio.to_thread(Valkey, server.port)
            await until(lambda: not hub.layer_is_lost and hub.link.is_joined(group_key("chat")))
            # Of another client: that of the hub's process may be cut still.
            with server.client() as client:
                send_by(client, name, "chat", {"type": "x"})
            assert json.loads(await ann.receive()) == {"type": "x"}
    finally:
        await asyncio.to_thread(server.stop)


def send_by(client, name, to, event):
    """As channels_redis of another process does."""
    if name == "pubsub":
        assert client.publish(f"asgi__group__{to}", msgpack.packb(event)) == 1
        return
    [channel] = client.zrange(f"asgi:group:{to}", 0, -1)
    key = "asgi" + channel[: channel.find("!") + 1]
    client.zadd(key, {b"\0" * 12 + msgpack.packb({**event, "__asgi_channel__": [channel]}): 1e9})


def hold_back(boxes, name):
    """Have this method of ``boxes`` wait for the event that is returned."""
    method, gate = getattr(boxes, name), asyncio.Event()

    async def later(*args):
        await gate.wait()
        await method(*args)

    setattr(boxes, name, later)
    return gate


async def test_who_joins_while_redis_is_silent_is_told_of_a_gap(valkey, settings):
    """The members' own group is there, the one of Channels is not yet."""
    use(settings, "pubsub", valkey.url, LAYER_TIMEOUT=0.05)
    async with connect(route(groups=["other"])) as ann:
        gate = hold_back(get_hub().link.bridge._boxes, "group_add")
        connection = ann.connection
        assert not await connection.join("chat")
        gate.set()
        await until(lambda: get_hub().counts["gap"])


@pytest.mark.parametrize("name", ["core", "pubsub"])
async def test_a_right_that_is_missing_is_named_and_is_no_outage(name, valkey, settings, caplog):
    with valkey.client() as client:
        names = [
            "resetchannels",
            "&asgi__group__fws.*",
            "resetkeys",
            "~asgi:group:fws.*",
            "~asgispecific.*",
        ]
        client.execute_command("ACL", "SETUSER", "site", "on", ">secret", "+@all", *names)
    use(settings, name, f"redis://site:secret@127.0.0.1:{valkey.port}/0", LAYER_TIMEOUT=0.05)
    async with connect(route()):
        await until(lambda: get_hub().link.bridge._throttle.counts["join"] == 2)
        assert caplog.text.count("cannot join groups of Channels") == 1
        assert "its user needs" in caplog.text and "orders-*" in caplog.text
        assert get_hub().counts["layer_lost"] == 0
        # What the least rights are, with these groups.
        rights = needed_rights(get_channel_layer()).split()
        with valkey.client() as client:
            client.execute_command("ACL", "SETUSER", "site", *rights)
        await until(lambda: get_hub().link.bridge._groups.is_joined("chat"))


# Corners


async def test_a_wrong_name_is_refused_where_the_layer_is_opened(settings):
    for entry in ("ch@t", "x" * 100, "", 7, None):
        use(settings, "memory", CHANNELS_GROUPS=["chat", entry])
        with pytest.raises(ImproperlyConfigured, match=re.escape(repr(entry)[:50])):
            get_hub().link  # noqa: B018 - raises


def test_names_are_those_that_channels_accepts():
    known = Names(["chat", "orders-*", forward("a.*", type="x"), forward("*"), 5])
    assert [known.receives(name) for name in ("chat", "orders-", "orders-1.2", "chats")] == [
        *(True, True, True, False)
    ]
    for name in ("orders-\n", "orders-\u00e9", "orders-" + "x" * 93, "chat:1", ""):
        assert not known.receives(name) and known.type_of(name) is None
    assert [known.type_of(name) for name in ("a.b", "b")] == ["x", "filtered_websocket.message"]
    assert not Names([]).receives("chat") and not Names([]).receives_any


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ch@t",), "forward('ch@t')"),
        ((None,), "forward(None)"),
        (("chat", "_private"), "type='_private'"),
        (("chat", ""), "type=''"),
        (("chat", None), "type=None"),
        (("chat", "a..b"), "chat_message"),
        (("chat", "websocket.disconnect"), "what their server sends"),
    ],
)
def test_a_wrong_forward_is_refused_at_once(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        forward(*arguments)


@pytest.mark.parametrize("layer", ["pubsub", "redis-py"], indirect=True)
async def test_a_message_that_cannot_be_read_costs_nobody_else(layer, valkey):
    async with connect(route()) as ann:
        if layer == "redis-py":
            await until(lambda: numsub("chat"))
        with valkey.client() as client:
            client.publish("asgi__group__chat", b"\xc1")
        await group_send("chat", type="x")
        assert json.loads(await ann.receive()) == {"type": "x"}
        assert get_hub().counts["bad_envelope"] == 1


async def test_an_error_of_a_delivery_ends_nothing(layer, caplog, monkeypatch):
    async with connect(route()) as ann:
        hub = get_hub()
        with monkeypatch.context() as patch:
            patch.setattr(hub.link.bridge, "_on_batch", lambda batch: 1 / 0)
            for _ in "12":
                await group_send("chat", type="x")
            await until(lambda: hub.link.bridge._throttle.counts["event"] == 2)
        assert caplog.text.count("cannot deliver an event of Channels") == 1
        await group_send("chat", type="y")
        assert json.loads(await ann.receive()) == {"type": "y"}


async def test_what_is_on_its_way_to_a_group_that_was_left_is_kept_nowhere(valkey, settings):
    use(settings, "core", valkey.url)
    layer = get_channel_layer()
    layer.expiry = 0.01
    async with connect(route(groups=["other"])) as ann:
        await ann.connection.join("chat")
        [channel] = get_hub().link.bridge._boxes._channels.values()
        ann.connection.leave("chat")
        await until(lambda: channel not in layer.receive_buffer)


class Refuses(InMemoryChannelLayer):
    """Away, and then there."""

    failures = 2

    async def receive(self, channel):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        return await super().receive(channel)


async def test_a_layer_that_cannot_be_reached_is_asked_again(settings):
    use(settings, "memory")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Refuses"}}
    async with connect(route()) as ann:
        await group_send("chat", type="x")
        assert json.loads(await ann.receive()) == {"type": "x"}


class Stuck(InMemoryChannelLayer):
    async def group_discard(self, group, channel):
        await asyncio.Event().wait()


async def test_a_layer_that_hangs_does_not_hold_up_the_end(settings):
    use(settings, "memory", LAYER_TIMEOUT=0.05)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Stuck"}}
    async with connect(route()) as ann, limited():
        await group_send("chat", type="x")
        assert json.loads(await ann.receive()) == {"type": "x"}
    assert get_channel_layer().groups["chat"]


async def test_a_group_that_was_joined_late_is_left_with_its_last_member(valkey, settings):
    """Redis is silent when the only member comes, and when it goes."""
    use(settings, "pubsub", valkey.url, LAYER_TIMEOUT=0.05)
    async with connect(route(groups=["other"])) as ann:
        boxes = get_hub().link.bridge._boxes
        gate = hold_back(boxes, "_join")
        assert not await ann.connection.join("chat")
        ann.connection.leave("chat")
        gate.set()
        await until(lambda: not boxes._channels)
        await until(lambda: not numsub("chat"))


async def test_what_comes_for_a_group_that_was_left_is_kept_nowhere(settings):
    use(settings, "memory")
    async with connect(route(groups=["other"])) as ann:
        await ann.connection.join("chat")
        bridge = get_hub().link.bridge
        ann.connection.leave("chat")
        bridge._receive("chat", {"type": "late"})
        assert not bridge._counts
        await ann.connection.join("chat")
        await group_send("chat", type="x")
        assert json.loads(await ann.receive()) == {"type": "x"}


async def test_filters_do_not_run_in_the_context_of_a_consumer(valkey, settings):
    """Whoever receives from channels_redis.core hands on what comes for others."""
    use(settings, "core", valkey.url)
    whose, seen = ContextVar("whose", default="nobody's"), []

    class Note(WebSocketGroupFilter):
        @classmethod
        def filter(cls, hub, message):
            seen.append(whose.get())

    async with connect(route(Note)) as ann:
        bridge = get_hub().link.bridge
        [channel] = bridge._boxes._channels.values()
        whose.set("a consumer's")
        get_channel_layer().receive_buffer[channel].put_nowait({"type": "x"})
        assert json.loads(await ann.receive()) == {"type": "x"}
    assert seen == ["nobody's"]


async def test_an_end_without_redis_does_not_wait_for_it(settings):
    server = await asyncio.to_thread(Valkey)
    use(settings, "pubsub", server.url)
    try:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(connect(route()))
            await asyncio.to_thread(server.kill)
            await until(lambda: get_hub().layer_is_lost)
            async with limited(LIMIT / 2):  # the whole is LAYER_TIMEOUT
                await stack.aclose()
            assert get_hub().over
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_link_that_has_not_begun_can_end(layer):
    names = "on_lost", "on_back", "on_bad_envelope", "on_joined_late", "on_events"
    link = open_link(Tasks(Counter()), print, print, **dict.fromkeys(names, print))
    await link.stop()
