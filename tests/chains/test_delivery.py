"""Group messages on their way to the members here: the send chain, recipient by recipient."""

import asyncio
import contextvars
import logging
import queue
import threading
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock
from urllib.parse import parse_qs

import pytest
from django.db import connection as database

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
    current,
)
from filtered_websocket.chains.chain import Chain
from filtered_websocket.chains.delivery import Delivery
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.history.base import Position
from filtered_websocket.history.follower import Run
from filtered_websocket.history.lines import Line
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import Item
from filtered_websocket.pipelines.pipeline import Pipeline
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect
from filtered_websocket.transports import AsgiTransport

from ..connections.test_connection import message_filter
from ..waiting import until

KINDS = ["def", "async", "blocking"]


def name_of(connection):
    return connection.scope["path"].strip("/")


def send_filter(function, kind="def"):
    """A send filter of each kind, of one plain function."""

    async def in_async(web_socket_instance, data):
        await asyncio.sleep(0)
        return function(web_socket_instance, data)

    in_async.__name__ = function.__name__
    chosen = in_async if kind == "async" else function
    return message_filter(chosen, WebSocketSendFilter, blocking=kind == "blocking")


class Say(WebSocketMessageFilter):
    """Publishes to everybody, its sender too."""

    @classmethod
    def filter(cls, web_socket_instance, data):
        web_socket_instance.publish(data, to_self=True)


def route(*filters, **options):
    return FilteredWebSocketConsumer.as_asgi(filters=[Say, *filters], groups=["g"], **options)


def sign(web_socket_instance, data):
    return data + b" for " + name_of(web_socket_instance).encode()


@pytest.mark.parametrize("kind", KINDS)
async def test_each_recipient_gets_what_the_send_chain_makes_for_it(kind):
    app = route(send_filter(sign, kind))
    async with connect(app, "/ann/") as ann, connect(app, "/bob/") as bob:
        await ann.send("one")
        await ann.send("two")
        for client, name in ((ann, "ann"), (bob, "bob")):
            assert await client.receive() == f"one for {name}"
            assert await client.receive() == f"two for {name}"


@pytest.mark.parametrize("kind", KINDS)
async def test_text_stays_text_and_binary_stays_binary(kind):
    async with connect(route(send_filter(sign, kind)), "/ann/") as ann:
        await ann.send("text")
        await ann.send(b"\xff")
        assert await ann.receive() == "text for ann"
        assert await ann.receive() == b"\xff for ann"


@pytest.mark.parametrize("kind", KINDS)
async def test_drop_keeps_a_message_from_one_recipient(kind):
    def not_bob(web_socket_instance, data):
        if name_of(web_socket_instance) == "bob" and data == b"secret":
            raise Drop

    app = route(send_filter(not_bob, kind))
    async with connect(app, "/ann/") as ann, connect(app, "/bob/") as bob:
        for message in ("secret", "news"):
            await ann.send(message)
        assert [await ann.receive(), await ann.receive()] == ["secret", "news"]
        assert await bob.receive() == "news"


@pytest.mark.parametrize("kind", KINDS)
async def test_close_closes_one_recipient(kind):
    def no_bob(web_socket_instance, data):
        if name_of(web_socket_instance) == "bob":
            raise Close(4000, "no bobs")

    app = route(send_filter(no_bob, kind))
    async with connect(app, "/ann/") as ann, connect(app, "/bob/") as bob:
        await ann.send("hi")
        assert await bob.closed() == 4000
        assert await ann.receive() == "hi"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["drop", "close"])
async def test_a_filter_that_raises_costs_one_recipient_one_message(settings, caplog, kind, policy):
    settings.FILTERED_WEBSOCKET = {"ON_ERROR": policy}

    def fail(web_socket_instance, data):
        if name_of(web_socket_instance) == "bob" and data == b"bad":
            raise ValueError("no bobs")

    app = route(send_filter(fail, kind))
    async with connect(app, "/bob/") as bob, connect(app, "/ann/") as ann:
        await ann.send("bad")
        assert await ann.receive() == "bad"
        if policy == "close":
            assert await bob.closed() == 4500
        await ann.send("good")
        assert await ann.receive() == "good"
        if policy == "drop":
            assert await bob.receive() == "good"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "fail raised ValueError on connection" in record.getMessage()


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_what_cannot_be_sent_costs_one_recipient(caplog, kind):
    def odd(web_socket_instance, data):
        return 7 if name_of(web_socket_instance) == "bob" else data * 300_000

    app = route(send_filter(odd, kind))
    async with connect(app, "/ann/") as ann, connect(app, "/bob/") as bob:
        await ann.send("x")
        await ann.settle()
        await ann.send("")
        assert await ann.receive() == ""
        assert await bob.received_nothing()
    assert "has grown to 300000 bytes" in caplog.text
    assert "a message is str, bytes, dict or list, not int" in caplog.text


