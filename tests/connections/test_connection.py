"""The objects that a filter gets: the connection, and its pipeline's view of the hub."""

import asyncio
import contextvars
import queue
import threading

import django
import pytest

from filtered_websocket import (
    Close,
    Drop,
    PublishError,
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.connections.handshake import Handshake
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect, published

from ..waiting import hold, until


def message_filter(function, base=WebSocketMessageFilter, **namespace):
    """A filter of one function."""
    return type(base)(
        function.__name__,
        (base,),
        {"filter": staticmethod(function), "__module__": __name__, "_registers": False} | namespace,
    )


def held(function, base=WebSocketMessageFilter):
    """A filter that keeps its instances in a list."""
    seen = []

    def hold(web_socket_instance, data):
        seen.append(web_socket_instance)
        return function(web_socket_instance, data) if function else None

    return message_filter(hold, base), seen


async def test_a_connection_knows_who_it_is(django_user_model):
    hold, seen = held(None)
    user = django_user_model(username="ann")
    async with connect([hold], "/a/?b=c", user=user) as ann, connect([hold]) as bob:
        await ann.send("x")
        await bob.send("x")
        await bob.settle()
        one, other = seen
        assert one.user is user and one.session is None and one.scope["path"] == "/a/"
        assert set(one.users) == {one.id, other.id} and len(one.users) == 2
        assert one.users[other.id] is other
        assert dict(one.users.items()) == dict(zip(one.users, one.users.values(), strict=True))
        one.state["x"] = one.anything = 1
        other.state = {"y": 2}
        assert one.state == {"x": 1} and other.state == {"y": 2}
        assert one.token is None and not one.closing
        assert one.groups == {one.home}
        assert repr(one) == f"<Connection {one.id} '/a/'>"
    assert one.users == {} and one.groups == {one.home}


async def test_bytes_take_the_kind_of_the_event():
    def echo(web_socket_instance, data):
        web_socket_instance.push(data)

    async with connect([message_filter(echo)]) as ann:
        for message in ("text", b"binary", "", b""):
            await ann.send(message)
            assert await ann.receive() == message


async def test_send_message_sends_utf8_as_text_as_in_2014():
    def answer(web_socket_instance, data):
        web_socket_instance.sendMessage(bytes(data))

    async with connect([message_filter(answer)]) as ann:
        await ann.send(b"abc")
        assert await ann.receive() == "abc"
        await ann.send(b"\xff")
        assert await ann.receive() == b"\xff"


async def test_send_keeps_the_order_with_pushes():
    async def answer(web_socket_instance, data):
        web_socket_instance.push("1")
        await web_socket_instance.send("2")
        web_socket_instance.push({"n": 3})

    async with connect([message_filter(answer)]) as ann:
        await ann.send("x")
        assert [await ann.receive() for _ in range(3)] == ["1", "2", '{"n":3}']


async def test_a_thread_may_push_publish_and_close():
    def work(web_socket_instance, data):
        assert threading.current_thread() is not threading.main_thread()
        web_socket_instance.push(data)
        web_socket_instance.publish(data)
        web_socket_instance.close(4000, "done")

    busy = message_filter(work, blocking=True)
    async with connect([busy]) as ann, connect([busy]) as bob:
        await ann.send(b"\x01")
        assert await ann.receive() == b"\x01"
        assert await bob.receive() == b"\x01"
        assert await ann.closed() == 4000
        assert ann.close_reason == "done"


async def test_a_publish_reaches_a_group_without_its_sender():
    async def route(web_socket_instance, data):
        command, _, group = data.decode().partition(" ")
        if command == "join":
            assert await web_socket_instance.join(group)
        elif command == "leave":
            await web_socket_instance.leave(group)
            await web_socket_instance.leave(group)
        elif command == "all":
            web_socket_instance.publish("all", group, to_self=True)
        elif command == "less":
            others = list(web_socket_instance.users.values())
            web_socket_instance.publish("less", group, exclude=others[1:])
        else:
            await web_socket_instance.apublish(command, group)

    filters = [message_filter(route)]
    async with connect(filters) as ann, connect(filters) as bob, connect(filters) as cy:
        for client in (ann, bob):
            await client.send("join the 'group' \u2028 世界")
            await client.settle()
        await ann.send("hi the 'group' \u2028 世界")
        assert await bob.receive() == "hi"
        assert await ann.received_nothing() and await cy.received_nothing()
        await bob.send("all the 'group' \u2028 世界")
        assert await ann.receive() == await bob.receive() == "all"
        await cy.send("less the 'group' \u2028 世界")
        assert await ann.receive() == "less"
        await ann.send("leave the 'group' \u2028 世界")
        await bob.send("all the 'group' \u2028 世界")
        assert await bob.receive() == "all"
        assert await ann.received_nothing()


async def test_exclude_takes_connections_and_ids():
    def one(web_socket_instance, data):
        web_socket_instance.publish("not me", exclude=web_socket_instance.id, to_self=True)

    async with connect([message_filter(one)]) as ann, connect([message_filter(one)]) as bob:
        await ann.send("x")
        assert await bob.receive() == "not me"
        assert await ann.received_nothing()


async def test_what_is_wrong_with_a_publish_is_told_and_hurts_nobody():
    def careless(web_socket_instance, data):
        try:
            web_socket_instance.publish("\ud800")
        except PublishError as error:
            web_socket_instance.push(str(error))

    async with connect([message_filter(careless)]) as ann, connect([]) as bob:
        await ann.send("x")
        assert "cannot publish this message" in await ann.receive()
        assert await bob.received_nothing()


@pytest.mark.parametrize(
    "message",
    [{"a": "\x01" * 100_000}, "\x01" * 262_145, ["\ud800"], {"\udfff": 1}, [float("inf")]],
    ids=["grows six times", "too long", "half a pair", "half a pair as key", "infinity"],
)
async def test_what_would_end_every_member_ends_nobody(message):
    def careless(web_socket_instance, data):
        with pytest.raises(PublishError, match="cannot publish"):
            web_socket_instance.publish(message, to_self=True)
        web_socket_instance.publish("fine")

    filters = [message_filter(careless)]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("x")
        assert await bob.receive() == "fine"
        assert await ann.received_nothing()


async def test_a_push_that_cannot_be_encoded_is_the_filters_error(caplog):
    def careless(web_socket_instance, data):
        web_socket_instance.push(object())

    async with connect([message_filter(careless)]) as ann:
        await ann.send("x")
        assert await ann.received_nothing()
    assert "careless raised TypeError" in caplog.text


async def test_a_full_publish_queue_is_told_and_a_crowded_one_stops_reading(settings, caplog):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 4}

    def flood(web_socket_instance, data):
        for n in range(5):
            web_socket_instance.publish(str(n))

    async with connect([message_filter(flood)]) as ann, connect([message_filter(flood)]) as bob:
        await ann.send("x")
        await ann.send("x")
        assert [await bob.receive() for _ in range(8)] == ["0", "1", "2", "3"] * 2
    assert "the publish queue is full (4 messages, " in caplog.text


