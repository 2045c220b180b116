"""One hub per loop: hub."""

import asyncio
import os

import pytest
from channels.layers import channel_layers

from filtered_websocket import (
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.hub import hub as hub_module
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import active_hub
from filtered_websocket.layer.envelope import Batch, group_key, seal
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect, connect_many
from filtered_websocket.transports.scheduling import served

from ..connections.test_connection import message_filter
from ..layer.test_link import Layer
from ..waiting import LIMIT, limited


@pytest.fixture
def layer(settings):
    """The site's layer, which can be away."""
    settings.FILTERED_WEBSOCKET = {"LAYER_SETTLE": 0}
    layer = Layer()
    channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.clear()


def noted():
    """A consumer filter that collects the events of the package, and the events."""
    events = []

    def note(hub, event):
        events.append(event)

    return message_filter(note, WebSocketConsumerFilter), events


async def test_a_hub_begins_with_its_first_connection_and_ends_with_its_last():
    assert active_hub() is None
    async with connect([]) as ann:
        hub = get_hub()
        assert active_hub() is hub
        async with connect([]):
            assert len(hub.connections) == 2
        assert active_hub() is hub
        await ann.settle()
    assert active_hub() is None
    assert not hub.groups and not hub.views and not hub.connections
    async with connect([]):
        assert get_hub() is not hub


async def test_500_at_once_subscribe_once_and_hear_each_message_once(layer):
    app = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter], groups=["g"])
    async with connect_many(500, app) as clients:
        assert layer.count("add", group_key("g")) == 1
        await clients[0].send("one")
        assert {await client.receive() for client in clients[1:]} == {"one"}
        assert await clients[1].received_nothing() and await clients[0].received_nothing()
    assert layer.groups == {}
    assert layer.count("discard", group_key("g")) == 1


async def test_the_last_to_leave_a_group_unsubscribes_it(layer):
    async def move(web_socket_instance, data):
        await web_socket_instance.join("g")
        await web_socket_instance.leave("g")

    async with connect([message_filter(move)]) as ann:
        await ann.send("x")
        await ann.settle()
        assert group_key("g") not in layer.groups


async def test_connections_live_while_the_layer_is_away(layer, caplog):
    note, events = noted()

    def echo_and_publish(web_socket_instance, data):
        web_socket_instance.push(data)
        web_socket_instance.publish(data)

    filters = [message_filter(echo_and_publish), note]
    async with connect(filters) as ann, connect(filters) as bob:
        layer.away = True
        await ann.send("1")
        assert await ann.receive() == "1"
        await ann.settle()
        layer.away = False
        while "layer_back" not in {event["type"] for event in events}:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await ann.send("2")
        # What was published meanwhile was kept, and comes first.
        assert [await bob.receive(), await bob.receive()] == ["1", "2"]
        assert get_hub().counts["publish_failed"] == 0
    kinds = [event["type"] for event in events]
    assert kinds.count("layer_lost") == kinds.count("layer_back") == 1
    assert "publish_failed" not in kinds and "gap" in kinds
    assert events[-1]["data"]["origin"] != "" and "group" in events[-1]["data"]
    words = [record.getMessage() for record in caplog.records]
    assert sum("lost the channel layer" in line for line in words) == 1
    assert sum("is back" in line for line in words) == 1


async def test_what_was_published_by_who_has_left_is_still_sent_when_the_layer_is_back(layer):
    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    async with connect([message_filter(say)]) as ann:
        hub = get_hub()
        layer.away = True
        await ann.send("last words")
        await ann.settle()
        leaving = asyncio.ensure_future(ann.close())
        while hub.connections:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        assert hub.publish_queue.size == 1 and not leaving.done()
        layer.away = False
        await leaving
        assert hub.publish_queue.size == 0 and hub.counts["publish_failed"] == 0


async def test_a_hub_that_never_began_has_nothing_to_end():
    hub = get_hub()
    await hub.release()
    assert get_hub() is hub


async def test_a_process_that_only_publishes_keeps_what_it_publishes_too(layer, caplog):
    hub = get_hub()
    layer.away = True
    done = hub.loop.create_future()
    hub.publish_queue.put("g", new_item("kept"), done)
    await hub.settled()
    layer.away = False
    await done
    await hub.release()
    words = [record.getMessage() for record in caplog.records]
    assert sum("lost the channel layer" in line for line in words) == 1
    assert sum("is back" in line for line in words) == 1
    assert hub.views == {}


