"""What subscribers are sent, and when: the Pusher protocol's side of a hub's view."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from filtered_websocket.chains.current import About, current
from filtered_websocket.codecs.data import Data
from filtered_websocket.exceptions import PublishError
from filtered_websocket.filters.base import WebSocketGroupFilter, WebSocketSendFilter
from filtered_websocket.layer.envelope import EVENT, EXCLUDE, Item
from filtered_websocket.presence.base import Event, Info, pack_info
from filtered_websocket.publish import apublish, apublish_to_user, publish, publish_to_user
from filtered_websocket.pusher.protocol import PUSHER
from filtered_websocket.pusher.pushes import Pushes

from .clients import app, speak


class Transport:
    closed = None

    def __init__(self):
        self.written, self.writes, self.overflows = [], [], 0

    def write(self, frame):
        self.writes.append(frame)
        self.written += [json.loads(part.payload) for part in frame.parts]

    def overflow(self, is_kept=False):
        self.overflows += 1


@pytest.fixture
def pushes():
    return Pushes(Counter())


def subscriber(pushes, name, *stands_in):
    one = SimpleNamespace(
        id=name,
        transport=Transport(),
        app=SimpleNamespace(key="k"),
        channel_of=lambda group: group,
        who_publishes=lambda group, channel: None,
        occupy=lambda channel, is_occupied: None,
    )
    pushes.add(one)
    for group in stands_in:
        pushes.begin(one, group)
        pushes.stand(one, group)
    return one


def item(payload, kind="t", number=1, sender="", **meta):
    return Item(number, kind, sender, payload, meta)


def data(one):
    return [frame["data"] for frame in one.transport.written]


def test_what_comes_before_the_client_is_told_waits_within_a_bound(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 200}
    ann = subscriber(pushes, "ann")
    pushes.begin(ann, "news")
    assert not pushes.has_waiting(ann, "news")
    pushes.write_items("news", [item(b"one")], None)
    pushes.write_items("news", [item(b"not for ann", **{EXCLUDE: ["ann"]})], None)
    pushes.write_all((ann.transport,), pushes.publication(About("news", "", {}), "two", True), ())
    assert pushes.has_waiting(ann, "news") and ann.transport.written == []
    pushes.write_items("news", [item(b"x" * 200)], None)
    assert ann.transport.overflows == 1
    pushes.stand(ann, "news")
    assert data(ann) == ["one", "two"]


def test_what_comes_out_of_a_chain_waits_as_well(pushes):
    ann, bob = (subscriber(pushes, name) for name in ("ann", "bob"))
    pushes.begin(ann, "news")
    pushes.begin(bob, "news")
    pushes.stand(bob, "news")
    for text, exclude in (("one", []), ("two", ["ann"]), ("three", ["bob"])):
        about = About("news", "", {EXCLUDE: exclude})
        pushes.send(about, pushes.publication(about, text, True))
    pushes.send(about, pushes.publication(about, b"\xff", False))
    pushes.stand(ann, "news")
    assert data(ann) == ["one", "three"] and data(bob) == ["one", "two"]
    assert pushes._counts["not_json"] == 1


def test_what_a_history_gives_is_not_told_twice(pushes):
    ann = subscriber(pushes, "ann")
    connection = SimpleNamespace(id="ann", transport=ann.transport)
    pushes.answered(connection, "news")
    pushes.begin(ann, "news")
    pushes.write_items("news", [item(b"live, and in the history")], None)
    pushes.answered(connection, "news")
    pushes.stand(ann, "news")
    assert data(ann) == []
    pushes.answered(connection, "news")


def test_many_messages_leave_in_one_write(pushes):
    ann, bob = (subscriber(pushes, name, "news") for name in ("ann", "bob"))
    pushes.write_items("news", [item(b"1"), item(b"\xff", "b"), item(b"2")], None)
    assert ann.transport.writes == bob.transport.writes
    assert [len(frame.parts) for frame in ann.transport.writes] == [2]
    assert data(bob) == ["1", "2"]
    assert pushes._counts["not_json"] == 2


def test_many_messages_that_are_not_for_all_leave_in_one_write_to_each(pushes):
    names = ("ann", "bob", "cy", "dan")
    ann, bob, cy, dan = (subscriber(pushes, name, "news") for name in names)
    pushes.begin(eve := subscriber(pushes, "eve"), "news")
    items = [
        item(b"1", **{EXCLUDE: ["ann", "dan"]}),
        item(b"\xff", "b"),
        item(b"2", **{EVENT: "e", EXCLUDE: ["eve", "dan"]}),
        item(b"3", **{EXCLUDE: ["ann", "dan", "nobody"]}),
    ]
    pushes.write_items("news", items, None)
    pushes.stand(eve, "news")
    assert data(bob) == data(cy) == ["1", "2", "3"]
    assert data(ann) == ["2"] and data(dan) == [] and data(eve) == ["1", "3"]
    assert [frame["event"] for frame in bob.transport.written] == ["message", "e", "message"]
    assert [len(one.transport.writes) for one in (ann, bob, cy, dan)] == [1, 1, 1, 0]
    # The same object for all: it is encoded once.
    assert bob.transport.writes == cy.transport.writes
    assert pushes._counts["not_json"] == 4


def test_where_no_message_is_left_nothing_is_written(pushes):
    ann = subscriber(pushes, "ann", "news")
    pushes.write_items("news", [item(b"\xff", "b"), item(b"\xfe", "b")], None)
    assert ann.transport.writes == [] and pushes._counts["not_json"] == 2


def test_groups_without_subscribers_cost_nothing(pushes):
    ann = subscriber(pushes, "ann")
    about = About("news", "", {})
    pushes.write_items("news", [item(b"1")], None)
    push = pushes.publication(about, "text", True)
    assert push.size == 0 and push.frame is None
    pushes.send(about, push)
    pushes.write_all((ann.transport,), push, ())
    pushes.tell("presence-a", [])
    pushes.end(ann, "news")
    pushes.joined(SimpleNamespace(id="nobody"), "news", True)
    pushes.left(SimpleNamespace(id="nobody"), "news")
    pushes.lose("news")
    assert ann.transport.written == []
    pushes.remove(ann)
    pushes.remove(ann)
    assert pushes.apps["k"] == 0


def test_bytes_for_some_are_counted_and_left_out(pushes):
    ann = subscriber(pushes, "ann", "news")
    bob = subscriber(pushes, "bob")
    push = pushes.publication(About("news", "", {}), b"\xff", False)
    pushes.write_all((ann.transport,), push, ())
    assert pushes._counts["not_json"] == 1
    push = pushes.publication(About("news", "", {}), "text", True)
    assert push.size == len(push.frame)
    pushes.write_all((ann.transport, bob.transport), push, ())
    assert data(ann) == ["text"] and data(bob) == []


def test_a_member_without_room_overflows(pushes):
    ann = subscriber(pushes, "ann", "news")
    pushes.cannot_take(ann, About("news", "", {}))
    assert ann.transport.overflows == 1


def test_users_who_come_and_go(pushes):
    ann = subscriber(pushes, "ann", "presence-a", "news")
    bobs = pack_info(Info("bob", {"name": "Bob"}))

    def event(kind, connection, packed=bobs, is_users=True):
        return Event(1, kind, connection, packed, is_users)

    pushes.tell(
        "presence-a",
        [
            event("join", "b1"),
            event("join", "b2", is_users=False),
            event("join", "x", pack_info(Info(None))),
            event("join", "ann"),
            event("leave", "b2", is_users=False),
            event("leave", "b1"),
        ],
    )
    pushes.tell("news", [event("join", "b1")])
    told = [(frame["event"], json.loads(frame["data"])) for frame in ann.transport.written]
    assert told == [
        ("pusher_internal:member_added", {"user_id": "bob", "user_info": {"name": "Bob"}}),
        ("pusher_internal:member_removed", {"user_id": "bob"}),
    ]


# With chains


class Group(WebSocketGroupFilter):
    @classmethod
    def filter(cls, web_socket_instance, message):
        if isinstance(message, dict):
            return {**message, "seen": True}


class Send(WebSocketSendFilter):
    @classmethod
    def filter(cls, web_socket_instance, message):
        if message == "socket":
            return {"for": web_socket_instance.socket_id}


async def test_group_and_send_filters_see_what_is_published():
    for filters in ([Group], [Send], [Group, Send]):
        application = app(filters)
        async with speak(application=application) as ann, speak(application=application) as bob:
            for one in (ann, bob):
                await one.subscribe("news")
            publish({"a": 1}, "news")
            publish("socket", "news")
            for one in (ann, bob):
                seen = {"seen": True} if Group in filters else {}
                assert json.loads(await one.hears("message", channel="news")) == {"a": 1, **seen}
                own = await one.hears("message", channel="news")
                assert own == "socket" or json.loads(own) == {"for": one.socket_id}


async def test_a_hub_fans_out_and_a_route_has_groups():
    async with speak(application=app(groups=["home"])) as ann:
        ann.client._find()[0].fan_out("home", {"local": True})
        assert json.loads(await ann.hears("message", channel="home")) == {"local": True}


def test_a_message_for_chains_and_what_they_publish():
    assert PUSHER.decode(bytearray(b'{"a": 1}'), True) == {"a": 1}
    assert PUSHER.encode({"a": 1}, {}) == '{"a":1}'
    assert PUSHER.encode(b"\xff", {}) == b"\xff"
    assert PUSHER.encode(Data(b"{}"), {}) == b"{}"


# Names of events


class Names(WebSocketGroupFilter):
    seen = []

    @classmethod
    def filter(cls, web_socket_instance, message):
        cls.seen.append(current.event)


async def test_a_site_names_events():
    Names.seen.clear()
    async with speak([Names]) as ann, speak() as bob:
        await ann.subscribe("news")
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        own = "#server-to-user-5"
        await ann.say("pusher:subscribe", {"channel": own})
        await ann.hears("pusher_internal:subscription_succeeded", channel=own)
        publish("a", "news", event="one")
        await apublish("b", "news", event="two")
        bob.client.connection.publish("c", "news", event="three")
        await bob.client.connection.apublish("d", "news", event="four")
        publish("e", "news")
        for name, text in zip(("one", "two", "three", "four", "message"), "abcde", strict=True):
            assert await ann.hears(name, channel="news") == text
        publish_to_user("5", "f", event="five")
        await apublish_to_user("5", "g", event="six")
        assert await ann.hears("five", channel=own) == "f"
        assert await ann.hears("six", channel=own) == "g"
        assert Names.seen == ["one", "two", "three", "four", None, "five", "six"]


@pytest.mark.parametrize("event", [5, None, "x" * 201, "pusher:error", "client-typed"])
def test_a_name_that_no_site_may_give(event):
    with pytest.raises(PublishError, match="event is a text"):
        publish("a", "news", event=event)


@pytest.mark.django_db(transaction=True)
async def test_after_a_commit_the_name_is_still_known():
    async with speak() as ann:
        await ann.subscribe("news")
        await apublish("a", "news", on_commit=True, event="one")
        assert await ann.hears("one", channel="news") == "a"
