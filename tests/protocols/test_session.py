"""A connection that speaks the Centrifuge protocol, from its handshake to its end."""

import asyncio
import base64
import datetime
import json
import time
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.test import override_settings

from filtered_websocket import Close, Drop, WebSocketConnectFilter, WebSocketDisconnectFilter
from filtered_websocket.api.control import set_expiry
from filtered_websocket.disconnect import disconnect_user, subscribe
from filtered_websocket.filters.base import WebSocketJoinFilter, WebSocketMessageFilter
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.protocols import timers, tokens
from filtered_websocket.protocols.session import Session
from filtered_websocket.testing import Closed
from filtered_websocket.types import Identity

from ..metrics.reading import Change
from ..waiting import until
from .clients import app, speak
from .test_tokens import KEY, token

jwt_key = override_settings(FILTERED_WEBSOCKET={"JWT_KEY": KEY, "REFUSE_WITH": "403"})


async def test_a_client_connects_and_is_told_how():
    async with speak() as ann:
        told = ann.connected["connect"]
        assert told == {
            "client": told["client"],
            "version": "filtered_websocket",
            "ping": 25,
            "pong": True,
        }
        assert ann.client.connection.id == told["client"]
        assert await ann.ask(ping={}) == {"ping": {}}


async def test_several_commands_may_come_in_one_frame():
    async with speak() as ann:
        await ann.say({"id": 8, "ping": {}}, {"id": 9, "ping": {}})
        assert [(await ann.hear())["id"], (await ann.hear())["id"]] == [8, 9]


async def test_one_command_in_a_frame_is_handled_by_itself(monkeypatch):
    many, handle = [], Session._handle_all
    monkeypatch.setattr(
        Session, "_handle_all", lambda own, *args: many.append(args) or handle(own, *args)
    )
    async with speak() as ann:
        assert await ann.ask(ping={}) == {"ping": {}}
        assert many == []
        await ann.say({"id": 5, "ping": {}}, {"id": 6, "ping": {}})
        assert [(await ann.hear())["id"] for _ in range(2)] == [5, 6]
        assert len(many) == 1


async def test_the_subprotocol_is_answered():
    async with speak(subprotocols=["centrifuge-json"]) as ann:
        assert ann.client.subprotocol == "centrifuge-json"


BAD = [
    "nonsense",
    "{}",
    '{"id": 5}',
    '{"ping": {}}',
    '{"id": 5, "ping": {}, "rpc": {}}',
    '{"id": 5, "connect": {}}',
    '{"id": 5, "subscribe": {}}',
    '{"id": 5, "refresh": {"token": "x"}}',
    '{"id": 5, "sub_refresh": {"channel": "news", "token": "x"}}',
]


@pytest.mark.parametrize("frame", BAD)
async def test_a_client_that_does_not_speak_it_is_closed_with_3501(frame):
    async with speak() as ann:
        await ann.client.send(frame)
        assert await ann.closed() == 3501


async def test_a_command_before_connect_is_a_bad_request():
    async with speak(connects=False) as ann:
        await ann.say({"id": 1, "ping": {}})
        assert await ann.closed() == 3501


async def test_what_follows_a_close_in_a_frame_is_not_handled():
    async with speak() as ann:
        await ann.say({"id": 1}, {"id": 2, "ping": {}})
        with pytest.raises(Closed):
            await ann.hear()

    class Closes(WebSocketMessageFilter):
        @classmethod
        def filter(cls, web_socket_instance, message):
            seen.append(message)
            raise Close(4999, "enough")

    seen = []
    async with speak([Closes]) as ann:
        await ann.say({"send": {"data": 1}}, {"send": {"data": 2}})
        assert await ann.closed() == 4999
        assert seen == [1]


@override_settings(FILTERED_WEBSOCKET={"MAX_MESSAGE_SIZE": 100})
async def test_a_frame_that_is_too_long_is_a_bad_request():
    async with speak() as ann:
        await ann.say({"id": 1, "rpc": {"data": "x" * 100}})
        assert await ann.closed() == 3501


