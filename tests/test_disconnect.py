"""End connections from anywhere."""

import asyncio
import contextvars
import json
import uuid

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser

from filtered_websocket import Close, WebSocketConnectFilter
from filtered_websocket import publish as publish_module
from filtered_websocket.api import control
from filtered_websocket.api.control import recheck, send
from filtered_websocket.auth.keys import digest_of
from filtered_websocket.close_codes import UNAUTHORIZED
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import (
    disconnect_connection,
    disconnect_session,
    disconnect_token,
    disconnect_user,
    subscribe,
    unsubscribe,
)
from filtered_websocket.groups import group
from filtered_websocket.hub import events
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import apublish, apublish_to_user
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect, published

from .connections.test_connection import message_filter
from .hub.test_grants import control_batch

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

    monkeypatch.setattr(control, "queueing_hub", lambda: Listener(events))
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


async def test_it_does_not_depend_on_how_long_messages_may_be(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 10}
    async with connect([], user=User(pk=7)) as client:
        disconnect_user(7)
        assert await client.closed() == UNAUTHORIZED


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
    send({"is": "close", "id": float("nan")})
    assert caplog.text.count("cannot send a control event") == 2


# One connection


async def test_one_connection_is_closed_by_itself_or_its_id():
    async with connect([]) as ann, connect([]) as bob, connect([]) as cy:
        one, two, _ = get_hub().connections.values()
        disconnect_connection(one, 4000, "bye")
        await asyncio.to_thread(disconnect_connection, two.id)
        assert (await ann.closed(), ann.close_reason) == (4000, "bye")
        assert await bob.closed() == UNAUTHORIZED
        disconnect_connection("nobody's")
        assert await cy.received_nothing()


# Where no authenticator has found the user


class SetUser(WebSocketConnectFilter):
    """A filter that finds out itself who connects."""

    _registers = False
    user = None

    @classmethod
    def filter(cls, web_socket_instance, handshake):
        web_socket_instance.scope["user"] = cls.user


@pytest.fixture(params=["none", "another kind"])
def no_authenticator(request, settings):
    only = ["filtered_websocket.auth.HeaderAuthenticator"] if request.param != "none" else []
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": only}


@pytest.mark.parametrize("by_filter", [False, True])
async def test_a_user_of_a_middleware_or_a_filter_is_found_too(
    no_authenticator, monkeypatch, by_filter
):
    ann, bob = User(pk=7, username="ann"), User(pk=77, username="bob")
    monkeypatch.setattr(SetUser, "user", ann)
    filters, user = ([SetUser], bob) if by_filter else ([], ann)
    async with connect(filters, user=user) as one, connect([], user=bob) as other:
        subscribe(ann, "room")
        assert in_rooms() == {"ann": ["room"], "bob": []}
        unsubscribe(ann, "room")
        assert in_rooms() == {"ann": [], "bob": []}
        recheck("user", ann.pk)  # its access does not depend on that row
        disconnect_user(ann)
        assert await one.closed() == UNAUTHORIZED
        await one.close()
        assert await other.received_nothing()
        owners = get_hub().grants._owners
        assert len(owners._users) == len(owners._connections) == 1


async def test_orders_of_another_process_arrive_where_nobody_authenticates(no_authenticator):
    ann = User(pk=7, username="ann")
    async with connect([], user=ann) as one, connect([], user=ann) as two:
        name, _ = get_hub().connections
        await asyncio.to_thread(asyncio.run, orders_of_another_hub(name, "room"))
        await one.settle()
        assert await one.closed() == UNAUTHORIZED
        assert in_rooms() == {"ann": ["room"]}
        await two.settle()


async def orders_of_another_hub(connection_id, room):
    """Hubs of one process tell one another by the same messages as those of two."""
    async with connect([]) as client:
        subscribe(7, room)
        disconnect_connection(connection_id)
        await client.settle()


# Subscriptions


def in_rooms():
    return {
        connection.user.username: sorted(connection.groups - {connection.home})
        for connection in get_hub().connections.values()
    }


