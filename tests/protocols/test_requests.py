"""What the commands of the Centrifuge protocol do."""

import asyncio
import inspect
import json
import time

import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from filtered_websocket import (
    Close,
    Drop,
    NotAllowed,
    WebSocketCallFilter,
    WebSocketDataFilter,
    WebSocketGroupFilter,
    WebSocketJoinFilter,
    WebSocketLeaveFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
)
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.presence import apresence
from filtered_websocket.protocols import subscribing, tokens
from filtered_websocket.protocols.requests import MEMBER
from filtered_websocket.publish import apublish

from ..waiting import until
from .clients import RULES, LateRefusal, app, speak
from .test_session import jwt_key
from .test_tokens import token


def a_filter(base, function):
    def run(cls, instance, data):
        return function(instance, data)

    async def arun(cls, instance, data):
        return await function(instance, data)

    chosen = arun if inspect.iscoroutinefunction(function) else run
    return type("Chosen", (base,), {"filter": classmethod(chosen)})


async def subscribed(client, channel, **options):
    return (await client.ask(subscribe={"channel": channel, **options}))["subscribe"]


async def published(client, channel, data):
    """The push to the publisher itself; the reply may come before or after."""
    await client.say({"id": 99, "publish": {"channel": channel, "data": data}})
    heard = [await client.hear(), await client.hear()]
    assert {"id": 99, "publish": {}} in heard
    return next(one["push"] for one in heard if "push" in one)


# Subscriptions


async def test_a_publication_reaches_all_subscribers_and_the_publisher():
    application = app()
    async with speak(application=application) as ann, speak(application=application) as bob:
        assert await subscribed(ann, "news") == await subscribed(bob, "news") == {}
        push = await published(ann, "news", {"a": 1})
        assert push == {"channel": "news", "pub": {"data": {"a": 1}, "info": {"client": ann.id}}}
        assert await bob.push() == push


@pytest.mark.parametrize("data", [None, 5, "text", [1], {"a": "é"}, True])
async def test_data_may_be_any_json(data):
    async with speak() as ann:
        await subscribed(ann, "news")
        assert (await published(ann, "news", data))["pub"]["data"] == data


async def test_what_python_publishes_has_no_info():
    async with speak() as ann:
        await subscribed(ann, "news")
        await apublish({"a": 1}, "news")
        assert await ann.push() == {"channel": "news", "pub": {"data": {"a": 1}}}
        await apublish("text", "news")
        assert (await ann.push())["pub"]["data"] == "text"
        await apublish(b"\xff", "news")
        await apublish("last", "news")
        assert (await ann.push())["pub"]["data"] == "last"
        view, _ = ann.client._find()
        assert view.host.counts["not_json"] == 1


@pytest.mark.parametrize(
    ("channel", "code"), [("nothing", 102), ("n" * 300, 102), ("board", 103), ("#7", 103)]
)
async def test_what_no_rule_allows_is_refused(channel, code):
    async with speak() as ann:
        assert await ann.error(subscribe={"channel": channel}) == code
        assert await ann.error(publish={"channel": channel, "data": 1}) in (102, 103)


async def test_without_rules_nothing_may_be_subscribed():
    async with speak(rules=None) as ann:
        assert await ann.error(subscribe={"channel": "news"}) == 102


async def test_a_second_subscription_and_a_tag_filter_are_errors():
    async with speak() as ann:
        await subscribed(ann, "news")
        assert await ann.error(subscribe={"channel": "news"}) == 105
        assert await ann.error(subscribe={"channel": "room:1", "tf": {}}) == 107


async def test_a_number_stands_for_the_channel():
    application = app()
    async with speak(application=application) as ann, speak(application=application) as bob:
        number = (await subscribed(ann, "room:1", flag=1))["id"]
        assert number > 0
        assert (await ann.push())["id"] == number  # its own join
        await subscribed(bob, "room:1")
        assert (await ann.push())["id"] == number
        await bob.push()
        assert "channel" not in await published(ann, "room:1", 1)
        assert (await bob.push())["channel"] == "room:1"


