"""The helpers for users' tests."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import TestCase

from filtered_websocket import (
    WebSocketCallFilter,
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketJoinFilter,
)
from filtered_websocket import testing as testing_module
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import subscribe
from filtered_websocket.exceptions import NoSuchMethod
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.groups import History, group, personal
from filtered_websocket.history import ahistory, forget_history, history
from filtered_websocket.presence import (
    Info,
    Stats,
    apresence,
    apresence_stats,
    presence,
    presence_stats,
)
from filtered_websocket.publish import apublish
from filtered_websocket.testing import Closed, allows, connect, only_filters, published

from .connections.test_connection import message_filter
from .lone_filter import Pop


async def test_only_filters_is_the_whole_pipeline():
    with only_filters(Pop, BroadcastMessagesFilter):
        async with connect() as ann, connect() as bob:
            await ann.send("Test")
            assert await bob.receive() == "Tes"


@only_filters("tests.lone_filter", "filtered_websocket.filters.broadcast_messages")
class WithDjangosTestCase(TestCase):
    async def test_filters_run_in_a_test_case(self):
        async with connect() as ann, connect() as bob:
            await ann.send("Test")
            self.assertEqual(await bob.receive(), "Tes")


async def test_published_sees_groups_and_messages():
    with published() as messages:
        async with connect([BroadcastMessagesFilter]) as ann:
            await ann.send("hi")
            await ann.settle()
    [message] = messages
    assert message.message == "hi" and len(message.exclude) == 1


async def test_a_message_that_never_comes_is_a_timeout(monkeypatch):
    async with connect([]) as ann:
        monkeypatch.setattr(testing_module, "TIMEOUT", 0.01)
        with pytest.raises(TimeoutError, match=r"nothing came within 0\.01 s"):
            await ann.receive()
        monkeypatch.undo()


async def test_an_application_that_fails_tells_its_own_error():
    async def broken(scope, receive, send):
        await receive()
        raise KeyError("site")

    with pytest.raises(KeyError, match="site"):
        await connect(broken)


async def test_a_plain_asgi_application_can_be_tested():
    async def plain(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        await send({"type": "websocket.send", "text": None, "bytes": b"x"})
        await send({"type": "websocket.close"})

    client = await connect(plain, subprotocols=["chat"])
    assert client.subprotocol == "chat"
    assert await client.receive() == b"x"
    with pytest.raises(Closed):
        await client.receive()
    assert client.close_code == 1000
    assert await client.received_nothing()
    await client.close()


async def test_messages_before_a_close_are_passed_over_by_closed():
    def end(web_socket_instance, data):
        web_socket_instance.push("x")
        web_socket_instance.close(4000)

    async with connect([message_filter(end)]) as ann:
        await ann.send("x")
        assert await ann.closed() == 4000


async def test_settle_waits_for_a_slow_filter():
    async def slow(web_socket_instance, data):
        for _ in range(20):
            await asyncio.sleep(0)
        web_socket_instance.push("at last")

    async with connect([message_filter(slow)]) as ann:
        await ann.send("x")
        assert not await ann.received_nothing()


async def test_leaving_the_block_runs_the_disconnect_chain():
    codes = []

    def note(web_socket_instance):
        codes.append(web_socket_instance.close_code)

    async with connect([message_filter(note, WebSocketDisconnectFilter)]):
        pass
    assert codes == [1000]


# Group rules


def is_ann(connection, room):
    return connection.user.username == "ann" and room == 7


async def is_seven(connection, room):
    return room == 7


RULES = [
    group("room:<int:room>", join=is_ann, publish=is_seven),
    group("board", join="auth.view_user"),
    personal(see=True),
]


async def test_rules_are_asked_without_a_connection():
    ann = User(username="ann", pk=1, is_superuser=True)
    assert await allows(RULES, "join", "room:7", ann)
    assert await allows(RULES, "publish", "room:7")
    assert await allows(RULES, "join", "board", ann)
    assert await allows(RULES, "see", "user:1")
    assert await allows("tests.test_testing.RULES", "join", "room:7", ann)
    for action, name in [
        ("join", "room:7"),
        ("publish", "room:8"),
        ("join", "board"),
        ("join", "user:1"),
        ("see", "token:1"),
        ("see", "elsewhere"),
    ]:
        assert not await allows(RULES, action, name)
    for length, answer in ((255, True), (256, False)):
        assert await allows([group("<str:name>")], "join", "x" * length) is answer


class RoomsInATestCase(TestCase):
    """Rules that use the ORM run in the test's transaction, and each test has its own world."""

    async def join(self, username):
        user = await User.objects.acreate(username=username)

        def is_saved(connection):
            return User.objects.filter(pk=connection.user.pk).count() == User.objects.count() == 1

        is_saved.blocking = True
        rules = [group("room", join=is_saved), personal()]
        async with connect([message_filter(join)], group_rules=rules, user=user) as client:
            await client.send("room")
            assert await client.receive() == "joined"
            subscribe(user, "other")
            await apublish("hi", "other")
            assert await client.receive() == "hi"
            assert await client.received_nothing()

    async def test_one(self):
        await self.join("ann")

    async def test_two(self):
        await self.join("bob")


KEPT = [
    group("room", publish=True, history=History(size=2, ttl=60)),
    group("board", publish=True, history=History(size=1, ttl=60), latest=True),
]