@pytest.mark.parametrize(
    ("code", "reason"), [(999, ""), (1001, ""), (1006, ""), (5000, ""), (4000, "x" * 124)]
)
async def test_a_close_frame_holds_what_the_rfc_allows(code, reason):
    with pytest.raises(ValueError, match="close"):
        Close(code, reason)

    def end(web_socket_instance, data):
        with pytest.raises(ValueError, match="close"):
            web_socket_instance.close(code, reason)
        web_socket_instance.push("still here")

    async with connect([message_filter(end)]) as ann:
        await ann.send("x")
        assert await ann.receive() == "still here"


async def test_a_route_may_refuse_a_join():
    async def ask(web_socket_instance, data):
        await web_socket_instance.join(data.decode())
        web_socket_instance.push("joined")

    class Choosy(FilteredWebSocketConsumer):
        filters = (message_filter(ask),)
        groups = ("home",)

        @staticmethod
        async def may_join(connection, group):
            await asyncio.sleep(0)
            return group in ("home", "yes")

    class Closed(Choosy):
        @classmethod
        def may_join(cls, connection, group):
            return False

    async with connect(Choosy.as_asgi()) as ann:
        await ann.send("yes")
        assert await ann.receive() == "joined"
        await ann.send("no")
        assert await ann.received_nothing() and get_hub().counts["not_allowed"] == 1
        await ann.send("yes")
        assert await ann.receive() == "joined"
    refused = await connect(Closed.as_asgi())
    assert not refused.accepted and refused.close_code == 4403
    await refused.close()