async def test_in_protobuf_no_number_stands_for_a_channel():
    """There centrifuge-js compares two objects for a number, and drops what comes by it."""
    codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
    async with speak(connects=False, subprotocols=["centrifuge-protobuf"]) as ann:
        commands = [
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "news", "flag": 1}},
            {"id": 3, "publish": {"channel": "news", "data": "MQ=="}},
        ]
        await ann.client.send(codecs.encode_commands(commands))
        heard = []
        while not any("push" in reply for reply in heard):
            heard += codecs.decode_replies(await ann.client.receive())
        assert "id" not in next(reply["subscribe"] for reply in heard if "subscribe" in reply)
        [push] = [reply["push"] for reply in heard if "push" in reply]
        assert push["channel"] == "news" and "id" not in push


async def test_unsubscribe_ends_it():
    async with speak() as ann:
        await subscribed(ann, "news")
        assert await ann.ask(unsubscribe={"channel": "news"}) == {"unsubscribe": {}}
        assert await ann.ask(unsubscribe={"channel": "news"}) == {"unsubscribe": {}}
        await ann.ask(publish={"channel": "news", "data": 1})
        assert await ann.client.received_nothing()


async def test_the_server_unsubscribes_and_subscribes():
    async with speak() as ann:
        await subscribed(ann, "news")
        connection = ann.client.connection
        await connection.leave("news")
        why = {"code": 2000, "reason": "server unsubscribe"}
        assert await ann.push() == {"channel": "news", "unsubscribe": why}
        await connection.join("room:1", trusted=True)
        assert await ann.push() == {"channel": "room:1", "subscribe": {}}
        assert "join" in await ann.push()
        assert await ann.error(subscribe={"channel": "room:1"}) == 105


async def test_the_groups_of_a_route_are_subscribed_by_the_server():
    async with speak(application=app(groups=["news"])) as ann:
        assert ann.connected["connect"]["subs"] == {"news": {}}
        await apublish(1 * [5], "news")
        assert (await ann.push())["pub"] == {"data": [5]}


async def test_without_rules_too():
    async with speak(application=app(rules=None, groups=["news"])) as ann:
        assert ann.connected["connect"]["subs"] == {"news": {}}


async def test_what_is_lost_of_a_group_that_is_not_subscribed_is_not_told():
    async with speak() as ann:
        view, _ = ann.client._find()
        session = view.pushes.sessions[ann.id]
        session.answered("news")
        session.lose("news")
        assert await ann.client.received_nothing()


async def test_the_own_group_of_a_user_is_named_by_a_hash():
    async with speak(user=User(pk=5, username="ann")) as ann:
        assert ann.connected["connect"]["subs"] == {"#5": {}}
        push = await published(ann, "#5", 1)
        assert push["channel"] == "#5" and push["pub"]["info"]["user"] == "5"
        assert await ann.error(subscribe={"channel": "#5"}) == 105


async def test_a_join_chain_answers_and_refuses():
    def answer(connection, subscription):
        if subscription.data == "no":
            raise Drop
        subscription.reply = {"welcome": subscription.data}
        subscription.info = {"name": "Ann"}

    async with speak([a_filter(WebSocketJoinFilter, answer)]) as ann:
        assert await ann.error(subscribe={"channel": "room:1", "data": "no"}) == 103
        assert await subscribed(ann, "room:1", data=1) == {"data": {"welcome": 1}}
        assert (await ann.push())["join"]["info"]["chan_info"] == {"name": "Ann"}


async def test_the_leave_chain_runs_for_who_unsubscribes_and_for_who_goes():
    left = []

    def note(connection, subscription):
        left.append(subscription.group)

    async with speak([a_filter(WebSocketLeaveFilter, note)]) as ann:
        await subscribed(ann, "news")
        await subscribed(ann, "kept")
        await ann.ask(unsubscribe={"channel": "news"})
        await until(lambda: left == ["news"])
    await until(lambda: left == ["news", "kept"])