async def test_who_comes_while_a_hub_lingers_keeps_it(layer, monkeypatch):
    # However long the layer takes to be back on a busy machine.
    monkeypatch.setattr(hub_module, "LINGER", LIMIT)

    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    filters = [message_filter(say)]
    async with connect(filters) as ann:
        hub = get_hub()
        layer.away = True
        await ann.send("kept")
        await ann.settle()
        leaving = asyncio.ensure_future(ann.close())
        while hub.connections:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        async with connect(filters):
            layer.away = False
            await leaving
            await hub.release()
            assert get_hub() is hub and hub.connections and hub.publish_queue.size == 0


async def test_a_hub_that_nobody_is_connected_to_gives_up_a_layer_that_stays_away(
    layer, monkeypatch, caplog
):
    monkeypatch.setattr(hub_module, "LINGER", 0.05)
    note, events = noted()

    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    async with connect([message_filter(say), note]) as ann:
        hub = get_hub()
        layer.away = True
        await ann.send("last words")
        await ann.settle()
    assert hub.counts["publish_failed"] == 1 and events[-1]["type"] == "publish_failed"
    assert (
        "1 messages to 'default' were not sent" in caplog.text
        or "did not confirm 1 messages" in caplog.text
    )
    layer.away = False


async def test_publishes_that_fail_are_counted_each_and_logged_seldom(layer, settings, caplog):
    settings.FILTERED_WEBSOCKET |= {"PUBLISH_MAX_AGE": 0.1, "LAYER_TIMEOUT": 0.02}

    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    async with connect([message_filter(say)]) as ann:
        layer.away = True
        for n in range(50):
            await ann.send(str(n))
            await ann.settle()
        async with limited():
            await get_hub().publish_queue.sent()
        layer.away = False
        assert get_hub().counts["publish_failed"] == 50
    lines = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1


async def test_a_new_connection_is_accepted_while_the_layer_is_away_and_told_of_the_gap(layer):
    note, events = noted()
    app = FilteredWebSocketConsumer.as_asgi(filters=[note], groups=["g"])
    layer.away = True
    async with connect(app):
        layer.away = False
        while not any(event["type"] == "gap" for event in events):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    gap = next(event for event in events if event["type"] == "gap")
    assert gap["data"] == {"origin": None, "missed": None, "group": "g"}


async def test_duplicates_are_dropped_and_holes_are_told(layer):
    note, events = noted()
    app = FilteredWebSocketConsumer.as_asgi(filters=[note], groups=["g"])
    key = group_key("g")
    async with connect(app) as ann:
        for first in (0, 0, 5):
            await layer.group_send(key, seal(Batch("o", key, first, [new_item(str(first))])))
        assert [await ann.receive(), await ann.receive()] == ["0", "5"]
        await ann.settle()
        hub = get_hub()
        assert hub.counts["duplicate"] == 1 and hub.counts["missed"] == 4
    assert events == [{"type": "gap", "data": {"origin": "o", "missed": 4, "group": "g"}}]


async def test_what_comes_from_elsewhere_counts_as_others_who_are_served(layer):
    app = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter], groups=["g"])
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("here")
        assert await bob.receive() == "here"
        await ann.settle()
        own = served.last
        assert own in get_hub().connections
        batch = Batch("o", group_key("g"), 0, [new_item("elsewhere")])
        await layer.group_send(batch.key, seal(batch))
        assert await bob.receive() == "elsewhere"
        assert served.last is None


