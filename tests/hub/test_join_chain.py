"""The join and leave chains: what runs before a connection is in a group, and after it was."""

import asyncio
import contextvars
import logging

import pytest

from filtered_websocket import (
    Close,
    Drop,
    NotAllowed,
    WebSocketConnectFilter,
    WebSocketDisconnectFilter,
    WebSocketJoinFilter,
    WebSocketLeaveFilter,
)
from filtered_websocket.chains import stalls as stalls_module
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.exceptions import FilterError
from filtered_websocket.groups import group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import connect

from ..chains.test_raising_filters import ERRORS
from ..connections.test_connection import message_filter
from ..waiting import limited, until

KINDS = ["def", "async", "blocking"]


def chain_filter(base, function, kind="def"):
    async def in_async(web_socket_instance, data):
        await asyncio.sleep(0)
        return function(web_socket_instance, data)

    in_async.__name__ = function.__name__
    chosen = in_async if kind == "async" else function
    return message_filter(chosen, base, blocking=kind == "blocking")


def join_filter(function, kind="def"):
    return chain_filter(WebSocketJoinFilter, function, kind)


def leave_filter(function, kind="def"):
    return chain_filter(WebSocketLeaveFilter, function, kind)


def route(*filters, groups=("home",), **options):
    return FilteredWebSocketConsumer.as_asgi(filters=list(filters), groups=groups, **options)


# Join