async def test_a_subscription_that_the_layer_does_not_confirm_may_be_tried_again(monkeypatch):
    async with speak() as ann:
        monkeypatch.setattr(subscribing, "join", lambda *_: False)
        assert (await ann.ask(subscribe={"channel": "news"}))["error"]["temporary"] is True
        monkeypatch.undo()
        assert await subscribed(ann, "news") == {}


@pytest.mark.parametrize("history", [None, History(10, 60)])
async def test_nothing_is_lost_that_comes_while_the_server_has_subscribed_it_before_its_rule(
    history,
):
    asked, answers = asyncio.Event(), asyncio.Event()

    async def rule(connection):
        asked.set()
        await answers.wait()
        return True

    async with speak(rules=[group("slow", join=rule, history=history)]) as ann:
        await ann.say({"id": 9, "subscribe": {"channel": "slow"}})
        await asked.wait()
        own = ann.client.connection
        await own.join("slow", trusted=True)
        await own.apublish([1], "slow", to_self=True)
        answers.set()
        told = (await ann.hear())["subscribe"]
        await own.apublish([2], "slow", to_self=True)
        for number in (1, 2):
            pub = (await ann.push())["pub"]
            assert (pub["data"], pub.get("offset", 0)) == ([number], number if history else 0)
        assert told.get("offset", 0) == 0


@pytest.mark.parametrize("history", [None, History(10, 60)])
async def test_a_subscription_by_the_server_outlives_a_refusal_of_the_client(history):
    rule = LateRefusal()
    async with speak(rules=[group("slow", join=rule.ask, history=history)]) as ann:
        await ann.say({"id": 9, "subscribe": {"channel": "slow", "flag": 1}})
        await rule.asked.wait()
        own = ann.client.connection
        await own.join("slow", trusted=True)
        await own.apublish([1], "slow", to_self=True)
        rule.may_answer.set()
        heard = [await ann.hear() for _ in range(3)]
        assert [one["error"]["code"] for one in heard if "error" in one] == [103]
        pushes = [one["push"] for one in heard if "push" in one]
        assert list(pushes[0]) == ["channel", "subscribe"]
        assert pushes[1]["pub"]["data"] == [1]
        assert own.groups == {"slow"}
        await own.apublish([2], "slow", to_self=True)
        assert (await ann.push())["pub"]["data"] == [2]
        await own.leave("slow")
        assert "unsubscribe" in await ann.push()


async def test_a_subscription_by_the_server_that_has_ended_is_not_told_after_a_refusal():
    rule = LateRefusal()
    async with speak(rules=[group("slow", join=rule.ask)]) as ann:
        await ann.say({"id": 9, "subscribe": {"channel": "slow"}})
        await rule.asked.wait()
        await ann.client.connection.join("slow", trusted=True)
        await ann.client.connection.leave("slow")
        rule.may_answer.set()
        assert (await ann.hear())["error"]["code"] == 103
        assert await ann.client.received_nothing()
        assert ann.client.connection.groups == frozenset()


async def test_the_server_may_subscribe_to_what_a_client_has_joined_and_is_refused(monkeypatch):
    joined, answers = asyncio.Event(), asyncio.Event()

    async def fails(*args):
        join(*args)
        joined.set()
        return await answers.wait() and False

    def join_and_fail(*args):
        return asyncio.ensure_future(fails(*args))

    join = subscribing.join
    async with speak() as ann:
        monkeypatch.setattr(subscribing, "join", join_and_fail)
        await ann.say({"id": 9, "subscribe": {"channel": "news"}})
        await joined.wait()
        await ann.client.connection.join("news", trusted=True)
        answers.set()
        heard = [await ann.hear(), await ann.hear()]
        assert {"push": {"channel": "news", "subscribe": {}}} in heard
        assert ann.client.connection.groups == {"news"}


