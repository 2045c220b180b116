"""A connection that speaks the Pusher protocol, from its handshake to its end."""

import asyncio
import json
import math
import uuid

import pydantic
import pytest

from filtered_websocket import (
    Close,
    Drop,
    NotAllowed,
    WebSocketConnectFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.disconnect import disconnect_connection
from filtered_websocket.exceptions import PublishError
from filtered_websocket.filters.rate_limit import RateLimitFilter
from filtered_websocket.pusher import session as sessions
from filtered_websocket.pusher.channels import ChannelRules
from filtered_websocket.pusher.connection import connection_of, socket_id_of
from filtered_websocket.testing import published

from ..connections.test_connection import message_filter
from ..metrics.reading import Change
from .clients import app, speak, with_app


async def test_a_client_is_told_that_it_is_connected():
    async with speak() as ann:
        assert ann.told == {"socket_id": ann.socket_id, "activity_timeout": 30}
        assert connection_of(ann.socket_id) == ann.client.connection.id
        assert ann.client.connection.socket_id == ann.socket_id
        await ann.say("pusher:ping", {})
        assert await ann.hears("pusher:pong") == {}
        await ann.say("pusher:pong")
        assert await ann.quiet()


REFUSED = [
    ("unknown", "protocol=7", 4001),
    ("off-key", "protocol=7", 4003),
    ("app-key/more", "protocol=7", 4005),
    (None, "protocol=7", 4005),
    ("app-key", "protocol=seven", 4006),
    ("app-key", "protocol=4", 4007),
    ("app-key", "protocol=99999999999999999999", 4007),
    ("app-key", "", 4008),
    ("tls-key", "protocol=7", 4000),
    ("small-key", "protocol=7", 4009),
]
MORE = [
    {"ID": "3", "KEY": "off-key", "SECRET": "s", "ENABLED": False},
    {"ID": "4", "KEY": "tls-key", "SECRET": "s", "TLS_ONLY": True},
    {"ID": "5", "KEY": "small-key", "SECRET": "s", "ALLOWED_ORIGINS": ["https://app.example"]},
    {"ID": "6", "KEY": "one-key", "SECRET": "s", "MAX_CONNECTIONS": 1},
]


class Notes(WebSocketDisconnectFilter):
    seen = []

    @classmethod
    def filter(cls, web_socket_instance):
        cls.seen.append(web_socket_instance.close_code)


@pytest.mark.parametrize(("key", "query", "code"), REFUSED)
async def test_who_is_refused_is_told_and_closed(settings, caplog, key, query, code):
    settings.FILTERED_WEBSOCKET = with_app(*MORE)
    caplog.set_level("INFO", "filtered_websocket")
    change = Change("fws_handshakes_total")
    Notes.seen.clear()
    headers = {"origin": "http://testserver", "host": "testserver"}
    async with speak([Notes], key=key, query=query, connects=False, headers=headers) as ann:
        assert await ann.error() == code
        assert await ann.closed() == code
    assert Notes.seen == []
    [record] = [one for one in caplog.records if "refused connection" in one.getMessage()]
    assert record.connection_id and record.connection_id in record.getMessage()
    assert change.all_of("fws_handshakes_total") == {("forbidden",): 1}


async def test_versions_5_and_6_and_pages_that_an_app_lets_in(settings):
    settings.FILTERED_WEBSOCKET = with_app(*MORE, site={"ALLOWED_ORIGINS": ["https://app.example"]})
    for query in ("protocol=5&client=js", "protocol=6"):
        async with speak(query=query):
            pass
    async with speak(key="small-key", headers={"origin": "https://app.example"}):
        pass
    async with speak(key="small-key"):
        pass  # a program


async def test_so_many_connections_of_an_app(settings):
    settings.FILTERED_WEBSOCKET = with_app(*MORE)
    application = app()
    async with (
        speak(key="one-key", application=application),
        speak(key="one-key", connects=False, application=application) as bob,
    ):
        assert await bob.closed() == 4004
    async with speak(key="one-key", application=application):
        pass


class Refuses(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance, handshake):
        raise Close(4999, "no")


class Fails(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance, handshake):
        raise RuntimeError


class Closes(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance, handshake):
        web_socket_instance.close(4998, "enough")


@pytest.mark.parametrize(("refuses", "code"), [(Refuses, 4999), (Fails, 4200), (Closes, 4998)])
async def test_filters_refuse_connections(refuses, code):
    async with speak([refuses], connects=False) as ann:
        assert await ann.closed() == code


async def test_a_process_that_is_full(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"MAX_CONNECTIONS": 1})
    async with speak(), speak(connects=False) as bob:
        assert await bob.closed() == 4100