@pytest.mark.parametrize("kind", KINDS)
async def test_a_join_filter_that_returns_false_lets_nobody_in(kind, caplog):
    def allow(web_socket_instance, subscription):
        return False if subscription.group == "room:5" else None

    async with connect(route(join_filter(allow, kind))) as ann:
        with pytest.raises(FilterError):
            await ann.connection.join("room:5")
        assert ann.connection.groups == {"home"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_join_filter_sees_the_subscription_before_it_stands_and_may_add_to_it(kind):
    seen = []

    def note(web_socket_instance, subscription):
        members = get_hub().groups.names if kind != "blocking" else ()
        seen.append((subscription.group, subscription.captured, subscription.data))
        seen.append(
            (subscription.group in members, subscription.group in web_socket_instance.groups)
        )
        subscription.info = {"name": subscription.data}
        return "ignored"

    def reply(web_socket_instance, subscription):
        subscription.reply = f"welcome, {subscription.info}"

    rules = [group("home"), group("room:<int:number>")]
    app = route(join_filter(note, kind), join_filter(reply, kind), group_rules=rules)
    async with connect(app) as ann:
        connection = ann.connection
        assert await connection.join("room:5", data="ann")
        stands = connection.subscriptions["room:5"]
        assert stands.info == {"name": "ann"} and stands.reply == "welcome, {'name': 'ann'}"
        # Who is in a group does not join it.
        assert await connection.join("room:5", data="bob")
        assert connection.subscriptions["room:5"] is stands
    assert seen == [
        ("home", {}, None),
        (False, False),
        ("room:5", {"number": 5}, "ann"),
        (False, False),
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_routes_without_rules_have_join_and_leave_chains_too(kind):
    seen = []

    def join(web_socket_instance, subscription):
        seen.append(("join", subscription.group, subscription.rule, subscription.captured))

    def leave(web_socket_instance, subscription):
        seen.append(("leave", subscription.group))

    async with connect(route(join_filter(join, kind), leave_filter(leave, kind))) as ann:
        await ann.connection.join("any name")
        await ann.connection.leave("any name")
        await until(lambda: len(seen) == 3)
    assert seen == [
        ("join", "home", None, {}),
        ("join", "any name", None, {}),
        ("leave", "any name"),
        ("leave", "home"),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [Drop(), NotAllowed("no more guests")])
async def test_a_join_filter_refuses_a_join_and_leaves_the_connection_alone(kind, error):
    seen = []

    def no_room(web_socket_instance, subscription):
        if subscription.group == "room":
            raise error

    def note(web_socket_instance, subscription):
        seen.append(subscription.group)

    filters = [join_filter(no_room, kind), join_filter(note), leave_filter(note)]
    async with connect(route(*filters)) as ann:
        with pytest.raises(NotAllowed) as caught:
            await ann.connection.join("room")
        expected = "no more guests" if isinstance(error, NotAllowed) else "may not join this group"
        assert caught.value.reason == expected
        assert ann.connection.groups == {"home"} and "room" not in get_hub().groups.names
        assert set(ann.connection.subscriptions) == {"home"}
    assert seen == ["home", "home"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_group_of_the_route_refuses_the_connection_and_the_others_are_left(kind):
    left = []

    def only_one(web_socket_instance, subscription):
        if subscription.group == "two":
            raise Drop

    def note(web_socket_instance, subscription):
        left.append(subscription.group)

    app = route(join_filter(only_one, kind), leave_filter(note, kind), groups=["one", "two"])
    client = await connect(app)
    assert (client.accepted, client.close_code) == (False, 4403)
    await client.close()
    assert left == ["one"]


@pytest.mark.repeats
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
async def test_a_join_filter_that_raises_lets_nobody_in(caplog, kind, error):
    def fail(web_socket_instance, subscription):
        if subscription.group == "room":
            raise error("on purpose")

    async def enter(web_socket_instance, data):
        await web_socket_instance.join("room")
        web_socket_instance.push("let in")

    app = route(join_filter(fail, kind), message_filter(enter))
    async with connect(app) as ann:
        await ann.send("x")
        await ann.settle()
        assert ann.connection.groups == {"home"}
        assert await ann.received_nothing()
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "test_connection.fail raised" in record.getMessage()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_join_filter_that_raises_refuses_the_handshake_as_an_error(caplog, kind):
    def fail(web_socket_instance, subscription):
        raise ValueError("on purpose")

    client = await connect(route(join_filter(fail, kind)))
    assert (client.accepted, client.close_code) == (False, 4500)
    await client.close()
    assert "test_connection.fail raised ValueError" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_close_of_a_join_filter_closes_the_connection_of_who_does_not_wait(kind):
    def bye(web_socket_instance, subscription):
        if subscription.group == "room":
            raise Close(4000, "bye")

    def enter(web_socket_instance, data):
        web_socket_instance.join("room")

    async with connect(route(join_filter(bye, kind), message_filter(enter))) as ann:
        await ann.send("x")
        assert await ann.closed() == 4000


async def test_the_rule_is_asked_before_the_join_chain():
    asked = []

    def ask(connection, **captured):
        asked.append("rule")
        return False

    def note(web_socket_instance, subscription):
        asked.append(subscription.group)

    rules = [group("home"), group("room", join=ask)]
    async with connect(route(join_filter(note), group_rules=rules)) as ann:
        with pytest.raises(NotAllowed):
            await ann.connection.join("room")
        assert await ann.connection.join("room", trusted=True)
    assert asked == ["home", "rule", "room"]


async def test_a_join_that_is_taken_back_while_its_chain_runs_never_stands():
    gate, seen = asyncio.Event(), []

    async def wait(web_socket_instance, subscription):
        if subscription.group == "room":
            await gate.wait()

    def note(web_socket_instance, subscription):
        seen.append(subscription.group)

    filters = message_filter(wait, WebSocketJoinFilter), leave_filter(note)
    async with connect(route(*filters)) as ann:
        joining = ann.connection.join("room")
        await ann.connection.leave("room")
        gate.set()
        assert await joining is False
        assert ann.connection.groups == {"home"}
    assert seen == ["home"]


tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["at once", "later"])
async def test_joins_of_one_moment_run_the_join_chain_once(kind, rule):
    """What a join filter adds, a leave filter takes away: both run as often."""

    async def later(connection):
        await asyncio.sleep(0)
        return True

    async def join_twice(web_socket_instance, data):
        both = [web_socket_instance.join("room"), web_socket_instance.join("room")]
        results.append([await one for one in both])
        await web_socket_instance.leave("room")

    seen, results = [], []
    app = route(
        join_filter(lambda connection, one: seen.append(f"join {one.group}"), kind),
        leave_filter(lambda connection, one: seen.append(f"leave {one.group}"), kind),
        message_filter(join_twice),
        group_rules=[group("room", join=later if rule == "later" else True)],
    )
    async with connect(app) as ann:
        await ann.send("x")
        await until(lambda: len(seen) == 3 and not ann.connection.turns.is_taken("room"))
        assert results == [[True, True]]
    assert seen == ["join home", "join room", "leave room", "leave home"]


@pytest.mark.parametrize("join_kind", KINDS)
@pytest.mark.parametrize("leave_kind", KINDS)
async def test_who_joins_again_does_so_once_the_leave_chain_has_run(join_kind, leave_kind):
    """Otherwise what the leave filter takes away would be what the join filter added last."""
    here = set()

    async def again(web_socket_instance, data):
        for _ in range(3):
            web_socket_instance.leave("room")
            assert await web_socket_instance.join("room") is True
        web_socket_instance.leave("room")
        web_socket_instance.join("room")
        handled.set()

    handled = asyncio.Event()
    app = route(
        join_filter(lambda connection, one: here.add(one.group), join_kind),
        leave_filter(lambda connection, one: here.discard(one.group), leave_kind),
        message_filter(again),
    )
    async with connect(app) as ann:
        await ann.connection.join("room")
        await ann.send("x")
        async with limited():
            await handled.wait()
        await until(lambda: "room" in ann.connection.groups and not ann.connection.joining)
        await until(lambda: not ann.connection.turns.is_taken("room"))
        assert here == {"home", "room"}
    assert here == set()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_leave_filter_may_join_the_group_again(kind):
    """Who waits for that in the chain must not wait for the end of the chain."""

    async def again(web_socket_instance, subscription):
        if subscription.group == "room" and not seen:
            seen.append(await web_socket_instance.join("room"))

    seen = []
    app = route(
        join_filter(lambda connection, one: None, kind),
        message_filter(again, WebSocketLeaveFilter),
    )
    async with connect(app) as ann:
        await ann.connection.join("room")
        await ann.connection.leave("room")
        await until(lambda: seen)
        assert seen == [True] and "room" in ann.connection.groups


@pytest.mark.parametrize("kind", KINDS)
async def test_the_join_chain_does_not_begin_for_who_was_taken_back(kind):
    """No leave chain would undo what it does."""
    decide, seen = asyncio.Event(), []

    async def slow(connection):
        await decide.wait()
        return True

    app = route(
        join_filter(lambda connection, one: seen.append(one.group), kind),
        group_rules=[group("room", join=slow)],
    )
    async with connect(app) as ann:
        joining = ann.connection.join("room")
        ann.connection.leave("room")
        decide.set()
        assert await joining is False and seen == ["home"]


async def test_a_join_that_waits_for_its_turn_is_taken_back_too():
    gate, seen = asyncio.Event(), []

    async def leaving(web_socket_instance, subscription):
        seen.append(f"leave {subscription.group}")
        await gate.wait()

    app = route(
        join_filter(lambda connection, one: seen.append(f"join {one.group}")),
        message_filter(leaving, WebSocketLeaveFilter),
    )
    async with connect(app) as ann:
        await ann.connection.join("room")
        ann.connection.leave("room")
        joining = ann.connection.join("room")
        ann.connection.leave("room")
        gate.set()
        assert await joining is False
        assert seen == ["join home", "join room", "leave room"]


@pytest.mark.parametrize("kind", KINDS)
async def test_both_chains_run_in_the_context_of_the_handshake(kind):
    seen = []

    def note(web_socket_instance, subscription):
        seen.append(tenant.get())

    app = route(join_filter(note, kind), leave_filter(note, kind))

    async def of_tenant(scope, receive, send):
        tenant.set("one")
        await app(scope, receive, send)

    async with connect(of_tenant) as ann:
        await ann.connection.join("room")
        await ann.connection.leave("room")
    assert seen == ["one"] * 4


# Leave


@pytest.mark.parametrize("kind", KINDS)
async def test_the_leave_chain_runs_for_every_group_before_the_disconnect_chain(kind):
    seen = []

    def note(web_socket_instance, subscription):
        groups = web_socket_instance.groups
        seen.append((subscription.group, subscription.info, subscription.group in groups))

    def bye(web_socket_instance):
        seen.append("bye")

    def name(web_socket_instance, subscription):
        subscription.info = subscription.group.upper()

    filters = [join_filter(name), leave_filter(note, kind)]
    ann = await connect(route(*filters, message_filter(bye, WebSocketDisconnectFilter)))
    await ann.connection.join("room")
    await ann.close()
    assert sorted(seen[:2]) == [("home", "HOME", True), ("room", "ROOM", True)]
    assert seen[2:] == ["bye"]


async def test_the_leave_chain_runs_where_only_the_connect_chain_has_joined():
    left = []

    async def join(web_socket_instance):
        await web_socket_instance.join("lobby")
        raise Drop

    def note(web_socket_instance, subscription):
        left.append(subscription.group)

    app = route(message_filter(join, WebSocketConnectFilter), leave_filter(note))
    client = await connect(app)
    assert not client.accepted
    await client.close()
    assert left == ["lobby"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "error", [ValueError("on purpose"), Drop(), NotAllowed("why"), Close(4000)], ids=repr
)
async def test_every_leave_filter_runs_also_after_one_that_raised(caplog, kind, error):
    left = []

    def fail(web_socket_instance, subscription):
        if subscription.group == "room":
            raise error

    def note(web_socket_instance, subscription):
        left.append(subscription.group)

    async with connect(route(leave_filter(fail, kind), leave_filter(note, kind))) as ann:
        await ann.connection.join("room")
        await ann.connection.leave("room")
        await until(lambda: "room" in left)
        if isinstance(error, Close):
            assert await ann.closed() == 4000
        else:
            assert not ann.connection.closing
            assert get_hub().counts["not_allowed"] == isinstance(error, NotAllowed)
    assert left == ["room", "home"]
    assert ("test_connection.fail raised ValueError" in caplog.text) == (
        isinstance(error, ValueError)
    )


async def test_a_leave_filter_that_hangs_is_cancelled_and_the_next_one_runs(
    settings, monkeypatch, caplog
):
    settings.FILTERED_WEBSOCKET = {"FILTER_GRACE": 0.05}
    monkeypatch.setattr(stalls_module._throttle, "note", lambda name: True)
    seen = []

    async def hang(web_socket_instance, subscription):
        await asyncio.get_running_loop().create_future()

    def note(web_socket_instance, subscription):
        seen.append(subscription.group)

    def bye(web_socket_instance):
        seen.append("bye")

    filters = [message_filter(hang, WebSocketLeaveFilter), leave_filter(note)]
    async with limited():
        ann = await connect(route(*filters, message_filter(bye, WebSocketDisconnectFilter)))
        await ann.close()
    assert seen == ["home", "bye"]
    assert "cancelled tests.connections.test_connection.hang" in caplog.text


async def test_a_slow_leave_filter_does_not_keep_a_member():
    gate, seen = asyncio.Event(), []

    async def wait(web_socket_instance, subscription):
        await gate.wait()
        seen.append(subscription.group)

    async with connect(route(message_filter(wait, WebSocketLeaveFilter))) as ann:
        await ann.connection.join("room")
        await ann.connection.leave("room")
        assert "room" not in get_hub().groups.names and ann.connection.groups == {"home"}
        # It may join again meanwhile.
        await ann.connection.join("room")
        gate.set()
        await until(lambda: seen == ["room"])
    assert seen[1:] == ["home", "room"] or seen[1:] == ["room", "home"]