async def test_a_join_that_waits_goes_on_where_that_of_the_client_has_failed(monkeypatch):
    async def rule(connection):
        first = not asked
        asked.append(connection)
        return await answers.wait() if first else True

    async def fails(*args):
        return await join(*args) and False

    join, asked, answers = subscribing.join, [], asyncio.Event()
    async with speak(rules=[group("slow", join=rule)]) as ann:
        other = ann.client.connection.join("slow")
        monkeypatch.setattr(subscribing, "join", lambda *args: asyncio.ensure_future(fails(*args)))
        assert await ann.error(subscribe={"channel": "slow"}) == 100
        assert ann.client.connection.groups == frozenset()
        answers.set()
        assert await other
        assert await ann.push() == {"channel": "slow", "subscribe": {}}


# Tokens of subscriptions


@jwt_key
async def test_a_token_is_the_permission():
    async with speak() as ann:
        soon = int(time.time()) + 1000
        told = await subscribed(ann, "board", token=token(channel="board", exp=soon))
        assert told["expires"] and told["ttl"]
        again = {"channel": "board", "token": token(channel="board", exp=2**40)}
        assert (await ann.ask(sub_refresh=again))["sub_refresh"]["ttl"] == tokens.MAX_TTL
        again["token"] = token(channel="board")
        assert (await ann.ask(sub_refresh=again))["sub_refresh"] == {}


@jwt_key
@pytest.mark.parametrize(
    ("claims", "code"),
    [({"channel": "news"}, 103), ({"channel": "board", "sub": "7"}, 103), ({"exp": 1}, 109)],
)
async def test_a_token_for_something_else_is_an_error(claims, code):
    async with speak() as ann:
        assert await ann.error(subscribe={"channel": "board", "token": token(**claims)}) == code
        assert await ann.error(subscribe={"channel": "board", "token": "nonsense"}) == 103


@jwt_key
async def test_who_does_not_renew_it_is_unsubscribed(monkeypatch):
    monkeypatch.setattr(subscribing, "GRACE", -(2**41))
    async with speak() as ann:
        await subscribed(ann, "board", token=token(channel="board", exp=2**40))
        why = {"code": 2501, "reason": "expired"}
        assert await ann.push() == {"channel": "board", "unsubscribe": why}


async def test_a_token_needs_room(settings):
    from .test_tokens import KEY

    settings.FILTERED_WEBSOCKET = {"JWT_KEY": KEY, "MAX_GROUPS": 1}
    async with speak() as ann:
        await subscribed(ann, "news")
        wanted = {"channel": "board", "token": token(channel="board")}
        assert await ann.error(subscribe=wanted) == 106


async def test_joins_that_wait_take_room_of_a_token(settings):
    from .test_tokens import KEY

    async def waits(connection):
        return await gate.wait()

    settings.FILTERED_WEBSOCKET = {"JWT_KEY": KEY, "MAX_GROUPS": 2}
    gate = asyncio.Event()
    async with speak(rules=[group("slow", join=waits), group("<slug:name>")]) as ann:
        await subscribed(ann, "news")
        joined = ann.client.connection.join("slow")
        wanted = {"channel": "board", "token": token(channel="board")}
        assert await ann.error(subscribe=wanted) == 106
        gate.set()
        assert await joined
        assert (await ann.push())["channel"] == "slow"
        await ann.ask(unsubscribe={"channel": "news"})
        await subscribed(ann, "board", token=token(channel="board"))


async def test_a_group_needs_room():
    rules = [group("<slug:name>")]
    with override_settings(FILTERED_WEBSOCKET={"MAX_GROUPS": 1}):
        async with speak(rules=rules) as ann:
            await subscribed(ann, "a")
            assert await ann.error(subscribe={"channel": "b"}) == 106