async def test_joining_after_the_end_is_nothing():
    hold, seen = held(None)
    async with connect([hold]) as ann:
        await ann.send("x")
        await ann.settle()
    assert await seen[0].join("late") is False
    seen[0].push("into the void")
    await seen[0].send("into the void")
    assert get_hub().groups.names == ()


#: Django 6 joins them as one header would have them.
SEVERAL_COOKIES = "a=1; b=2" if django.VERSION >= (6,) else "a=1,b=2"


def test_a_handshake_shows_headers_as_text():
    handshake = Handshake(
        {
            "path": "/a/",
            "query_string": b"x=1",
            "headers": [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x", b"\xff")],
            "subprotocols": ["chat"],
        }
    )
    assert handshake.headers == {"cookie": SEVERAL_COOKIES, "x": "\xff"}
    assert (handshake.path, handshake.query_string) == ("/a/", "x=1")
    assert handshake.subprotocols == ("chat",) and handshake.subprotocol is None
    assert Handshake({"path": "/"}).headers == {}


async def test_a_connect_filter_may_choose_the_subprotocol_and_join():
    async def choose(web_socket_instance, handshake):
        handshake.subprotocol = handshake.subprotocols[0]
        await web_socket_instance.join("early")
        assert "early" in web_socket_instance.groups and not web_socket_instance.users

    chosen = message_filter(choose, WebSocketConnectFilter)
    async with connect([chosen], subprotocols=["chat"]) as ann:
        assert ann.subprotocol == "chat"


# Hub chains


async def test_a_group_filter_runs_once_per_message_whatever_the_members():
    seen = []

    def mark(hub, data):
        seen.append((bytes(data), sorted(hub.groups)))
        return data + b"!"

    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    filters = [message_filter(say), message_filter(mark, WebSocketGroupFilter)]
    async with connect(filters) as ann, connect(filters) as bob, connect(filters) as cy:
        await ann.send("hi")
        assert await bob.receive() == "hi!" and await cy.receive() == "hi!"
        await ann.send(b"\xff")
        assert await bob.receive() == b"\xff!"
        assert [data for data, _ in seen] == [b"hi", b"\xff"]
        assert len(seen[0][1]) == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_group_filter_may_drop_or_fail_for_one_message(is_async, caplog):
    def choose(hub, data):
        if data == b"drop":
            raise Drop
        if data == b"close":
            raise Close(4000)

    async def later(hub, data):
        await asyncio.sleep(0)
        choose(hub, data)

    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    chosen = message_filter(later if is_async else choose, WebSocketGroupFilter)
    filters = [message_filter(say), chosen]
    async with connect(filters) as ann, connect(filters) as bob:
        for message in ("1", "drop", "2", "close", "3"):
            await ann.send(message)
        assert [await bob.receive() for _ in range(3)] == ["1", "2", "3"]
    assert "raised Close on group" in caplog.text


async def test_async_group_chains_keep_the_order_of_one_group_and_groups_do_not_wait():
    gate = asyncio.Event()

    async def slow(hub, data):
        if data.startswith(b"slow"):
            await gate.wait()

    async def say(web_socket_instance, data):
        group = data.decode().split()[0]
        await web_socket_instance.join(group)
        web_socket_instance.publish(data, group, to_self=True)

    filters = [message_filter(say), message_filter(slow, WebSocketGroupFilter)]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("slow 1")
        await ann.send("slow 2")
        await bob.send("quick 1")
        assert await bob.receive() == "quick 1"
        gate.set()
        assert [await ann.receive(), await ann.receive()] == ["slow 1", "slow 2"]


async def test_a_backlog_that_was_busy_when_its_group_was_left_is_forgotten():
    gate = asyncio.Event()

    async def slow(hub, data):
        await gate.wait()

    async def say(web_socket_instance, data):
        await web_socket_instance.join("g")
        await web_socket_instance.apublish(data, "g", to_self=True)
        await web_socket_instance.apublish(data, "g", to_self=True)
        await get_hub().link.round_trip()
        await web_socket_instance.leave("g")

    filters = [message_filter(say), message_filter(slow, WebSocketGroupFilter)]
    async with connect(filters) as ann:
        await ann.send("x")
        [view] = [view for view in get_hub().views.values() if view.pipeline.message]
        backlogs = view._delivery._backlogs
        while "g" in get_hub().groups.names or "g" not in backlogs:  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.set()
        await ann.settle()
        assert "g" not in backlogs


async def test_hub_chains_run_in_no_connections_context():
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = []

    def note(hub, data):
        seen.append((tenant.get(), bytes(data)))

    def say(web_socket_instance, data):
        web_socket_instance.publish(data)

    filters = [message_filter(say), message_filter(note, WebSocketGroupFilter)]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters)

    async def middleware(scope, receive, send):
        tenant.set("acme")
        await app(scope, receive, send)

    async with connect(middleware) as ann, connect(app) as bob:
        await ann.send("x")
        assert await bob.receive() == "x"
    assert seen == [("nobody", b"x")]