RULES = [group("room:<int:room>", join=False)]


@pytest.mark.parametrize("rules", [None, RULES])
@pytest.mark.parametrize(
    "by",
    [
        lambda user, connection: user,
        lambda user, connection: user.pk,
        lambda user, connection: str(user.pk),
        lambda user, connection: connection,
        lambda user, connection: connection.id,
    ],
)
async def test_connections_are_subscribed_and_unsubscribed_from_anywhere(rules, by):
    ann, bob = User(pk=7, username="ann"), User(pk=77, username="bob")
    async with (
        connect([], user=ann, group_rules=rules) as one,
        connect([], user=bob, group_rules=rules) as other,
    ):
        connection = next(iter(get_hub().connections.values()))
        await asyncio.to_thread(subscribe, by(ann, connection), "room:1")
        await one.settle()
        assert in_rooms() == {"ann": ["room:1"], "bob": []}
        await apublish("hi", "room:1")
        assert await one.receive() == "hi" and await other.received_nothing()
        await asyncio.to_thread(unsubscribe, by(ann, connection), "room:1")
        await one.settle()
        assert in_rooms() == {"ann": [], "bob": []}
        await apublish("hi", "room:1")
        assert await one.received_nothing() and one.close_code is None


async def test_every_device_of_a_user_is_subscribed():
    ann = User(pk=7, username="ann")
    async with connect([], user=ann) as one, connect([], user=ann) as two:
        subscribe(ann, "room")
        await apublish("hi", "room")
        assert await one.receive() == await two.receive() == "hi"


async def test_an_order_that_comes_back_by_the_layer_is_not_carried_out_again():
    """What the user's filters did meanwhile stays."""
    ann = User(pk=7, username="ann")
    async with connect([], user=ann) as one:
        [connection] = get_hub().connections.values()
        subscribe(ann, "room")
        assert "room" in connection.groups
        connection.leave("room")
        await one.settle()
        assert "room" not in connection.groups
        # One of another process is carried out once.
        batch = control_batch(
            {"is": "changed", "kind": "subscribe", "id": "7", "group": "room", "n": "1"}
        )
        get_hub().grants.receive(batch)
        assert "room" in connection.groups
        get_hub().grants.receive(batch)
        assert "room" in connection.groups


async def test_only_so_many_orders_are_remembered(monkeypatch):
    monkeypatch.setattr(events, "MAX_DONE", 2)
    async with connect([]):
        for number in range(5):
            event = {"is": "changed", "kind": "subscribe", "id": "", "group": "x", "n": number}
            get_hub().grants.handle(event)
        assert list(get_hub().grants._orders._done) == ["3", "4"]


async def test_an_order_without_a_group_is_a_bad_envelope():
    async with connect([]):
        for group_name in (None, 7, ""):
            event = {"is": "changed", "kind": "subscribe", "id": "7", "group": group_name, "n": 1}
            get_hub().grants.receive(control_batch(event, origin=f"of {group_name!r}"))
        assert get_hub().counts["bad_envelope"] == 3


async def test_an_order_asks_may_join_and_a_refusal_is_counted():
    class Route(FilteredWebSocketConsumer):
        filters = ()
        groups = ("home",)

        @staticmethod
        def may_join(connection, group):
            return group == "home"

    async with connect(Route.as_asgi(), user=User(pk=7)):
        subscribe(7, "room")
        assert get_hub().counts["not_allowed"] == 1 and get_hub().groups.names == ("home",)


@pytest.mark.parametrize("error", [KeyError("of this device"), Close(4001, "enough")])
async def test_an_order_that_fails_for_one_device_reaches_the_others_and_other_processes(
    error, caplog, monkeypatch
):
    class Route(FilteredWebSocketConsumer):
        filters = ()
        groups = ("home",)

        @staticmethod
        def may_join(connection, group):
            if group != "home" and connection.scope["path"] == "/odd":
                raise error
            return True

    app, ann = Route.as_asgi(), User(pk=7, username="ann")
    async with connect(app, "/odd", user=ann) as odd, connect(app, user=ann) as even:
        sent = []
        monkeypatch.setattr(get_hub().publish_queue, "put", lambda *args: sent.append(args))
        subscribe(7, "room")
        assert "room" in even.connection.groups and len(sent) == 1
        if isinstance(error, Close):
            assert await odd.closed() == 4001
        else:
            assert "KeyError" in caplog.text and "room" not in odd.connection.groups