# Pings


async def test_a_client_that_answers_pings_stays(monkeypatch):
    monkeypatch.setattr(timers, "PING", 0.03)
    monkeypatch.setattr(timers, "PONG", 0.02)
    async with speak() as ann:
        for _ in range(2):
            assert await ann.client.receive() == "{}"
            # The deadline of a busy machine: the answer is what counts.
            monkeypatch.setattr(timers, "PONG", 60.0)
            monkeypatch.setattr(timers, "PING", 60.01)
            if _ == 0:
                await ann.say({})
                break
        assert await ann.ask(ping={}) == {"ping": {}}


async def test_a_client_that_answers_no_ping_is_closed(monkeypatch):
    monkeypatch.setattr(timers, "PING", 0.01)
    monkeypatch.setattr(timers, "PONG", 0.01)
    async with speak() as ann:
        assert await ann.closed() == 3012


async def test_a_client_that_never_connects_is_closed(monkeypatch):
    monkeypatch.setattr(timers, "STALE", 0.01)
    async with speak(connects=False) as ann:
        assert await ann.closed() == 3502


# The connect chain


class Refuses(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance, handshake):
        raise Drop


class Counts(WebSocketDisconnectFilter):
    ended = []

    @classmethod
    def filter(cls, web_socket_instance):
        cls.ended.append(web_socket_instance.id)


async def test_a_refusal_by_the_connect_chain_comes_after_the_accept():
    Counts.ended.clear()
    async with speak([Refuses, Counts], connects=False) as ann:
        assert ann.client.accepted
        await ann.say({"id": 1, "connect": {}})
        assert await ann.closed() == 3507
    assert Counts.ended == []


async def test_the_disconnect_chain_runs_for_who_was_connected():
    Counts.ended.clear()
    async with speak([Counts]) as ann:
        pass
    assert Counts.ended == [ann.id]


class Leaves(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance, handshake):
        web_socket_instance.close(4321, "early")


async def test_a_close_in_the_connect_chain_goes_as_it_is():
    async with speak([Leaves], connects=False) as ann:
        await ann.say({"id": 1, "connect": {}})
        assert await ann.closed() == 4321


@override_settings(FILTERED_WEBSOCKET={"MAX_CONNECTIONS": 1})
async def test_a_limit_refuses_by_a_close_frame():
    application = app()
    async with (
        speak(application=application),
        speak(application=application, connects=False) as bob,
    ):
        assert await bob.closed() == 4100


async def test_an_accept_that_fails_ends_the_connection():
    async def receive():
        return {"type": "websocket.connect"}

    async def send(event):
        raise OSError

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(OSError):
        await app()({**scope, "user": AnonymousUser()}, receive, send)


class JoinsForAMoment(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance, handshake):
        await web_socket_instance.join("news", trusted=True)
        await web_socket_instance.leave("news")


async def test_a_group_that_was_left_in_the_connect_chain_is_not_told():
    async with speak([JoinsForAMoment]) as ann:
        assert "subs" not in ann.connected["connect"]
        assert await ann.client.received_nothing()


async def test_a_cancellation_ends_a_command():
    class Waits(WebSocketMessageFilter):
        @classmethod
        async def filter(cls, web_socket_instance, message):
            began.set()
            await asyncio.Event().wait()

    began = asyncio.Event()
    ann = speak([Waits])
    await ann.__aenter__()
    await ann.say({"id": 2, "publish": {"channel": "news", "data": 1}})
    await began.wait()
    ann.client._task.cancel()
    assert await ann.closed() == 3004
    with pytest.raises(asyncio.CancelledError):
        await ann.client._task


# Tokens