async def test_apps_with_a_mistake_refuse_for_now(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [{"KEY": "app-key"}]}
    async with speak(connects=False) as ann:
        assert await ann.error() == 4200
        assert await ann.closed() == 4200


async def test_our_codes_are_translated():
    for code, theirs in ((4401, 4009), (4101, 4200), (4201, 4201), (4999, 4999), (1000, 1000)):
        async with speak() as ann:
            disconnect_connection(ann.client.connection, code, "why")
            assert await ann.closed() == theirs
            assert ann.client.close_reason == "why"


# Frames


BAD = [
    "nonsense",
    "[]",
    "{}",
    '{"event": 5}',
    '{"event": "pusher:subscribe", "data": 7}',
    '{"event": "pusher:subscribe", "data": "nonsense"}',
    '{"event": "pusher:subscribe"}',
    '{"event": "pusher:subscribe", "data": {"channel": ""}}',
    '{"event": "pusher:subscribe", "data": {"channel": 7}}',
    '{"event": "pusher:unsubscribe", "data": {"channel": 7}}',
    '{"event": "client-x", "channel": 7}',
    '{"event": "pusher:unknown"}',
    b'{"event": "pusher:ping"}',
    "[" * 40 + "]" * 40,
]


@pytest.mark.parametrize("frame", BAD)
async def test_a_frame_that_is_none_is_answered_and_the_connection_stays(frame):
    async with speak() as ann:
        await ann.client.send(frame)
        assert await ann.error() == 4200
        await ann.say("pusher:ping", {})
        await ann.hears("pusher:pong")


async def test_a_frame_that_is_too_long(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"MAX_MESSAGE_SIZE": 200})
    async with speak() as ann:
        await ann.say("pusher:ping", "x" * 200)
        assert await ann.error() == 4200


async def test_an_expired_connection_is_closed():
    async with speak() as ann:
        ann.client.connection.deadline = -math.inf
        await ann.say("pusher:ping", {})
        assert await ann.closed() == 4009


# Silence