async def test_large_messages_that_arrive_together_do_not_close_a_reader():
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"])
    async with connect(app) as ann:
        for n in range(10):
            get_hub().publish_queue.put("g", new_item(str(n) * 250_000))
        for n in range(10):
            assert await ann.receive() == str(n) * 250_000


async def test_a_backlog_of_group_messages_is_bounded(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 10}
    gate = asyncio.Event()

    async def slow(hub, data):
        await gate.wait()

    async def say(web_socket_instance, data):
        await web_socket_instance.apublish(data, to_self=True)

    filters = [message_filter(say), message_filter(slow, WebSocketGroupFilter)]
    async with connect(filters) as ann:
        for n in range(15):
            await ann.send(str(n))
        while get_hub().counts["group_dropped"] < 4:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        gate.set()
        assert await ann.receive() == "0"


async def test_events_put_in_a_queue_reach_the_consumer_chain_as_they_are():
    seen = []

    def note(hub, event):
        seen.append(event)
        if event == "drop":
            raise Drop
        if event == "fail":
            raise KeyError(event)
        hub.fan_out(hub.pipeline.home, f"event {event}", exclude=[])

    def put(web_socket_instance, data):
        for event in ("drop", "fail", 7):
            web_socket_instance.queue.put(event)

    filters = [message_filter(put), message_filter(note, WebSocketConsumerFilter)]
    async with connect(filters) as ann:
        await ann.send("x")
        assert await ann.receive() == "event 7"
    assert seen == ["drop", "fail", 7]


async def test_a_hub_filter_may_publish_and_await():
    async def relay(hub, event):
        await asyncio.sleep(0)
        hub.publish(event)
        hub.publish(event, "elsewhere")

    def put(web_socket_instance, data):
        threading.Thread(target=web_socket_instance.queue.put, args=(data.decode(),)).start()

    filters = [message_filter(put), message_filter(relay, WebSocketConsumerFilter)]
    with published() as messages:
        async with connect(filters) as ann:
            await ann.send("x")
            assert await ann.receive() == "x"
    assert {message.group for message in messages} > {"elsewhere"}