@jwt_key
async def test_a_token_says_who_connects_and_what_is_subscribed():
    async with speak(connects=False) as ann:
        claims = {"sub": "42", "info": {"name": "Ann"}, "channels": ["news"], "exp": 2**40}
        told = (await ann.ask(connect={"token": token(**claims)}))["connect"]
        assert told["subs"] == {"#42": {}, "news": {}}
        assert told["expires"] is True and told["ttl"] > 0
        connection = ann.client.connection
        assert connection.user_id == "42" and connection.user.info == {"name": "Ann"}
        await ann.say({"id": 2, "publish": {"channel": "news", "data": 5}})
        heard = [await ann.hear(), await ann.hear()]
        push = next(one["push"] for one in heard if "push" in one)
        assert push["pub"] == {
            "data": 5,
            "info": {"client": connection.id, "user": "42", "conn_info": {"name": "Ann"}},
        }


@jwt_key
@pytest.mark.parametrize("info", [b"Ann", b"\xff", b'1,"user":"7"'])
async def test_bytes_of_a_token_that_are_not_json_are_shown_to_nobody(info):
    application = app()
    async with speak(application=application) as bob, speak(connects=False) as ann:
        sent = token(sub="42", b64info=base64.b64encode(info).decode())
        await ann.ask(connect={"token": sent})
        connection = ann.client.connection
        assert connection.user.info == info
        for one, channel in ((bob, "news"), (ann, "room:1")):
            await one.ask(subscribe={"channel": channel})
        await ann.push()  # its own join
        assert (await ann.ask(publish={"channel": "news", "data": 5}))["publish"] == {}
        told = {"client": connection.id, "user": "42"}
        assert (await bob.push())["pub"] == {"data": 5, "info": told}
        found = await ann.ask(presence={"channel": "room:1"})
        assert found["presence"]["presence"] == {connection.id: told}


@jwt_key
@pytest.mark.parametrize("sent", ["nonsense", "anonymous"])
async def test_a_token_that_is_sent_is_checked(sent):
    sent = token(key=KEY[::-1]) if sent == "anonymous" else sent
    async with speak(connects=False) as ann:
        await ann.say({"id": 1, "connect": {"token": sent}})
        assert await ann.closed() == 3500


@jwt_key
async def test_nobody_connects_with_a_token_of_a_subscription():
    permission = token(sub="42", channel="board", exp=2**40)
    async with speak(connects=False) as ann:
        await ann.say({"id": 1, "connect": {"token": permission}})
        assert await ann.closed() == 3500
    async with speak(connects=False) as ann:
        await ann.ask(connect={"token": token(sub="42", exp=2**40)})
        await ann.say({"id": 2, "refresh": {"token": permission}})
        assert await ann.closed() == 3500


@jwt_key
async def test_an_expired_token_may_be_sent_again():
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    async with speak(connects=False) as ann:
        assert await ann.error(connect={"token": token(exp=past)}) == 109
        assert "connect" in await ann.ask(connect={"token": token()})


@jwt_key
@pytest.mark.parametrize("channel", ["nothing", "", "#7"])
async def test_a_token_that_names_what_may_not_be_subscribed_is_refused(channel):
    async with speak(connects=False) as ann:
        await ann.say({"id": 1, "connect": {"token": token(sub="42", channels=[channel])}})
        assert await ann.closed() == 3500


@jwt_key
async def test_a_group_of_a_token_that_a_filter_refuses_is_left_out():
    class Never(WebSocketJoinFilter):
        @classmethod
        def filter(cls, web_socket_instance, subscription):
            raise Drop

    async with speak([Never], connects=False) as ann:
        told = (await ann.ask(connect={"token": token(channels=["news"])}))["connect"]
        assert "subs" not in told


@override_settings(FILTERED_WEBSOCKET={"JWT_KEY": KEY, "MAX_CONNECTIONS_PER_USER": 1})
async def test_a_user_of_a_token_is_counted():
    application = app()
    async with speak(application=application, connects=False) as ann:
        await ann.ask(connect={"token": token(sub="42")})
        async with speak(application=application, connects=False) as bob:
            await bob.say({"id": 1, "connect": {"token": token(sub="42")}})
            assert await bob.closed() == 3013