async def test_garbage_on_the_layer_is_counted_and_said_once(layer, caplog):
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"])
    key = group_key("g")
    other = group_key("other")
    async with connect(app) as ann:
        for message in ({"type": "chat.message"}, {"v": 7}):
            await layer.group_send(key, message)
        await layer.group_send(key, seal(Batch("o", other, 0, [new_item("misrouted")])))
        await layer.group_send(key, seal(Batch("o", key, 0, [new_item("fine")])))
        assert await ann.receive() == "fine"
        assert get_hub().counts["bad_envelope"] == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    "forged",
    [
        {"type": "websocket.disconnect", "code": 1000},
        {"type": "websocket.receive", "text": "forged"},
        {"type": "websocket.close", "code": 4401},
        {"type": "send", "text": "forged"},
        {"type": "fws.event", "v": 1},
        {"type": "x", "v": 1, "o": "o", "g": "g", "s": 0, "m": [[0, "t", "", "not bytes", {}]]},
        {"type": "x", "v": "9" * 100_000},
    ],
    ids=lambda forged: forged["type"],
)
async def test_no_type_on_the_layer_makes_a_connection_do_anything(layer, caplog, forged):
    app = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter], groups=["g"])
    async with connect(app) as ann, connect(app) as bob:
        await layer.group_send(group_key("g"), forged)
        await ann.send("hi")
        assert await bob.receive() == "hi"
        assert await ann.received_nothing()
        assert get_hub().counts["bad_envelope"] == 1
    [line] = [record.getMessage() for record in caplog.records]
    assert len(line) < 400


async def test_what_a_client_calls_a_type_is_data():
    async with connect([BroadcastMessagesFilter]) as ann, connect([BroadcastMessagesFilter]) as bob:
        await ann.send('{"type":"websocket.disconnect"}')
        assert await bob.receive() == '{"type":"websocket.disconnect"}'


async def test_without_channel_layers_the_hub_fans_out_locally(settings):
    settings.CHANNEL_LAYERS = {}
    filters = [BroadcastMessagesFilter]
    async with connect(filters) as ann, connect(filters) as bob:
        for n in range(3):
            await ann.send(str(n))
        assert [await bob.receive() for _ in range(3)] == ["0", "1", "2"]
        assert await ann.received_nothing()


async def test_pipelines_that_name_one_group_share_its_messages():
    def mark(web_socket_instance, data):
        return data + b"!"

    plain = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter], groups=["g"])
    other = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(mark), BroadcastMessagesFilter], groups=["g"]
    )
    async with connect(plain) as ann, connect(other) as bob:
        await ann.send("a")
        assert await bob.receive() == "a"
        await bob.send("b")
        assert await ann.receive() == "b!"


async def test_a_client_that_connects_while_the_hub_ends_finds_a_hub():
    for _ in range(20):
        ann = await connect([BroadcastMessagesFilter])
        leaving = asyncio.ensure_future(ann.close())
        async with connect([BroadcastMessagesFilter]) as bob:
            await leaving
            async with connect([BroadcastMessagesFilter]) as cy:
                await cy.send("x")
                assert await bob.receive() == "x"


async def test_a_connection_that_comes_while_the_last_one_leaves_keeps_the_hub(layer):
    gate = asyncio.Event()

    async def slow(web_socket_instance, data):
        web_socket_instance.publish(data)

    original = layer.group_send

    async def held(group, message):
        await gate.wait()
        await original(group, message)

    filters = [message_filter(slow)]
    ann = await connect(filters)
    hub = get_hub()
    layer.group_send = held
    await ann.send("x")
    leaving = asyncio.ensure_future(ann.close())
    while hub.connections:  # noqa: ASYNC110 - a few turns of the loop
        await asyncio.sleep(0)
    async with connect(filters) as bob:
        gate.set()
        await leaving
        assert get_hub() is hub
        async with connect(filters) as cy:
            await cy.send("y")
            assert [await bob.receive(), await bob.receive()] == ["x", "y"]


async def test_events_that_are_queued_when_the_last_one_leaves_are_handled():
    handled = []

    async def slowly(hub, event):
        for _ in range(10):
            await asyncio.sleep(0)
        handled.append(event)

    def put(web_socket_instance):
        web_socket_instance.queue.put("last words")

    filters = [
        message_filter(put, WebSocketDisconnectFilter),
        message_filter(slowly, WebSocketConsumerFilter),
    ]
    await (await connect(filters)).close()
    assert handled == ["last words"]


async def test_a_message_a_codec_cannot_take_is_dropped_and_said(layer, caplog):
    class Codec:
        def decode(self, frame, text):
            return frame.decode()

        def encode(self, message, meta):
            return message

    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"], codec=Codec())
    key = group_key("g")
    bad = new_item([])._replace(payload=b"[")
    async with connect(app) as ann:
        await layer.group_send(key, seal(Batch("o", key, 0, [bad, new_item("fine")])))
        assert await ann.receive() == "fine"
    assert "the codec raised JSONDecodeError on group 'g'" in caplog.text