async def test_an_answer_of_a_join_chain_that_is_no_json_undoes_the_join():
    def answer(connection, subscription):
        subscription.reply = object()

    async with speak([a_filter(WebSocketJoinFilter, answer)]) as ann:
        assert await ann.error(subscribe={"channel": "news"}) == 100
        assert ann.client.connection.groups == frozenset()
        await apublish(1 * [5], "news")
        assert await ann.client.received_nothing()


async def test_a_filter_that_takes_the_join_back_leaves_no_subscription():
    async def leave(connection, subscription):
        asyncio.get_running_loop().call_soon(connection.leave, subscription.group)

    async with speak([a_filter(WebSocketJoinFilter, leave)]) as ann:
        told = await ann.ask(subscribe={"channel": "news"})
        assert told.get("error", {}).get("code") == 100
        assert ann.client.connection.groups == frozenset()


async def test_a_join_that_ends_meanwhile_is_told_once():
    def leave(connection, subscription):
        tasks.append(connection.id)
        if len(tasks) == 1:
            raise NotAllowed("later", subscription.group)

    tasks = []
    async with speak([a_filter(WebSocketJoinFilter, leave)]) as ann:
        assert await ann.error(subscribe={"channel": "news"}) == 103
        assert await subscribed(ann, "news") == {}
        assert await ann.client.received_nothing()


# Publishing


async def test_a_publish_goes_through_the_chains():
    def shout(connection, message):
        return {"said": message["say"].upper()}

    def stop(connection, frame):
        if b"secret" in frame:
            raise Drop
        return frame.replace(b"ann", b"bob")

    filters = [a_filter(WebSocketDataFilter, stop), a_filter(WebSocketMessageFilter, shout)]
    async with speak(filters) as ann:
        await subscribed(ann, "news")
        push = await published(ann, "news", {"say": "ann"})
        assert push["pub"]["data"] == {"said": "BOB"}
        assert await ann.error(publish={"channel": "news", "data": "secret"}) == 103
        assert await ann.ask(ping={}) == {"ping": {}}


@pytest.mark.parametrize("awaits", [True, False])
async def test_a_filter_that_publishes_stands_in_for_the_protocol(awaits):
    async def publish(connection, message):
        await connection.apublish([message])

    def put(connection, message):
        connection.publish([message])
        connection.publish("elsewhere", "room:1")

    async with speak([a_filter(WebSocketMessageFilter, publish if awaits else put)]) as ann:
        await subscribed(ann, "news")
        push = await published(ann, "news", 1)
        assert push["pub"] == {"data": [1], "info": {"client": ann.id}}
        assert await ann.client.received_nothing()


async def test_the_group_chain_sees_publications():
    def double(view, message):
        return message * 2

    async with speak([a_filter(WebSocketGroupFilter, double)]) as ann:
        await subscribed(ann, "news")
        assert (await published(ann, "news", 4))["pub"]["data"] == 8
        ann.client.connection._view.fan_out("news", "ab")
        assert (await ann.push())["pub"]["data"] == "ab"


@pytest.mark.parametrize("awaits", [True, False])
async def test_the_send_chain_changes_it_for_each(awaits):
    def mine(connection, message):
        return {**message, "to": connection.id}

    async def amine(connection, message):
        return mine(connection, message)

    application = app([a_filter(WebSocketSendFilter, amine if awaits else mine)])
    async with speak(application=application) as ann, speak(application=application) as bob:
        await subscribed(ann, "news")
        await subscribed(bob, "news", flag=1)
        assert (await published(ann, "news", {}))["pub"]["data"] == {"to": ann.id}
        assert (await bob.push())["pub"]["data"] == {"to": bob.id}


async def test_a_token_that_may_not_publish_does_not():
    async with speak() as ann:
        ann.client.connection.may_publish = False
        assert await ann.error(publish={"channel": "news", "data": 1}) == 103


async def test_send_goes_through_the_chains_and_has_no_reply():
    seen = []
    async with speak([a_filter(WebSocketMessageFilter, lambda c, m: seen.append(m))]) as ann:
        await ann.say({"send": {"data": {"a": 1}}}, {"send": {}})
        assert await ann.ask(ping={}) == {"ping": {}}
        assert seen == [{"a": 1}, None]