@jwt_key
async def test_a_token_is_refreshed():
    async with speak(connects=False) as ann:
        await ann.ask(connect={"token": token(sub="42", exp=int(time.time()) + 1000)})
        told = (await ann.ask(refresh={"token": token(sub="42", exp=2**40)}))["refresh"]
        assert told["expires"] and told["ttl"] == tokens.MAX_TTL and told["client"]
        assert "expires" not in (await ann.ask(refresh={"token": token(sub="42")}))["refresh"]


@jwt_key
@pytest.mark.parametrize("sent", ["nonsense", "other"])
async def test_a_refresh_with_a_wrong_token_closes(sent):
    async with speak(connects=False) as ann:
        await ann.ask(connect={"token": token(sub="42", exp=2**40)})
        await ann.say({"id": 2, "refresh": {"token": token(sub="7") if sent == "other" else sent}})
        assert await ann.closed() == 3500


@jwt_key
async def test_who_does_not_refresh_is_closed(monkeypatch):
    monkeypatch.setattr(timers, "GRACE", -(2**41))
    async with speak(connects=False) as ann:
        await ann.say({"id": 1, "connect": {"token": token(sub="42", exp=2**40)}})
        assert await ann.closed() == 3005


@jwt_key
async def test_the_site_lets_a_token_last_longer_and_shorter(monkeypatch):
    async with speak(connects=False) as ann:
        soon, later = (int(time.time()) + seconds for seconds in (100, 9_000))
        await ann.ask(connect={"token": token(sub="42", exp=soon)})
        set_expiry("42", "", later)
        told = (await ann.push())["refresh"]
        assert told["expires"] and told["ttl"] > 8_000
        await ann.client.settle()
        set_expiry("42", "", None)
        assert (await ann.push())["refresh"] == {}
        await ann.client.settle()
        monkeypatch.setattr(timers, "GRACE", -10_000)
        set_expiry("42", "", later)
        assert await ann.closed() == 3005


@jwt_key
async def test_a_token_without_an_end_ends_as_the_site_says(monkeypatch):
    monkeypatch.setattr(timers, "GRACE", -1)
    async with speak(connects=False) as ann:
        await ann.ask(connect={"token": token(sub="42")})
        set_expiry("42", "", 1)
        assert await ann.closed() == 3005


async def test_who_has_no_token_of_the_protocol_has_none_to_renew():
    async with speak():
        [connection] = get_hub().connections.values()
        assert not connection.renew(None)


def ann_only(name):
    if name == "mistake":
        raise ValueError("no such thing")
    return User(pk=42, username="ann", is_active=name != "asleep") if name != "nobody" else None


async def ann_later(name):
    return ann_only(name)


@pytest.mark.parametrize("find", [ann_only, ann_later])
async def test_a_site_finds_its_own_users(find, settings, caplog):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": KEY, "JWT_USER": find}
    application = app()
    async with speak(application=application, connects=False) as ann:
        told = (await ann.ask(connect={"token": token(sub="ann")}))["connect"]
        assert told["subs"] == {"#42": {}}
        assert ann.client.connection.user.username == "ann"
    for name, code in [("nobody", 3500), ("asleep", 3500), ("mistake", 3004)]:
        async with speak(application=application, connects=False) as ann:
            await ann.say({"id": 1, "connect": {"token": token(sub=name)}})
            assert await ann.closed() == code
    assert "no such thing" in caplog.text


REFUSED = [
    ({}, "nonsense", "invalid token"),
    ({"JWT_USER": ann_only}, "asleep", "invalid token"),
    ({"MAX_CONNECTIONS_PER_USER": 1}, "42", "too many connections"),
]


