"""Joins by name: group rules, ``may_join`` and limits decide; a refusal ends nothing else."""

import asyncio
import json
import threading

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from filtered_websocket import (
    Drop,
    NotAllowed,
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
)
from filtered_websocket.connections.subscription import Subscription
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group, personal
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import apublish, apublish_to_user
from filtered_websocket.testing import connect

from ..connections.test_connection import held, message_filter
from ..waiting import until


async def command(web_socket_instance, data):
    """``join room``, ``leave room`` or ``see room``, answered."""
    verb, _, name = data.decode().partition(" ")
    if verb == "leave":
        answer = await web_socket_instance.leave(name)
    elif verb == "join":
        try:
            answer = await web_socket_instance.join(name)
        except NotAllowed as refusal:
            answer = str(refusal)
    else:
        answer = await web_socket_instance.is_allowed(verb, name)
    web_socket_instance.push(json.dumps(answer))


COMMAND = [message_filter(command)]


async def is_seven(connection, room):
    await asyncio.sleep(0)
    return room == 7


def is_eight(connection, room):
    in_threads.append(threading.current_thread() is not threading.main_thread())
    return room == 8


is_eight.blocking = True
in_threads = []
RULES = [
    group("news"),
    group("closed", join=False, publish=True, see=True),
    group("odd:<int:room>", join=lambda connection, room: room % 2 == 1),
    group("seven:<int:room>", join=is_seven, publish=is_seven),
    group("eight:<int:room>", join=is_eight, see=False),
    group("board", join="board.view_board"),
]
REFUSED = "may not join this group: "


async def told(client, text):
    await client.send(text)
    return json.loads(await client.receive())


async def test_a_join_is_allowed_as_the_first_rule_that_matches_says():
    in_threads.clear()
    async with connect(COMMAND, group_rules=RULES) as ann:
        for name in ("news", "odd:3", "seven:7", "eight:8"):
            assert await told(ann, f"join {name}") is True
        for name in ("closed", "odd:4", "seven:8", "eight:7", "board"):
            assert await told(ann, f"join {name}") == f"{REFUSED}{name!r}"
        for name in ("else", "seven:x", "news ", "eight:8/"):
            assert await told(ann, f"join {name}") == (
                f"no group rule declares this name: {name!r}"
            )
        [connection] = get_hub().connections.values()
        joined = {"news", "odd:3", "seven:7", "eight:8"}
        assert connection.groups == {connection.home, *joined}
        assert in_threads == [True, True]
        await apublish("hi", "seven:7")
        assert await ann.receive() == "hi"


async def test_a_refusal_leaves_the_connection_and_its_other_groups_alone(caplog):
    caplog.set_level("INFO")

    async def join(web_socket_instance, data):
        await web_socket_instance.join(data.decode())
        web_socket_instance.push("not reached")

    async with connect([message_filter(join)], group_rules=[group("x", join=False)]) as ann:
        for name in ("x", "y", "user:1", "token:1"):
            await ann.send(name)
        assert await ann.received_nothing() and ann.close_code is None
        assert get_hub().counts["not_allowed"] == 4
    lines = [line for line in caplog.messages if "refusals" in line]
    assert len(lines) == 1 and "may not join this group: 'x' (1 refusals so far)" in lines[0]


async def test_a_subscription_has_what_the_rule_captured_and_the_client_sent():
    async def join(web_socket_instance, data):
        await web_socket_instance.join("odd:3", data={"since": 5})

    listed = [group("odd:<int:room>", presence=True)]
    async with connect([message_filter(join)], group_rules=listed) as ann:
        await ann.send("x")
        await ann.settle()
        [connection] = get_hub().connections.values()
        one = connection.subscriptions["odd:3"]
        assert isinstance(one, Subscription) and repr(one) == "<Subscription 'odd:3'>"
        assert (one.captured, one.rule, one.data) == ({"room": 3}, listed[0], {"since": 5})
        assert (one.info, one.reply, one.position, one.trusted) == (None, None, None, False)
        home = connection.subscriptions[connection.home]
        assert home.rule is None and home.trusted
        await ann.send("x")
        await ann.settle()
        assert connection.subscriptions["odd:3"] is one
        await connection.leave("odd:3")
        assert set(connection.subscriptions) == {connection.home}