async def test_an_error_in_a_filter_of_send_is_not_answered(caplog):
    async with speak([a_filter(WebSocketMessageFilter, lambda c, m: m.nothing)]) as ann:
        await ann.say({"send": {"data": 1}})
        assert await ann.ask(ping={}) == {"ping": {}}
    assert "raised AttributeError" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError, 100), (ConnectionError, 100), (NotAllowed, 103), (Drop, 103)],
)
async def test_what_a_filter_raises_is_the_answer(error, code):
    def fail(connection, message):
        raise error

    async with speak([a_filter(WebSocketMessageFilter, fail)]) as ann:
        assert await ann.error(publish={"channel": "news", "data": 1}) == code


async def test_a_filter_may_close():
    def close(connection, message):
        raise Close(4777, "enough")

    async with speak([a_filter(WebSocketMessageFilter, close)]) as ann:
        await ann.say({"id": 1, "publish": {"channel": "news", "data": 1}})
        assert await ann.closed() == 4777


@override_settings(FILTERED_WEBSOCKET={"ON_ERROR": "close"})
async def test_an_error_closes_where_the_site_says_so():
    async with speak([a_filter(WebSocketMessageFilter, lambda c, m: m.nothing)]) as ann:
        await ann.say({"id": 2, "publish": {"channel": "news", "data": 1}})
        assert await ann.closed() == 3004


async def test_bytes_need_a_rule_that_welcomes_them():
    codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
    async with speak(connects=False, subprotocols=["centrifuge-protobuf"]) as ann:
        commands = [
            {"id": 1, "connect": {}},
            {"id": 2, "publish": {"channel": "news", "data": "/w=="}},
            {"id": 3, "publish": {"channel": "binary", "data": "/w=="}},
        ]
        await ann.client.send(codecs.encode_commands(commands))
        replies = [codecs.decode_replies(await ann.client.receive())[0] for _ in range(3)]
        assert replies[1]["error"]["code"] == 107
        assert replies[2] == {"id": 3, "publish": {}}


async def test_a_publication_that_has_grown_too_long_is_not_published():
    def grow(connection, message):
        return "x" * 300_000

    async with speak([a_filter(WebSocketMessageFilter, grow)]) as ann:
        assert await ann.error(publish={"channel": "news", "data": 1}) == 100


# Calls


async def test_rpc_is_answered_by_the_call_chain():
    def answer(connection, call):
        if call.method == "no":
            raise Drop
        if call.method == "never":
            raise NotAllowed
        if call.method == "bad":
            raise ValueError
        return None if call.method == "other" else {"got": call.data}

    def rest(connection, call):
        return [call.method]

    filters = [a_filter(WebSocketCallFilter, answer), a_filter(WebSocketCallFilter, rest)]
    async with speak(filters) as ann:
        assert await ann.ask(rpc={"method": "a", "data": 1}) == {"rpc": {"data": {"got": 1}}}
        assert await ann.ask(rpc={"method": "other"}) == {"rpc": {"data": ["other"]}}
        assert await ann.error(rpc={"method": "no"}) == 104
        assert await ann.error(rpc={"method": "never"}) == 103
        assert await ann.error(rpc={"method": "bad"}) == 100


async def test_an_answer_meanwhile_tells_of_no_subscription(monkeypatch):
    """A client passes over what comes before the reply to its subscribe command."""
    answers, joins = asyncio.Event(), asyncio.Event()

    async def answer(connection, call):
        await answers.wait()
        return "later"

    async def wait_joined(key):
        return await joins.wait()

    async with speak([a_filter(WebSocketCallFilter, answer)]) as ann:
        link = get_hub().link
        monkeypatch.setattr(link, "is_joined", lambda key: False)
        monkeypatch.setattr(link, "wait_joined", wait_joined)
        await ann.say({"id": 8, "rpc": {"method": "a"}})
        await ann.say({"id": 9, "subscribe": {"channel": "news"}})
        await until(lambda: "news" in ann.client.connection.joined)
        answers.set()
        assert await ann.hear() == {"id": 8, "rpc": {"data": "later"}}
        await apublish([1], "news")
        joins.set()
        assert await ann.hear() == {"id": 9, "subscribe": {}}
        assert (await ann.push())["pub"] == {"data": [1]}