class Encoding:
    """JSON-like, and counts."""

    def __init__(self):
        self.encoded = []

    def decode(self, frame, text):
        return {"said": frame.decode()}

    def encode(self, message, meta):
        self.encoded.append(message)
        return repr(message)


@pytest.mark.parametrize("kind", KINDS)
async def test_equal_results_are_encoded_once(kind):
    codec = Encoding()

    def for_staff(web_socket_instance, data):
        if name_of(web_socket_instance) == "staff":
            data["price"] = 3

    app = route(send_filter(for_staff, kind), codec=codec)
    names = ["/guest/", "/staff/", "/guest/", "/staff/", "/guest/"]
    clients = [await connect(app, name) for name in names]
    await clients[0].send("hi")
    for name, client in zip(names, clients, strict=True):
        price = ", 'price': 3" if name == "/staff/" else ""
        assert await client.receive() == f"{{'said': 'hi'{price}}}"
    assert len(codec.encoded) == 2
    for client in clients:
        await client.close()


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_who_is_excluded_or_closing_is_no_recipient(kind):
    seen = []

    def note(web_socket_instance, data):
        seen.append(name_of(web_socket_instance))

    def leave_out(web_socket_instance, data):
        others = web_socket_instance.users.values()
        [bob] = [other for other in others if name_of(other) == "bob"]
        [cyd] = [other for other in others if name_of(other) == "cyd"]
        cyd.close(4000)
        web_socket_instance.publish(data, exclude=[bob])

    app = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(leave_out), send_filter(note, kind)], groups=["g"]
    )
    async with (
        connect(app, "/ann/") as ann,
        connect(app, "/bob/") as bob,
        connect(app, "/cyd/") as cyd,
        connect(app, "/dan/") as dan,
    ):
        await ann.send("x")
        assert await dan.receive() == "x"
        assert await ann.received_nothing() and await bob.received_nothing()
        assert await cyd.closed() == 4000
    assert seen == ["dan"]


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_who_leaves_in_the_send_chain_gets_nothing(kind):
    """Itself, or another one whose turn has not come."""
    clients = {}
    seen = []

    def hold(web_socket_instance, data):
        clients[name_of(web_socket_instance)] = web_socket_instance

    def leave(web_socket_instance, data):
        seen.append(name_of(web_socket_instance))
        if len(seen) == 1:
            for connection in clients.values():
                connection.leave("g")

    app = route(message_filter(hold, WebSocketConnectFilter), send_filter(leave, kind))
    async with connect(app, "/ann/") as ann, connect(app, "/bob/") as bob:
        await ann.send("x")
        assert await ann.received_nothing() and await bob.received_nothing()
    assert len(seen) == (1 if kind == "def" else 2)