async def test_without_rules_there_are_no_subscriptions_and_every_name_may_be_joined():
    async with connect(COMMAND) as ann:
        assert await told(ann, f"join {'x' * 1000}") is True
        assert await told(ann, "see x") is False
        [connection] = get_hub().connections.values()
        assert connection.subscriptions == {} and len(connection.groups) == 2


async def test_a_trusted_join_asks_no_rule():
    async def join(web_socket_instance, data):
        for name in ("closed", "undeclared", "x" * 300):
            assert await web_socket_instance.join(name, trusted=True) is True
        web_socket_instance.push("joined")

    async with connect([message_filter(join)], group_rules=RULES) as ann:
        await ann.send("x")
        assert await ann.receive() == "joined"
        [connection] = get_hub().connections.values()
        assert connection.subscriptions["closed"].rule is RULES[1]
        assert connection.subscriptions["undeclared"].rule is None
        assert all(one.trusted for one in connection.subscriptions.values())


async def test_rule_and_may_join_both_have_to_allow_it():
    asked = []

    class Route(FilteredWebSocketConsumer):
        filters = COMMAND
        groups = ("home",)
        group_rules = (group("<str:name>", join=lambda connection, name: name != "rule"),)

        @staticmethod
        async def may_join(connection, group):
            asked.append(group)
            await asyncio.sleep(0)
            return group != "route"

    async with connect(Route.as_asgi()) as ann:
        assert await told(ann, "join rule") == f"{REFUSED}'rule'"
        assert await told(ann, "join route") == f"{REFUSED}'route'"
        assert await told(ann, "join both") is True
        assert asked == ["home", "route", "both"]


async def test_an_error_of_a_rule_is_an_error_of_the_filter_that_asked(caplog):
    def fails(connection):
        raise KeyError("on demand")

    async def fails_later(connection):
        raise KeyError("on demand")

    listed = [group("a", join=fails), group("b", join=fails_later)]
    async with connect(COMMAND, group_rules=listed) as ann:
        for name in ("a", "b"):
            await ann.send(f"join {name}")
            assert await ann.received_nothing()
        assert caplog.text.count("KeyError: 'on demand'") == 2
        assert await told(ann, "leave a") is None


@pytest.mark.parametrize("kind", ["def", "async", "blocking", "may_join", "async may_join"])
@pytest.mark.parametrize(
    ("refusal", "words"),
    [(Drop(), "may not join this group: 'a'"), (NotAllowed("because"), "because")],
)
async def test_who_may_not_may_be_said_by_drop(kind, refusal, words):
    """A refusal that nobody is told would be silence to the client."""

    def refuse(*args):
        raise refusal

    async def refuse_later(*args):
        raise refusal

    def refuse_in_a_thread(*args):
        raise refusal

    async def refuse_only_a(connection, name):
        if name == "a":
            raise refusal
        return True

    def refuse_a(connection, name):
        if name == "a":
            raise refusal
        return True

    refuse_in_a_thread.blocking = True
    functions = {"def": refuse, "async": refuse_later, "blocking": refuse_in_a_thread}

    class Route(FilteredWebSocketConsumer):
        filters = COMMAND
        groups = ("home",)
        group_rules = [group("a", join=functions.get(kind, True))]

    if kind not in functions:
        Route.may_join = staticmethod(refuse_a if kind == "may_join" else refuse_only_a)
    async with connect(Route.as_asgi()) as ann:
        assert await told(ann, "join a") == words
        if kind in functions and type(refusal) is Drop:
            assert await told(ann, "see a") is False


@pytest.mark.parametrize("steps", ["leave", "end"])
async def test_a_join_that_is_not_decided_yet_is_taken_back(steps):
    decide = asyncio.Event()

    async def slow(connection):
        await decide.wait()
        return True

    async def join(web_socket_instance, data):
        results.append(web_socket_instance.join("slow"))

    results = []
    async with connect([message_filter(join)], group_rules=[group("slow", join=slow)]) as ann:
        await ann.send("x")
        await ann.settle()
        [connection] = get_hub().connections.values()
        assert "slow" not in connection.subscriptions and connection.asked
        if steps == "end":
            await ann.close()
        else:
            connection.leave("slow")
            decide.set()
        assert await results[0] is False
        assert "slow" not in connection.groups and not connection.asked


async def test_two_joins_at_once_are_one_subscription():
    async def join(web_socket_instance, data):
        both = [web_socket_instance.join("seven:7", data=number) for number in (1, 2)]
        web_socket_instance.push(json.dumps([await one for one in both]))

    async with connect([message_filter(join)], group_rules=RULES) as ann:
        await ann.send("x")
        assert json.loads(await ann.receive()) == [True, True]
        [connection] = get_hub().connections.values()
        assert connection.subscriptions["seven:7"].data == 1


