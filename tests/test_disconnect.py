"""End connections from anywhere."""

import asyncio
import json
import uuid

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser

from filtered_websocket import publish as publish_module
from filtered_websocket.auth.keys import digest_of
from filtered_websocket.close_codes import UNAUTHORIZED
from filtered_websocket.control import orders
from filtered_websocket.control.orders import recheck, send
from filtered_websocket.disconnect import disconnect_session, disconnect_token, disconnect_user
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect, published

User = get_user_model()


class Listener:
    """Stands in for a hub: keeps the events that it should tell."""

    def __init__(self, events):
        self.send_control = lambda event, item: events.append(json.loads(item.payload))

    def call(self, function, *args):
        function(*args)


@pytest.fixture
def told(monkeypatch):
    """The control events that would have been sent."""
    events = []

    monkeypatch.setattr(orders, "queueing_hub", lambda: Listener(events))
    return events


@pytest.mark.parametrize("by", [lambda user: user, lambda user: user.pk, lambda user: str(user.pk)])
async def test_every_connection_of_a_user_is_closed_and_no_others(by):
    ann, bob = User(pk=7, username="ann"), User(pk=77, username="bob")
    async with (
        connect([], user=ann) as one,
        connect([], user=ann) as two,
        connect([], user=bob) as other,
        connect([]) as anonymous,
    ):
        disconnect_user(by(ann))
        assert await one.closed() == await two.closed() == UNAUTHORIZED
        assert one.close_reason == "disconnected by the site"
        assert await other.received_nothing() and await anonymous.received_nothing()


async def test_the_site_chooses_code_and_reason():
    async with connect([], user=User(pk=7)) as ann:
        await asyncio.to_thread(disconnect_user, 7, 4999, "ü" * 61)
        assert await ann.closed() == 4999 and ann.close_reason == "ü" * 61


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1001, ""), (2999, ""), (5000, ""), (0, ""), (4401, "ü" * 62), (4401, "\ud800")],
)
@pytest.mark.parametrize("disconnect", [disconnect_user, disconnect_token])
def test_what_no_close_frame_may_hold_is_a_value_error(told, disconnect, code, reason):
    with pytest.raises(ValueError):
        disconnect(7, code, reason)
    assert told == []


def test_the_reason_for_a_session_is_checked_where_it_is_given(told):
    with pytest.raises(ValueError, match="123 bytes"):
        disconnect_session("key", "x" * 124)
    assert told == []


def test_ids_cross_as_text_and_session_keys_as_digests(told):
    number = uuid.uuid4()
    disconnect_user(number)
    disconnect_token(3, 4000, "bye")
    disconnect_session("the key")
    recheck("user", number)
    close = {"is": "close", "code": 4401, "reason": "disconnected by the site"}
    assert told == [
        {**close, "kind": "user", "id": str(number)},
        {**close, "kind": "token", "id": "3", "code": 4000, "reason": "bye"},
        {**close, "kind": "session", "id": digest_of("the key"), "reason": "logged out"},
        {"is": "changed", "kind": "user", "id": str(number)},
    ]
    assert "the key" not in repr(told)


async def test_who_is_nobody_closes_nobody():
    async with connect([]) as anonymous:
        disconnect_user(AnonymousUser())
        disconnect_user(None)
        assert await anonymous.received_nothing()


def test_in_a_process_without_layer_and_connections_nothing_is_told(settings, caplog):
    settings.CHANNEL_LAYERS = {}
    disconnect_user(7)
    recheck("token", 7)
    assert publish_module._publisher is None and caplog.text == ""


async def test_with_connections_and_no_layer_they_are_closed(settings):
    settings.CHANNEL_LAYERS = {}
    async with connect([], user=User(pk=7)) as ann:
        disconnect_user(7)
        assert await ann.closed() == UNAUTHORIZED


def test_captured_messages_contain_no_control_events():
    with published() as messages:
        disconnect_user(7)
    publish_module._close()
    assert messages == []


async def test_a_queue_that_is_full_of_messages_holds_up_no_end(settings, caplog):
    async with connect([], user=User(pk=7)) as ann:
        hub = get_hub()
        settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 1}
        hub.publish_queue.put("news", new_item("x"))
        hub.publish_queue.put("news", new_item("x"))
        disconnect_user(7)
        assert await ann.closed() == UNAUTHORIZED
        settings.FILTERED_WEBSOCKET = {}


@pytest.mark.parametrize(
    "layers",
    [
        {"default": {"BACKEND": "nowhere.Layer"}},
        {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"x": 1}}},
    ],
)
def test_a_layer_that_cannot_be_made_is_logged_and_not_raised(settings, layers, caplog):
    settings.CHANNEL_LAYERS = layers
    recheck("user", 7)
    assert "cannot send a control event" in caplog.text


def test_an_event_that_cannot_be_sent_is_logged_and_not_raised(caplog):
    send({"is": "close", "id": object()})
    send({"is": "close", "id": "x" * 1_000_000})
    assert caplog.text.count("cannot send a control event") == 2