class HistoriesInATestCase(TestCase):
    """Publishing, coming back and reading, in two tests that find nothing of one another."""

    async def publish_and_come_back(self):
        async with connect([], group_rules=KEPT) as ann, connect([], group_rules=KEPT) as bob:
            await ann.connection.join("room")
            start = (await ahistory("room")).position
            assert start.offset == 0
            for number, text in enumerate("abc", 1):
                position = await ann.connection.apublish(text, "room", to_self=True)
                assert position == (start.epoch, number, False)
            again = [
                await ann.connection.apublish("d", "room", idempotency_key="order 1")
                for _ in range(2)
            ]
            assert [position.repeated for position in again] == [False, True]
            assert [await ann.receive() for _ in range(3)] == ["a", "b", "c"]
            assert not (await bob.connection.recover("room", (start.epoch, 1))).recovered
            answer = await bob.connection.recover("room", (start.epoch, 2))
            assert answer.recovered and answer.position.offset == 4
            assert [await bob.receive() for _ in range(2)] == ["c", "d"]
            assert await bob.received_nothing()
            page = await sync_to_async(history)("room", limit=1, reverse=True)
            assert [one.data for one in page.publications] == [b"d"]
            await sync_to_async(forget_history)("room")
            assert not (await bob.connection.recover("room", answer.position[:2])).recovered

    async def take_the_latest(self):
        async with connect([], group_rules=KEPT) as ann:
            await ann.connection.apublish("x", "board")
            await ann.connection.apublish("y", "board", exclude=())
        # Nobody is connected meanwhile: what was published stays all the same.
        async with connect([], group_rules=KEPT) as bob:
            await bob.connection.join("board")
            assert await bob.receive() == "y"

    async def test_one(self):
        await self.publish_and_come_back()
        await self.take_the_latest()

    async def test_two(self):
        await self.publish_and_come_back()
        await self.take_the_latest()


class PresenceInATestCase(TestCase):
    """Who is there, in two tests that see nobody of one another."""

    async def come_and_go(self):
        events = []

        def show(web_socket_instance, subscription):
            subscription.info = {"mood": "good"}

        def tell(web_socket_instance, event):
            if event["type"] == "presence":
                events.extend(event["data"]["changes"])

        filters = [
            message_filter(show, WebSocketJoinFilter),
            message_filter(tell, WebSocketConsumerFilter),
        ]
        rules = [group("room", presence=True, join_leave=True)]
        ann = await User.objects.acreate(username="ann")
        key, good = str(ann.pk), {"mood": "good"}
        assert await apresence("room") == {} and await apresence_stats("room") == Stats(0, 0)
        async with (
            connect(filters, group_rules=rules, user=ann) as laptop,
            connect(filters, group_rules=rules, user=ann) as phone,
            connect(filters, group_rules=rules) as guest,
        ):
            ids = [client.connection.id for client in (laptop, phone, guest)]
            for client in (laptop, phone, guest):
                await client.connection.join("room")
            users = [key, key, None]
            there = {id: Info(user, good) for id, user in zip(ids, users, strict=True)}
            assert await apresence("room") == there
            assert await sync_to_async(presence)("room") == there
            assert await sync_to_async(presence_stats)("room") == Stats(3, 2)
            await phone.connection.leave("room")
            await guest.close()
        assert await apresence("room") == {}
        users = dict(zip(ids, users, strict=True))
        expected = [
            ("join", ids[0], True),
            ("join", ids[1], False),
            ("join", ids[2], True),
            ("leave", ids[1], False),
            ("leave", ids[2], True),
        ]
        # The last one, laptop, has nobody left to be told.
        assert [
            (one["is"], one["connection"], one["first" if one["is"] == "join" else "last"])
            for one in events
        ] == expected
        assert all(users[one["connection"]] == one["user"] for one in events)

    async def test_one(self):
        await self.come_and_go()

    async def test_two(self):
        await self.come_and_go()


class CallsInATestCase(TestCase):
    """Call filters use the ORM in the test's transaction, in two tests with data of their own."""

    async def ask(self, username):
        ann = await User.objects.acreate(username=username)
        begun, go_on = asyncio.Event(), asyncio.Event()

        def name(web_socket_instance, call):
            if call.method == "name":
                assert User.objects.count() == 1
                return User.objects.get(pk=web_socket_instance.user.pk).username
            return None

        async def wait(web_socket_instance, call):
            if call.method == "wait":
                begun.set()
                await go_on.wait()
                return "waited"
            return None

        def fail(web_socket_instance, call):
            if call.method == "fail":
                raise ValueError(call.data)

        filters = [
            message_filter(name, WebSocketCallFilter, blocking=True),
            message_filter(wait, WebSocketCallFilter),
            message_filter(fail, WebSocketCallFilter),
        ]
        async with connect(filters, user=ann) as client:
            waiting = asyncio.create_task(client.call("wait"))
            await begun.wait()
            # One that waits holds up no other of the same connection.
            assert await client.call("name") == username
            with pytest.raises(ValueError, match="why"):
                await client.call("fail", "why")
            with pytest.raises(NoSuchMethod, match="other"):
                await client.call("other")
            assert not waiting.done()
            go_on.set()
            assert await waiting == "waited"

    async def test_one(self):
        await self.ask("ann")

    async def test_two(self):
        await self.ask("bob")


@pytest.mark.parametrize("text", ["one", "two"])
async def test_who_only_reads_finds_nothing_of_another_test(text):
    assert (await ahistory("board")).publications == []
    async with connect([], group_rules=KEPT) as ann:
        await ann.connection.apublish(text, "board")


async def join(web_socket_instance, data):
    await web_socket_instance.join(data.decode())
    web_socket_instance.push("joined")


@pytest.mark.parametrize("filters", ["tests.lone_filter", Pop])
def test_one_filter_is_given_in_a_list(filters):
    with pytest.raises(TypeError, match=r"takes a list of filters, \[\.\.\.\], not .*lone_filter"):
        connect(filters)


def test_rules_are_not_given_beside_an_application():
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    for options in ({"group_rules": RULES}, {"personal": True}):
        with pytest.raises(TypeError, match="those of the application"):
            connect(app, **options)
