"""``current``: what filters know about the group message that they handle."""

import asyncio
import threading

import pytest

from filtered_websocket import (
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
    current,
)
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import EVENT, EXCLUDE, Item
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter

NOTHING = (None, None, None, None, None)


def known():
    return current.group, current.sender, current.exclude, current.event, current.position


def noting(base, kind, seen, also=lambda *_: None):
    """A filter that notes what ``current`` says."""

    def note(web_socket_instance, data):
        seen.append((threading.current_thread() is threading.main_thread(), *known()))
        also(web_socket_instance, data)

    async def note_in_async(web_socket_instance, data):
        await asyncio.sleep(0)
        note(web_socket_instance, data)

    function = note_in_async if kind == "async" else note
    return message_filter(function, base, blocking=kind == "blocking")


def say(web_socket_instance, data):
    web_socket_instance.publish(data, "room", exclude=["somebody"])


@pytest.mark.parametrize("kind", ["def", "async", "blocking"])
@pytest.mark.parametrize("base", [WebSocketGroupFilter, WebSocketSendFilter])
async def test_filters_of_a_group_message_know_its_group_and_sender(base, kind):
    seen, ids = [], []

    def hold(web_socket_instance, data):
        ids.append(web_socket_instance.id)

    filters = [message_filter(hold), message_filter(say), noting(base, kind, seen)]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=["room"])
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("x")
        assert await bob.receive() == "x"
        [view] = get_hub().views.values()
        view.publish("from nobody", "room")
        assert await bob.receive() == "from nobody"
        assert known() == NOTHING
    [sender] = ids
    first, *rest = seen
    # Both kinds of blocking run in a test where its database transaction is.
    assert first[1:] == ("room", sender, (sender, "somebody"), None, None)
    assert rest[0][1:] == ("room", None, (), None, None)


async def test_the_name_of_an_event_is_known():
    seen = []
    app = FilteredWebSocketConsumer.as_asgi(
        filters=[noting(WebSocketGroupFilter, "def", seen)], groups=["room"]
    )
    async with connect(app) as ann:
        [view] = get_hub().views.values()
        view.deliver("room", [Item(1, "t", "", b"x", {EVENT: "moved", EXCLUDE: []})])
        assert await ann.receive() == "x"
    assert seen == [(True, "room", None, (), "moved", None)]


@pytest.mark.parametrize("kind", ["def", "async", "blocking"])
async def test_filters_of_other_events_know_nothing(kind):
    seen = []
    bases = (
        WebSocketConnectFilter,
        WebSocketMessageFilter,
        WebSocketConsumerFilter,
        WebSocketDisconnectFilter,
    )

    def put(web_socket_instance, data):
        web_socket_instance.queue.put("event")

    filters = [noting(base, kind, seen) for base in bases]
    async with connect([*filters, message_filter(put)]) as ann:
        await ann.send("x")
        await ann.settle()
    assert [entry[1:] for entry in seen] == [NOTHING] * len(bases)


async def test_what_a_group_filter_sets_off_knows_nothing_of_its_message():
    """Joins, publishes and events are handled in contexts of their own."""
    seen = []

    def put(hub, data):
        if data == b"x":
            hub.queue.put("event")
            hub.publish("y")

    filters = [
        message_filter(say),
        message_filter(put, WebSocketGroupFilter),
        noting(WebSocketConsumerFilter, "async", seen),
    ]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=["room"])
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("x")
        assert await bob.receive() == "x"
        assert await bob.receive() == "y"
        await bob.settle()
    assert [entry[1:] for entry in seen] == [NOTHING]