@pytest.mark.parametrize(("options", "name", "reason"), REFUSED)
async def test_who_introduces_itself_in_vain_is_refused_in_the_log(
    settings, caplog, options, name, reason
):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": KEY, **options}
    caplog.set_level("INFO", "filtered_websocket")
    application = app()
    change = Change("fws_handshakes_total")
    async with (
        speak(application=application, connects=False) as ann,
        speak(application=application, connects=False) as bob,
    ):
        told = await bob.ask(connect={"token": token(sub="42")} if name == "42" else {})
        sent = name if name == "nonsense" else token(sub=name)
        await ann.say({"id": 1, "connect": {"token": sent}})
        await ann.closed()
    accepted, refused = [
        record
        for record in caplog.records
        if record.getMessage().startswith(("accepted", "refused"))
    ]
    assert accepted.connection_id == told["connect"]["client"]
    assert refused.connection_id != accepted.connection_id
    assert refused.connection_id in refused.getMessage() and reason in refused.getMessage()
    assert sent not in caplog.text
    outcome = "too_many" if options.get("MAX_CONNECTIONS_PER_USER") else "unauthorized"
    assert change.all_of("fws_handshakes_total") == {("accepted",): 1, (outcome,): 1}


@jwt_key
async def test_who_is_named_by_a_token_can_be_disconnected_and_subscribed():
    async with speak(connects=False) as ann:
        await ann.ask(connect={"token": token(sub="42")})
        await sync_to_async(subscribe)("42", "room:1")
        assert (await ann.push())["channel"] == "room:1"
        assert "join" in await ann.push()
        await sync_to_async(disconnect_user)("42")
        assert await ann.closed() == 3500


@jwt_key
async def test_a_token_of_the_handshake_goes_on_to_allow_less():
    async with speak(connects=False) as ann:
        [connection] = get_hub().connections.values()
        connection.identify(Identity(token=SimpleNamespace(can_publish=False)))
        await ann.ask(connect={"token": token(sub="42")})
        assert connection.user_id == "42"
        assert await ann.error(publish={"channel": "news", "data": 1}) == 103


@jwt_key
async def test_a_user_of_the_handshake_may_send_a_token_too():
    user = User(pk=42, username="ann")
    async with speak(user=user, connects=False) as ann:
        told = (await ann.ask(connect={"token": token(sub="42")}))["connect"]
        assert told["subs"] == {"#42": {}}
        assert ann.client.connection.user is user


async def test_an_identity_that_expires_is_closed_at_its_next_command():
    async with speak() as ann:
        ann.client.connection.deadline = asyncio.get_running_loop().time() - 1
        await ann.say({"id": 1, "ping": {}})
        assert await ann.closed() == 3500


# What a site sends


async def test_a_push_is_a_message():
    async with speak() as ann:
        ann.client.connection.push({"a": 1})
        assert await ann.push() == {"message": {"data": {"a": 1}}}
        await ann.client.connection.send("hi")
        assert await ann.push() == {"message": {"data": "hi"}}
        with pytest.raises(ValueError, match="JSON"):
            ann.client.connection.push(b"\xff")


async def test_protobuf_speaks_too():
    codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
    async with speak(connects=False, subprotocols=["centrifuge-protobuf"]) as ann:
        assert ann.client.subprotocol == "centrifuge-protobuf"
        commands = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "binary"}}]
        await ann.client.send(codecs.encode_commands(commands))
        [told] = codecs.decode_replies(await ann.client.receive())
        assert told["connect"]["ping"] == 25
        assert codecs.decode_replies(await ann.client.receive()) == [{"id": 2, "subscribe": {}}]
        publish = {"channel": "binary", "data": "/w=="}
        await ann.client.send(codecs.encode_commands([{"id": 3, "publish": publish}]))
        heard = codecs.decode_replies(await ann.client.receive())
        heard += codecs.decode_replies(await ann.client.receive())
        push = next(one["push"] for one in heard if "push" in one)
        assert push["pub"]["data"] == "/w=="
        ann.client.connection.push(b"\xff")
        [push] = codecs.decode_replies(await ann.client.receive())
        assert push["push"]["message"]["data"] == "/w=="


async def test_a_session_is_forgotten_at_its_end():
    async with speak() as ann:
        view, _ = ann.client._find()
        assert ann.id in view.pushes.sessions
    await until(lambda: not view.pushes.sessions)
    assert json.dumps(ann.connected)