async def test_a_silent_client_is_asked_and_closed(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = with_app(ACTIVITY_TIMEOUT=1)
    monkeypatch.setattr(sessions, "SILENCE", 0.01)
    monkeypatch.setattr(sessions, "PONG", 0.01)
    async with speak() as ann:
        await ann.hears("pusher:ping")
        assert await ann.closed() == 4201


async def test_a_client_that_answers_stays(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = with_app(ACTIVITY_TIMEOUT=1)
    monkeypatch.setattr(sessions, "SILENCE", 0.03)
    async with speak() as ann:
        await ann.hears("pusher:ping")
        await ann.say("pusher:pong")
        await ann.client.settle()
        session = session_of(ann)
        session._look_again(-1.0)  # as after PONG seconds
        await ann.hears("pusher:ping")
        session._heard = session._loop.time() + 60.0
        session._look()  # it was heard meanwhile: nothing is asked
        assert await ann.quiet()


def session_of(client):
    view = client.client._find()[0]
    return view.pushes.sessions[client.client.connection.id]


# Client events


async def test_a_client_event_reaches_the_others_as_it_came():
    async with speak() as ann, speak() as bob:
        for one in (ann, bob):
            await one.subscribe("private-a")
        for data in ({"a": [1, "ü"]}, "a text", 7, None, '{"is": "text"}', [1.5]):
            await ann.say("client-typed", data, channel="private-a", user_id="forged", more=1)
            assert await bob.hears("client-typed", channel="private-a") == data
        assert await ann.quiet()


async def test_in_a_channel_with_presence_it_says_whose_it_is():
    async with speak() as ann, speak() as bob:
        await ann.subscribe("presence-a", 5)
        await bob.subscribe("presence-a", "bob")
        await ann.hears("pusher_internal:member_added", channel="presence-a")
        await ann.say("client-typed", {}, channel="presence-a", user_id="forged")
        assert await bob.hears("client-typed", channel="presence-a", user_id="5") == {}


async def test_many_client_events_of_one_moment_leave_in_order():
    async with speak() as ann, speak() as bob:
        for one in (ann, bob):
            await one.subscribe("private-a")
        for number in range(8):
            await ann.say("client-n", number, channel="private-a")
        heard = [await bob.hears("client-n", channel="private-a") for _ in range(8)]
        assert heard == list(range(8)) and await ann.quiet()


async def test_the_rule_of_a_channel_is_found_once_for_all_its_client_events(monkeypatch):
    asked = []
    find = ChannelRules.find

    def note(self, name):
        asked.append(name)
        return find(self, name)

    async with speak() as ann, speak() as bob:
        for one in (ann, bob):
            await one.subscribe("private-a")
        for number in range(3):
            await ann.say("client-n", number, channel="private-a")
            assert await bob.hears("client-n", channel="private-a") == number
            # After the first one: a publish asks once how the group is kept.
            monkeypatch.setattr(ChannelRules, "find", note)
        assert asked == []


async def test_a_group_of_the_route_that_is_no_channel_takes_no_client_events():
    async with speak(application=app(groups=["private-no:channel"])) as ann:
        await ann.say("client-a", 1, channel="private-no:channel")
        assert await ann.error() == 4301


async def test_what_others_are_told_of_a_publisher_changes_with_its_user():
    async with speak() as ann:
        connection = ann.client.connection
        nobody = {"client": connection.id}
        assert json.loads(connection.publisher("private-a")) == nobody
        assert connection.publisher("news") is connection.publisher("private-a")
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        await ann.subscribe("presence-a", "ann")
        assert json.loads(connection.publisher("private-a")) == nobody | {"user": "5"}
        assert json.loads(connection.publisher("presence-a")) == nobody | {"user": "ann"}


async def test_client_events_that_are_refused(settings):
    async with speak() as ann, speak() as bob:
        for channel in ("news", "private-encrypted-a", "private-a", "private-silent"):
            for one in (ann, bob):
                await one.subscribe(channel)
        for channel, event, data in (
            ("news", "client-a", 1),
            ("private-encrypted-a", "client-a", 1),
            ("private-other", "client-a", 1),
            ("private-silent", "client-a", 1),
            ("private-a", "client-" + "a" * 200, 1),
            ("private-a", "client-a", "x" * 10_241),
            ("", "client-a", 1),
        ):
            await ann.say(event, data, channel=channel)
            assert await ann.error() == 4301
        ann.client.connection.may_publish = False
        await ann.say("client-a", 1, channel="private-a")
        assert await ann.error() == 4301
        assert await bob.quiet()
    settings.FILTERED_WEBSOCKET = with_app(CLIENT_EVENTS=False)
    async with speak() as ann:
        await ann.subscribe("private-a")
        await ann.say("client-a", 1, channel="private-a")
        assert await ann.error() == 4301


async def test_more_client_events_than_an_app_allows(settings):
    settings.FILTERED_WEBSOCKET = with_app(CLIENT_EVENT_RATE="2/h")
    async with speak() as ann, speak() as bob:
        for one in (ann, bob):
            await one.subscribe("private-a")
        for number in range(3):
            await ann.say("client-a", number, channel="private-a")
        assert await ann.error() == 4301
        assert [await bob.hears("client-a", channel="private-a") for _ in range(2)] == [0, 1]
        assert await bob.quiet()


class Chains(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, message):
        if message == "drop":
            raise Drop
        if message == "refuse":
            raise NotAllowed("no")
        if message == "fail":
            raise RuntimeError
        if message == "close":
            raise Close(4999, "enough")
        if message == "own":
            web_socket_instance.publish({"made": "by a filter"})
        if message == "elsewhere":
            web_socket_instance.publish("news of it", "news")
        if isinstance(message, dict):
            return {**message, "seen": True}


class Moved(pydantic.BaseModel):
    x: int


async def test_data_that_is_not_as_a_filter_declares_it_is_told():
    def double(web_socket_instance, data: Moved):
        return Moved(x=2 * data.x)

    application = app([message_filter(double)])
    async with speak(application=application) as ann, speak(application=application) as bob:
        for one in (ann, bob):
            await one.subscribe("private-a")
        await ann.say("client-a", {"x": 1}, channel="private-a")
        assert await bob.hears("client-a", channel="private-a") == {"x": 2}
        await ann.say("client-a", {"x": "?"}, channel="private-a")
        told = await ann.hears("pusher:error")
        assert told["code"] == 4301
        assert told["message"].startswith("bad request: x: Input should be a valid integer")
        assert await bob.quiet()


class Looks(WebSocketDataFilter):
    seen = []

    @classmethod
    def filter(cls, web_socket_instance, data):
        cls.seen.append(bytes(data))


async def test_filters_see_client_events():
    application = app([Looks, Chains])
    Looks.seen.clear()
    async with speak(application=application) as ann, speak(application=application) as bob:
        for one in (ann, bob):
            await one.subscribe("private-a")
        await bob.subscribe("news")
        await ann.say("client-a", {"b": 1}, channel="private-a")
        assert await bob.hears("client-a", channel="private-a") == {"b": 1, "seen": True}
        assert Looks.seen == [b'{"b":1}']
        await ann.say("client-a", "own", channel="private-a")
        assert await bob.hears("client-a", channel="private-a") == {"made": "by a filter"}
        await ann.say("client-a", "elsewhere", channel="private-a")
        heard = [await bob.hear(), await bob.hear()]
        assert {one["event"]: one["data"] for one in heard} == {
            "message": "news of it",
            "client-a": "elsewhere",
        }
        for word in ("drop", "refuse", "fail"):
            await ann.say("client-a", word, channel="private-a")
            assert await ann.error() == 4301
        await ann.say("client-a", "close", channel="private-a")
        assert await ann.error() == 4999
        assert await ann.closed() == 4999
        assert await bob.quiet()


async def test_a_client_that_leaves_while_its_event_is_handled(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"FILTER_GRACE": 0.1})

    class Waits(WebSocketMessageFilter):
        begun = asyncio.Event()

        @classmethod
        async def filter(cls, web_socket_instance, message):
            cls.begun.set()
            await asyncio.Event().wait()

    async with speak([Waits]) as ann:
        await ann.subscribe("private-a")
        await ann.say("client-a", 1, channel="private-a")
        await Waits.begun.wait()


async def test_a_filter_limits_every_event():
    class Limit(RateLimitFilter):
        rate = "2/h"

    class Ends(RateLimitFilter):
        rate = "3/h"
        action = "close"

    async with speak([Limit, Ends]) as ann:
        await ann.subscribe("a")
        await ann.subscribe("b")
        await ann.say("pusher:subscribe", {"channel": "c"})
        assert await ann.error() == 4301
        await ann.say("pusher:subscribe", {"channel": "c"})
        assert await ann.error() == 4301


async def test_a_publish_that_is_not_taken(monkeypatch):
    async with speak() as ann:
        await ann.subscribe("private-a")

        def publish(*arguments, **options):
            raise PublishError("no room")

        monkeypatch.setattr(type(ann.client.connection), "publish", publish)
        await ann.say("client-a", 1, channel="private-a")
        assert await ann.error() == 4301


async def test_a_site_is_closed_with_an_error_where_it_says_so(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"ON_ERROR": "close"})
    async with speak([Chains]) as ann:
        await ann.subscribe("private-a")
        await ann.say("client-a", "fail", channel="private-a")
        assert await ann.closed() == 4200