@pytest.mark.parametrize("group_kind", ["none", "def", "async"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_send_chain_gets_what_the_group_chain_made(group_kind, kind):
    def shout(hub, data):
        return data.upper()

    async def shout_in_async(hub, data):
        await asyncio.sleep(0)
        return data.upper()

    chosen = shout if group_kind == "def" else shout_in_async
    group = [] if group_kind == "none" else [message_filter(chosen, WebSocketGroupFilter)]
    async with connect(route(send_filter(sign, kind), *group), "/ann/") as ann:
        await ann.send("hi")
        assert await ann.receive() == ("hi for ann" if group_kind == "none" else "HI for ann")


async def test_what_a_group_filter_changes_later_is_not_what_is_sent(opened):
    kept = {"n": 0}

    def keep(hub, data):
        kept["n"] += 1
        return kept

    app = route(Gate, message_filter(keep, WebSocketGroupFilter))
    async with connect(app, "/slow/") as slow, connect(app, "/quick/") as quick:
        for number in ("1", "2"):
            await quick.send("x")
            assert await quick.receive() == f'{{"n":{number}}}'
        opened.set()
        assert [await slow.receive(), await slow.receive()] == ['{"n":1}', '{"n":2}']


tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_send_filter_runs_in_the_context_of_its_recipient(kind):
    """A database router, say, finds the tenant of the one who receives, not of the sender."""

    def name_tenant(web_socket_instance, data):
        return data + f" {tenant.get()} {current.group}".encode()

    app = route(send_filter(name_tenant, kind))

    async def of_tenant(scope, receive, send):
        tenant.set(parse_qs(scope["query_string"].decode())["tenant"][0])
        await app(scope, receive, send)

    one = connect(of_tenant, "/?tenant=one")
    other = connect(of_tenant, "/?tenant=other")
    async with one as ann, other as bob:
        await ann.send("hi")
        assert await ann.receive() == "hi one g"
        assert await bob.receive() == "hi other g"


async def test_a_blocking_filter_runs_in_a_thread(transactional_db):
    threads = []

    def look(web_socket_instance, data):
        threads.append(threading.current_thread())
        with database.cursor() as cursor:
            cursor.execute("SELECT 1")

    async with connect(route(send_filter(look, "blocking"))) as ann:
        await ann.send("x")
        assert await ann.receive() == "x"
    assert threads and threading.main_thread() not in threads


async def test_many_messages_leave_in_one_write_per_recipient(monkeypatch):
    """Transports without that, as plain ASGI, send them one by one."""
    log = []
    for name in ("hold", "write", "release"):
        before = getattr(AsgiTransport, name)

        def note(self, *args, name=name, before=before):
            log.append((self, name))
            before(self, *args)

        monkeypatch.setattr(AsgiTransport, name, note)

    def fail(web_socket_instance, data):
        if data == b"1":
            raise ValueError("on purpose")

    app = route(send_filter(fail))
    async with connect(app) as ann, connect(app) as bob:
        [view] = get_hub().views.values()
        log.clear()
        view.deliver("g", [Item(n, "t", "", str(n).encode(), {}) for n in range(3)])
        steps = {transport: [step for one, step in log if one is transport] for transport, _ in log}
        assert list(steps.values()) == [["hold", "write", "write", "release"]] * 2
        log.clear()
        view.deliver("g", [Item(4, "t", "", b"4", {})])
        assert [step for _, step in log] == ["write"] * 2
        for client in (ann, bob):
            assert [await client.receive() for _ in range(3)] == ["0", "2", "4"]


# A filter that awaits


class Gate(WebSocketSendFilter):
    """Holds up what is for ``slow``."""

    opened: asyncio.Event

    @classmethod
    async def filter(cls, web_socket_instance, data):
        if name_of(web_socket_instance) == "slow":
            await cls.opened.wait()


@pytest.fixture
def opened(monkeypatch):
    gate = asyncio.Event()
    monkeypatch.setattr(Gate, "opened", gate, raising=False)
    return gate


async def test_a_recipient_whose_filter_is_slow_delays_no_other_and_loses_no_order(opened):
    app = route(Gate)
    async with connect(app, "/slow/") as slow, connect(app, "/quick/") as quick:
        for message in ("1", "2", "3"):
            await quick.send(message)
            assert await quick.receive() == message
        assert slow._output.empty()
        opened.set()
        assert [await slow.receive() for _ in range(3)] == ["1", "2", "3"]
        assert await slow.received_nothing()
        assert not get_hub().backlog.bytes


@pytest.mark.parametrize("by_client", [True, False])
async def test_what_waits_for_a_recipient_that_ends_is_forgotten(opened, by_client):
    app = route(Gate)
    async with connect(app, "/quick/") as quick:
        slow = await connect(app, "/slow/")
        for message in ("1", "2"):
            await quick.send(message)
            assert await quick.receive() == message
        [view] = get_hub().views.values()
        assert view.busy and get_hub().backlog.bytes
        if not by_client:
            [one] = [user for user in view.users.values() if name_of(user) == "slow"]
            one.close(4000)
            opened.set()
            assert await slow.closed() == 4000
        await slow.close()
        await until(lambda: not view.busy)
        assert not get_hub().backlog.bytes and not get_hub().backlog.count


@pytest.mark.parametrize("policy", ["close", "drop_newest"])
async def test_what_waits_for_a_slow_filter_is_limited(settings, opened, policy):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 3_000, "SLOW_READER": policy}
    app = route(Gate)
    async with connect(app, "/slow/") as slow, connect(app, "/quick/") as quick:
        for letter in "abcd":
            await quick.send(letter * 1_000)
            assert await quick.receive() == letter * 1_000
        if policy == "close":
            assert await slow.closed() == 4101
            opened.set()
        else:
            opened.set()
            assert [(await slow.receive())[0] for _ in range(2)] == ["a", "b"]
            assert await slow.received_nothing()
            assert get_hub().counts["dropped"] == 2


# fan_out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", [None, "JSON"])
async def test_what_is_fanned_out_goes_through_the_send_chain_too(kind, codec):
    seen = []

    def mark(web_socket_instance, data):
        seen.append((current.group, current.sender))
        if codec is None:
            return sign(web_socket_instance, data)
        data["for"] = name_of(web_socket_instance)

    def fan_out(web_socket_instance, data):
        message = {"n": 1}
        view = web_socket_instance._view
        view.fan_out("g", message, exclude=[web_socket_instance])
        message["n"] = 2

    codec = codec and "filtered_websocket.json_codec.JSONCodec"
    app = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(fan_out), send_filter(mark, kind)], groups=["g"], codec=codec
    )
    async with connect(app, "/ann/") as ann, connect(app, "/bob/") as bob:
        await ann.send("{}")
        expected = '{"n":1,"for":"bob"}' if codec else '{"n":1} for bob'
        assert await bob.receive() == expected
        assert await ann.received_nothing()
    assert seen == [("g", None)]