# Limits


async def test_a_connection_is_in_so_many_groups(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_GROUPS": 4}
    async with connect(COMMAND, group_rules=[group("n:<int:n>")]) as ann:
        for number in range(3):
            assert await told(ann, f"join n:{number}") is True
        assert await told(ann, "join n:3") == "at most 4 groups (MAX_GROUPS): 'n:3'"
        assert await told(ann, "join n:2") is True
        await told(ann, "leave n:0")
        assert await told(ann, "join n:3") is True
        [connection] = get_hub().connections.values()
        assert await connection.join("n:9", trusted=True) is True


async def test_joins_that_wait_for_an_answer_count_too():
    """10 000 of them in a second must not be 10 000 tasks."""
    decide = asyncio.Event()

    async def slow(connection, n):
        await decide.wait()
        return True

    def join(web_socket_instance, data):
        for number in range(10_000):
            try:
                web_socket_instance.join(f"n:{number if data == b'x' else 0}")
            except NotAllowed:
                refused.append(number)

    refused = []
    for text in ("x", "the same"):
        async with connect(
            [message_filter(join)], group_rules=[group("n:<int:n>", join=slow)]
        ) as ann:
            await ann.send(text)
            await ann.settle()
            [connection] = get_hub().connections.values()
            assert len(connection.tasks) == 127 and len(refused) == 9873
            refused.clear()


async def test_joins_that_are_taken_back_count_until_they_are_decided():
    """10 000 commands to join and to leave again must not be 10 000 questions at a time."""
    decide = asyncio.Event()
    asked = []

    async def slow(connection):
        asked.append(1)
        await decide.wait()
        return True

    def join_and_leave(web_socket_instance, data):
        for _ in range(10_000):
            try:
                web_socket_instance.join("slow")
            except NotAllowed:
                refused.append(1)
            web_socket_instance.leave("slow")

    refused = []
    rules = [group("slow", join=slow), group("news")]
    async with connect([message_filter(join_and_leave)], group_rules=rules) as ann:
        await ann.send("x")
        await ann.settle()
        connection = ann.connection
        assert len(connection.tasks) == len(asked) == 127 and len(refused) == 9873
        decide.set()
        await until(lambda: not connection.tasks)
        assert connection.groups == {connection.home} and not connection.asked
        assert await connection.join("news") is True


@pytest.mark.parametrize("name", ["", "x" * 1025, "x" * 200_000])
async def test_what_can_be_no_name_is_refused_and_no_error_of_the_filter(name, caplog):
    async with connect(COMMAND, group_rules=[group("<path:any>")]) as ann:
        assert (await told(ann, f"join {name}")).startswith("names have 1 to 255 characters: '")
        assert await told(ann, f"see {name}") is False
        with pytest.raises(ValueError):
            await ann.connection.join(name, trusted=True)
    async with connect(COMMAND) as ann:
        with pytest.raises(ValueError):
            await ann.connection.join(name)
    assert "raised" not in caplog.text


@pytest.mark.parametrize(("length", "allowed"), [(255, True), (256, False)])
async def test_a_client_names_groups_of_at_most_255_characters(length, allowed):
    name = "x" * length
    async with connect(COMMAND, group_rules=[group("<str:name>")]) as ann:
        answer = await told(ann, f"join {name}")
        assert answer is True if allowed else answer.startswith("names have at most 255")
        assert await told(ann, f"see {name}") is allowed


@pytest.mark.parametrize("name", ["user:1", "user:", "token:1"])
@pytest.mark.parametrize("rules", [None, [group("<str:any>"), personal()]])
async def test_names_of_users_and_tokens_are_refused(name, rules):
    ann = User(pk=1, username="ann")
    async with connect(COMMAND, group_rules=rules, user=ann) as client:
        answer = await told(client, f"join {name}")
        assert answer.startswith("names that begin with") and name not in get_hub().groups.names
        assert get_hub().counts["not_allowed"] == 0


# The connect chain, and other chains


async def test_a_refusal_that_leaves_the_connect_chain_refuses_the_connection(caplog):
    caplog.set_level("INFO")

    async def join(web_socket_instance, handshake):
        await web_socket_instance.join("seven:1")

    client = await connect([message_filter(join, WebSocketConnectFilter)], group_rules=RULES)
    assert (client.accepted, client.close_code) == (False, 4403)
    assert client.close_reason == "may not join this group"
    assert "may not join this group: 'seven:1'" in caplog.text
    await client.close()


@pytest.mark.parametrize("base", [WebSocketGroupFilter, WebSocketConsumerFilter])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_refusal_in_a_chain_of_the_hub_is_counted(base, is_async):
    async def later(hub, data):
        refuse(hub, data)

    def refuse(hub, data):
        raise NotAllowed("not here")

    def act(web_socket_instance, data):
        web_socket_instance.publish(data, to_self=True)
        web_socket_instance.queue.put("event")

    filters = [message_filter(act), message_filter(later if is_async else refuse, base)]
    async with connect(filters) as ann:
        await ann.send("x")
        await until(lambda: get_hub().counts["not_allowed"] == 1)


async def test_a_refusal_in_the_disconnect_chain_is_counted_and_the_next_filter_runs(caplog):
    caplog.set_level("INFO")
    seen = []

    def refuse(web_socket_instance):
        raise NotAllowed

    filters = [
        message_filter(filter, WebSocketDisconnectFilter) for filter in (refuse, seen.append)
    ]
    async with connect(filters), connect([]):
        pass
    assert len(seen) == 1 and "not allowed (1 refusals so far)" in caplog.text


# Asking without joining


async def test_a_filter_may_ask_what_the_rules_allow():
    async with connect(COMMAND, group_rules=[*RULES, personal(see=True)]) as ann:
        assert await told(ann, "join news") is True
        expected = {
            "publish": ["closed", "seven:7"],
            "see": ["news", "closed", "odd:3", "seven:7", "user:1"],
        }
        for action, allowed in expected.items():
            for name in ("news", "closed", "odd:3", "odd:4", "seven:7", "eight:8", "user:1", "z"):
                assert await told(ann, f"{action} {name}") is (name in allowed), (action, name)
        [connection] = get_hub().connections.values()
        assert await connection.is_allowed("join", "seven:7") is True
        assert await connection.is_allowed("join", "user:1") is False
        answer = await asyncio.to_thread(async_to_sync(connection.is_allowed), "join", "odd:3")
        assert answer is True


# Users' own groups


async def test_on_a_personal_route_who_is_logged_in_is_in_the_own_group():
    ann, bob = User(pk=1, username="ann"), User(pk=2, username="bob")
    hold, seen = held(None)
    rules = [personal()]
    async with (
        connect([hold], personal=True, user=ann) as one,
        connect([hold], personal=True, user=ann, group_rules=rules) as two,
        connect([hold], personal=True, user=bob) as other,
        connect([hold], personal=True) as anonymous,
        connect([], user=ann) as elsewhere,
    ):
        assert get_hub().groups.names.count("user:1") == 1
        await apublish_to_user(ann, "for ann")
        await apublish_to_user(1, "again")
        for client in (one, two):
            assert [await client.receive(), await client.receive()] == ["for ann", "again"]
        for client in (other, anonymous, elsewhere):
            assert await client.received_nothing()
        await two.send("x")
        await two.settle()
        assert seen[0].subscriptions["user:1"].rule is rules[0]
        assert seen[0].home != "user:1" and seen[0].personal_group == "user:1"


async def test_may_join_is_not_asked_about_the_own_group():
    class Route(FilteredWebSocketConsumer):
        filters = ()
        groups = ("home",)
        personal = True

        @staticmethod
        def may_join(connection, group):
            return group == "home"

    async with connect(Route.as_asgi(), user=User(pk=1)):
        assert set(get_hub().groups.names) == {"home", "user:1"}


@pytest.mark.parametrize(("name", "accepted"), [("user:1", True), ("user:2", False)])
async def test_a_route_that_names_groups_from_the_path_names_no_other_user(name, accepted):
    class Route(FilteredWebSocketConsumer):
        filters = ()

        def get_groups(self):
            return [name]

    client = await connect(Route.as_asgi(), user=User(pk=1, username="ann"))
    assert client.accepted is accepted
    if not accepted:
        assert (client.close_code, client.close_reason) == (4403, "no such group")
    await client.close()


async def test_a_route_that_declares_such_a_name_still_has_it():
    """``manage.py check`` warns of it."""
    async with connect(FilteredWebSocketConsumer.as_asgi(filters=[], groups=["user:all"])):
        assert get_hub().groups.names == ("user:all",)