# Filters and the connection


async def test_pushes_are_events_without_a_channel():
    async with speak() as ann:
        connection = ann.client.connection
        connection.push({"a": 1})
        assert await ann.hears("message") == '{"a":1}'
        connection.push("text")
        await connection.send("sent")
        assert [await ann.hears("message") for _ in range(2)] == ["text", "sent"]
        with pytest.raises(ValueError, match="no text"):
            connection.push(b"\xff")
        with published() as seen:
            connection.publish("hi", "news")
        assert [(one.group, one.message) for one in seen] == [("news", "hi")]


def test_socket_ids():
    own = str(uuid.uuid4())
    assert connection_of(socket_id_of(own)) == own
    for bad in ("", "1", "1.", ".1", "a.1", "1.2.3", f"{2**64}.1", "٣.1", "1." + "0" * 60):
        with pytest.raises(ValueError, match="socket_id"):
            connection_of(bad)


async def test_a_client_that_leaves_while_it_is_let_in():
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Waits(WebSocketConnectFilter):
        @classmethod
        async def filter(cls, web_socket_instance, handshake):
            begun.set()
            await go_on.wait()

    async with speak([Waits], connects=False) as ann:
        await begun.wait()
        ann.client._input.put_nowait({"type": "websocket.disconnect", "code": 1001})
        go_on.set()
        ann.client.close_code = 1001