# Publications of a history


def test_who_becomes_a_member_between_two_publications_gets_the_second_one():
    """With no chain they are written together, but not while somebody joins."""
    heard = {"ann": [], "bob": []}
    members = {}

    def become_member(name):
        members[name] = Mock()
        members[name].write = lambda frame: heard[name].extend(part.payload for part in frame.parts)

    become_member("ann")
    groups = SimpleNamespace(members=lambda view, name: members)
    pipeline = SimpleNamespace(
        group=Chain("group", ()), send=Chain("send", ()), codec=None, protocol=None
    )
    delivery = Delivery(SimpleNamespace(groups=groups), None, pipeline)
    line = Line(SimpleNamespace(position=Position("e", 0)))

    def note(passed):
        if passed.offset == 1:
            del line.joiners["bob"]
            become_member("bob")

    line.joiners["bob"] = SimpleNamespace(note=note)
    items = [new_item(text, exclude=["ann"] if text == "c" else ()) for text in "abc"]
    delivery.deliver_run("g", Run("e", 1, items), line)
    assert heard == {"ann": [b"a", b"b"], "bob": [b"b", b"c"]}
    assert line.sent == Position("e", 3)


def test_a_position_for_which_there_is_no_room_is_read_again_later():
    pipeline = Pipeline([message_filter(hold, WebSocketGroupFilter)])
    delivery = Delivery(Mock(), Mock(), pipeline)
    delivery._backlog = Mock(return_value=Mock(put=Mock(side_effect=queue.Full)))
    line = Mock(is_behind=False)
    delivery.deliver_run("g", Run("e", 5, []), line)
    [behind] = line.fall_behind.call_args_list
    assert behind.args[0] == Position("e", 4)


async def test_what_is_read_again_waits_with_what_comes_then():
    """The queue for which there was no room may have emptied, and have been removed."""
    pipeline = Pipeline([message_filter(hold, WebSocketGroupFilter)])
    delivery = Delivery(Mock(), Mock(), pipeline)
    delivery._backlog = Mock(return_value=Mock(put=Mock(side_effect=queue.Full)))
    line = Mock(is_behind=False)
    delivery.deliver_run("g", Run("e", 5, [new_item("a")]), line)
    _, put, room = line.fall_behind.call_args.args
    assert not put(Position("e", 5), new_item("a"))
    other = Mock(settled=AsyncMock())
    delivery._backlog.return_value = other
    await room()
    other.settled.assert_awaited_once_with()
    assert put(Position("e", 5), new_item("a"))
    [waiting] = other.put.call_args.args
    assert waiting.position == Position("e", 5) and waiting.line is line


async def hold(web_socket_instance, message):
    return message