async def test_text_from_the_layer_that_is_none_leaves_nobody_deaf(layer):
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"])
    key = group_key("g")
    bad, good = new_item("x")._replace(payload=b"\xff"), new_item("fine")
    async with connect(app) as ann:
        await layer.group_send(key, seal(Batch("o", key, 0, [bad])))
        await layer.group_send(key, seal(Batch("o", key, 1, [good])))
        assert await ann.receive() == "fine"
        assert get_hub().counts["bad_envelope"] == 1


async def test_after_a_fork_no_hub_is_left():
    from filtered_websocket.hub import registry

    async with connect([]):
        kept, active = dict(registry.hubs), registry._active
        registry._forget()
        try:
            assert active_hub() is None
        finally:
            registry.hubs.update(kept)
            registry._active = active


def test_a_forked_child_has_no_hub_of_its_parents():
    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if active_hub() is None else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def main():
        async with connect([]):
            assert active_hub() is not None
            return fork()

    assert asyncio.run(main()) == 0


async def test_a_plain_message_filter_without_publish_costs_no_layer_call(layer):
    class Quiet(WebSocketMessageFilter):
        _registers = False

        @classmethod
        def filter(cls, web_socket_instance, data):
            pass

    async with connect([Quiet]) as ann:
        before = len(layer.calls)
        for _ in range(5):
            await ann.send("x")
        await ann.settle()
        assert len(layer.calls) == before


async def test_a_connection_that_begins_while_a_hub_ends_gets_its_messages(monkeypatch):
    """The last connection leaves, and what its hub still has to do takes a while."""
    filters = ["filtered_websocket.filters.broadcast_messages"]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters)
    last = await connect(app)
    ending, ended = asyncio.Event(), asyncio.Event()
    hub = get_hub()
    real = hub.grants.stop

    async def slowly():
        ending.set()
        await ended.wait()
        await real()

    monkeypatch.setattr(hub.grants, "stop", slowly)
    leaving = asyncio.ensure_future(last.close())
    await ending.wait()
    ann = await connect(app)
    ended.set()
    await leaving
    async with connect(app) as bob:
        await bob.send("heard")
        assert await ann.receive() == "heard"
    await ann.close()


async def test_who_comes_when_a_hub_is_out_of_reach_gets_another(monkeypatch):
    app = FilteredWebSocketConsumer.as_asgi(
        filters=["filtered_websocket.filters.broadcast_messages"]
    )
    last = await connect(app)
    ending, ended = asyncio.Event(), asyncio.Event()
    hub = get_hub()
    link = hub.link
    real = link.stop

    async def slowly():
        ending.set()
        await ended.wait()
        await real()

    monkeypatch.setattr(link, "stop", slowly)
    leaving = asyncio.ensure_future(last.close())
    await ending.wait()
    async with connect(app) as ann, connect(app) as bob:
        assert get_hub() is not hub
        ended.set()
        await leaving
        await bob.send("heard")
        assert await ann.receive() == "heard"


async def test_messages_dropped_for_slow_readers_are_counted_and_logged_once(settings, caplog):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest", "MAX_OUTBOX": 3}
    async with connect([BroadcastMessagesFilter]) as ann, connect([BroadcastMessagesFilter]) as bob:
        for message in ("1234", "12345", "123"):
            await ann.send(message)
        assert await bob.receive() == "123"
        assert get_hub().counts["dropped"] == 2
    [line] = [record.getMessage() for record in caplog.records]
    assert line == "dropped messages to clients that read too slowly (1 so far)"


async def test_what_another_thread_publishes_while_a_hub_ends_is_sent(layer):
    async with connect([]):
        hub = get_hub()
        hub.publish_queue.admit(new_item("x"))
        # It arrives on the loop when the last connection has left.
        hub.loop.call_later(0.05, hub.publish_queue.put_admitted, "g", new_item("x"))
    assert layer.count("send", group_key("g")) == 1
    assert active_hub() is None and hub.publish_queue.size == 0