async def test_a_join_that_is_not_decided_yet_is_taken_back_by_unsubscribe():
    decide = asyncio.Event()

    async def slow(connection):
        await decide.wait()
        return True

    def join(web_socket_instance, data):
        joins.append(web_socket_instance.join("slow"))

    joins = []
    rules = [group("slow", join=slow)]
    async with connect([message_filter(join)], group_rules=rules, user=User(pk=7)) as ann:
        await ann.send("x")
        await ann.settle()
        unsubscribe(7, "slow")
        decide.set()
        assert await joins[0] is False and "slow" not in get_hub().groups.names


@pytest.mark.parametrize("order", [subscribe, unsubscribe])
def test_what_cannot_be_ordered_is_a_value_error(told, order):
    for group_name in ("token:1", "user:1", "", "x" * 1025):
        with pytest.raises(ValueError):
            order(7, group_name)
    with pytest.raises(ValueError, match="has no primary key"):
        order(AnonymousUser(), "room")
    with pytest.raises(TypeError):
        order(7, None)
    assert told == []


async def test_the_user_of_another_tenant_with_the_same_key_is_left_alone(settings):
    tenant = contextvars.ContextVar("tenant", default="acme")
    settings.FILTERED_WEBSOCKET = {"TENANT": tenant.get}
    filters = [message_filter(lambda connection, data: None)]
    async with connect(filters, user=User(pk=7, username="ann"), personal=True) as ann:
        tenant.set("other")
        async with connect(filters, user=User(pk=7, username="eve"), personal=True) as eve:
            subscribe(7, "room")
            assert in_rooms() == {"ann": ["user:7\0acme"], "eve": ["room", "user:7\0other"]}
            await apublish_to_user(7, "for eve")
            assert await eve.receive() == "for eve" and await ann.received_nothing()
            unsubscribe(7, "room")
            assert in_rooms()["eve"] == ["user:7\0other"]


async def test_who_is_disconnected_is_so_in_every_tenant(settings):
    """A right that is taken away must end, also where the caller is in no tenant."""
    tenant = contextvars.ContextVar("tenant", default="acme")
    settings.FILTERED_WEBSOCKET = {"TENANT": tenant.get}
    async with connect([], user=User(pk=7)) as ann:
        tenant.set("other")
        async with connect([], user=User(pk=7)) as eve, connect([], user=User(pk=8)) as bob:
            tenant.set("a third one")
            disconnect_user(7)
            assert await ann.closed() == await eve.closed() == UNAUTHORIZED
            assert await bob.received_nothing()


def test_a_tenant_without_a_name_cannot_be_meant(settings, told):
    settings.FILTERED_WEBSOCKET = {"TENANT": object}
    with pytest.raises(TypeError, match="need a text, or a number"):
        subscribe(7, "room")
    settings.FILTERED_WEBSOCKET = {"TENANT": lambda: ("default", "default")}
    subscribe(7, "room")
    settings.FILTERED_WEBSOCKET = {"TENANT": lambda: 5}
    subscribe(7, "room")
    assert [event.get("tenant") for event in told] == [None, "5"]


@pytest.mark.parametrize(
    "call", [disconnect_user, lambda who: subscribe(who, "g"), lambda who: unsubscribe(who, "g")]
)
def test_a_name_is_no_user(call):
    with pytest.raises(ValueError, match="'bob' is no primary key of"):
        call("bob")
    call("5")


def test_the_id_of_a_connection_is_no_key_of_a_user():
    subscribe(str(uuid.uuid4()), "g")
    unsubscribe(str(uuid.uuid4()), "g")