async def test_rpc_without_a_call_chain_is_not_available():
    async with speak() as ann:
        assert await ann.error(rpc={"method": "a"}) == 108


# Who is here


async def test_presence_and_its_joins_and_leaves():
    application = app()
    async with speak(application=application, user=User(pk=5, username="ann")) as ann:
        await subscribed(ann, "room:1")
        info = {"client": ann.id, "user": "5"}
        assert await ann.push() == {"channel": "room:1", "join": {"info": info}}
        async with speak(application=application) as bob:
            await subscribed(bob, "room:1")
            assert (await ann.push())["join"]["info"] == {"client": bob.id}
            await bob.push()
            here = (await ann.ask(presence={"channel": "room:1"}))["presence"]["presence"]
            assert here == {ann.id: info, bob.id: {"client": bob.id}}
            stats = (await ann.ask(presence_stats={"channel": "room:1"}))["presence_stats"]
            assert stats == {"num_clients": 2, "num_users": 2}
        assert (await ann.push())["leave"]["info"] == {"client": bob.id}


async def test_presence_that_does_not_fit_is_not_read(monkeypatch):
    async with speak() as ann:
        await subscribed(ann, "room:1")
        await ann.push()
        size = len(json.dumps(await ann.ask(presence={"channel": "room:1"}), separators=(",", ":")))
        store = get_hub().presence.store
        read = store.members
        asked = []
        monkeypatch.setattr(store, "members", lambda group: asked.append(group) or read(group))
        for most, times in ((size + 30, 1), (MEMBER, 2), (MEMBER - 1, 2)):
            with override_settings(FILTERED_WEBSOCKET={"MAX_OUTBOX": most}):
                await ann.say({"id": 9, "presence": {"channel": "room:1"}})
                told = await ann.hear()
            assert ("presence" in told) is (most > size) and len(asked) == times
            assert told.get("error", {}).get("code") == (None if most > size else 106)


@jwt_key
async def test_the_info_of_a_token_is_shown_in_presence():
    def call(connection, subscription):
        subscription.info = "in this room"

    async with speak([a_filter(WebSocketJoinFilter, call)], connects=False) as ann:
        await ann.ask(connect={"token": token(sub="7", info={"name": "Ann"})})
        await subscribed(ann, "room:1")
        told = (await ann.push())["join"]["info"]
        info = {"user": "7", "conn_info": {"name": "Ann"}, "chan_info": "in this room"}
        assert told == {"client": told["client"], **info}
        here = (await ann.ask(presence={"channel": "room:1"}))["presence"]["presence"]
        assert here == {told["client"]: told}
        assert (await published(ann, "room:1", 1))["pub"]["info"] == told
        [known] = (await apresence("room:1")).values()
        assert known == ("7", "in this room")


@pytest.mark.parametrize("command", ["presence", "presence_stats", "history"])
async def test_what_is_not_kept_is_not_available(command):
    async with speak() as ann:
        assert await ann.error(**{command: {"channel": "news"}}) == 108
        assert await ann.error(**{command: {"channel": "kept"}}) == 103
        assert await ann.error(**{command: {"channel": "nothing"}}) == 102


async def test_an_error_of_a_rule_is_internal():
    def fails(connection):
        raise ValueError("a mistake")

    async with speak(rules=[*RULES, group("odd", join=fails)]) as ann:
        assert await ann.error(subscribe={"channel": "odd"}) == 100
        assert await asyncio.wait_for(ann.ask(ping={}), 30) == {"ping": {}}