async def test_a_backlog_of_group_messages_is_bounded_in_bytes_and_stops_reading(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 10_000}
    gate, handled = asyncio.Event(), []

    async def slow(hub, data):
        await gate.wait()

    def say(web_socket_instance, data):
        handled.append(data)
        web_socket_instance.publish(data, to_self=True)

    app = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(say), message_filter(slow, WebSocketGroupFilter)], groups=["g"]
    )
    async with connect(app) as ann:
        hub = get_hub()
        for n in range(9):
            await ann.send(str(n) * 2000)
            for _ in range(100):
                await asyncio.sleep(0)
        # The first is in the filter; above half of the limit no more is read.
        assert 2 < len(handled) < 6 and hub.backlog.crowded
        # What other processes publish is dropped at the limit.
        for n in range(9):
            hub.publish_queue.put("g", new_item(str(n) * 2000))
        while hub.counts["group_dropped"] < 4:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        assert hub.backlog.bytes <= 10_000
        gate.set()
        while len(handled) < 9:
            await ann.receive()
        await ann.settle()
        assert hub.backlog.bytes == hub.backlog.count == 0


async def test_a_connection_whose_publish_found_the_queue_full_is_not_read(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 2500}
    gate, handled = asyncio.Event(), []

    def say(web_socket_instance, data):
        handled.append(data)
        web_socket_instance.publish(data)

    async with connect([message_filter(say)]) as ann, connect([message_filter(say)]):
        hold(get_hub().link, gate)
        get_hub().publish_queue.put("g", new_item("x" * 2000))
        for n in range(3):
            await ann.send(str(n) * 2000)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(handled) == 1
        gate.set()
        while len(handled) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_who_publishes_and_does_not_await_is_not_read_either(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 20_000}
    gate, handled = asyncio.Event(), []

    def say(web_socket_instance, data):
        handled.append(data)
        web_socket_instance.apublish(data)

    async with connect([message_filter(say)]) as ann:
        hold(get_hub().link, gate)
        for n in range(9):
            await ann.send(str(n) * 2000)
        for _ in range(200):
            await asyncio.sleep(0)
        # Each takes about 2500 bytes.
        assert len(handled) == 5
        gate.set()
        await until(lambda: len(handled) == 9)


async def test_the_event_queue_is_bounded_in_bytes_and_stops_reading(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 10_000}
    gate, handled, full = asyncio.Event(), [], []

    def put(web_socket_instance, data):
        handled.append(data)
        for _ in range(3):
            try:
                web_socket_instance.queue.put({"data": bytes(data)})
            except queue.Full:
                full.append(data)

    async def slow(hub, event):
        await gate.wait()

    filters = [message_filter(put), message_filter(slow, WebSocketConsumerFilter)]
    async with connect(filters) as ann:
        await ann.send("x" * 3000)
        await ann.send("y")
        for _ in range(100):
            await asyncio.sleep(0)
        # Above half of the limit no more is read.
        assert len(handled) == len(full) == 1
        gate.set()
        while len(handled) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_the_event_queue_is_bounded(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 2}
    told = []

    def put(web_socket_instance, data):
        for n in range(3):
            try:
                web_socket_instance.queue.put(n)
            except queue.Full:
                told.append(n)
        get_hub().events.post("gap", None)

    def ignore(hub, event):
        return None

    filters = [message_filter(put), message_filter(ignore, WebSocketConsumerFilter)]
    async with connect(filters) as ann:
        await ann.send("x")
        await ann.settle()
        assert told == [2] and get_hub().counts["event_dropped"] == 1


async def test_without_a_consumer_chain_events_go_nowhere():
    def put(web_socket_instance, data):
        web_socket_instance.queue.put(1)

    async with connect([message_filter(put)]) as ann:
        await ann.send("x")
        assert await ann.received_nothing()


async def test_users_can_be_iterated_while_they_come_and_go():
    async def slow(web_socket_instance, data):
        for key, user in web_socket_instance.users.items():
            await asyncio.sleep(0)
            user.push(key)

    async with connect([message_filter(slow)]) as ann:
        await ann.send("x")
        async with connect([message_filter(slow)]):
            assert await ann.receive()


async def test_the_disconnect_chain_sees_how_it_ended():
    ends = []

    def note(web_socket_instance):
        ends.append((web_socket_instance.close_code, web_socket_instance.close_reason))

    client = await connect([message_filter(note, WebSocketDisconnectFilter)])
    await client.close(1001)
    assert ends == [(1001, "")]
