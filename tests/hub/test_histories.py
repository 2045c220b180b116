"""Groups with history: publishing, following, and joining with a position."""

import asyncio
from unittest.mock import ANY, Mock

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation

from filtered_websocket import (
    Drop,
    NotAllowed,
    PublishError,
    WebSocketGroupFilter,
    WebSocketSendFilter,
)
from filtered_websocket.chains import delivery
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, personal
from filtered_websocket.history import aforget_history, ahistory, forget_history, history
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import apublish, apublish_to_user, publish
from filtered_websocket.testing import connect

from ..history import driver
from ..history.driver import Number, SlowNumber, ask, route
from ..waiting import until


class AddReader(WebSocketSendFilter):
    _registers = False

    @classmethod
    def filter(cls, web_socket_instance, message):
        if b"for no reader" in message:
            raise Drop
        return message + b" for " + web_socket_instance.scope["query_string"]


class AddReaderSlowly(AddReader):
    _registers = False

    @classmethod
    async def filter(cls, web_socket_instance, message):
        await asyncio.sleep(0)
        return AddReader.filter(web_socket_instance, message)


class HoldSends(WebSocketSendFilter):
    _registers = False
    gate = None

    @classmethod
    async def filter(cls, web_socket_instance, message):
        await cls.gate.wait()


class Act(WebSocketSendFilter):
    """Does something when "b" is sent to whoever recovers it, and lets it pass."""

    _registers = False
    act = None

    @classmethod
    def filter(cls, web_socket_instance, message):
        act, cls.act = cls.act, None if message == b"b" else cls.act
        if message == b"b" and act is not None:
            act(web_socket_instance)


class HoldOnce(WebSocketGroupFilter):
    """Holds "m5" when it comes for the first time, and all after it."""

    _registers = False
    gate = None
    held = None

    @classmethod
    async def filter(cls, web_socket_instance, message):
        if message == b"m5" and not cls.held:
            cls.held.append(message)
            await cls.gate.wait()


RULES_AT = driver.__name__


@pytest.fixture(params=["memory", "redis", "encrypted"])
def world(request, settings, time_enough):
    """Where histories are kept."""
    if request.param != "memory":
        valkey = request.getfixturevalue("valkey")
        options = {"symmetric_encryption_keys": ["key"]} if request.param == "encrypted" else {}
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [valkey.url], **options},
            }
        }
    return request.param


@pytest.mark.repeats
@pytest.mark.parametrize("filters", [[], [Number], [SlowNumber]], ids=["none", "def", "async"])
async def test_who_comes_back_gets_what_was_missed_in_order_once(world, filters):
    app = route(*filters)

    def said(*texts, first):
        if not filters:
            return list(texts)
        return [f"{number} {text}" for number, text in enumerate(texts, first)]

    async with connect(app) as ann, connect(app) as bob:
        (joined, (epoch, offset, _)), _ = await ask(ann, "join", "room:1")
        assert joined and offset == 0 and epoch
        heard = []
        for number in range(1, 4):
            position, before = await ask(ann, "publish", "room:1", f"m{number}")
            assert position == [epoch, number, False]
            heard += before
        while len(heard) < 3:
            heard.append(await ann.receive())
        assert heard == said("m1", "m2", "m3", first=1)
        (recovered, position), before = await ask(bob, "recover", "room:1", epoch, 1)
        assert recovered and position == [epoch, 3, False]
        assert before == said("m2", "m3", first=2)
        assert bob.connection.subscriptions["room:1"].recovery.contents == []
        await ask(ann, "publish", "room:1", "m4")
        assert [await bob.receive()] == said("m4", first=4)


async def test_what_is_as_long_as_allowed_comes_back_whole_and_a_byte_more_is_refused(world):
    app = route()
    async with connect(app) as ann, connect(app) as bob:
        position = await ann.connection.apublish("x" * 262_144, "room:1")
        with pytest.raises(PublishError, match="MAX_MESSAGE_SIZE is 262144"):
            await ann.connection.apublish("x" * 262_145, "room:1")
        answer = await bob.connection.recover("room:1", (position.epoch, 0))
        assert answer.recovered and answer.position == position
        assert await bob.receive() == "x" * 262_144


async def test_python_reads_and_forgets_what_is_kept(world):
    page = await ahistory("room:1")
    assert page.publications == [] and page.position.offset == 0
    async with connect(route()) as ann:
        await ask(ann, "join", "room:1")
        for text in "abc":
            await ask(ann, "publish", "room:1", text)
        page = await ahistory("room:1", limit=2, reverse=True)
        assert [(one.offset, one.data) for one in page.publications] == [(3, b"c"), (2, b"b")]
        assert page.publications[0].sender and page.publications[0].event == ""
        before = page.position
        page = await asyncio.to_thread(history, "room:1", since=(before.epoch, 1))
        assert [one.data for one in page.publications] == [b"b", b"c"] and page.recovered
        await asyncio.to_thread(forget_history, "room:1")
        page = await ahistory("room:1", since=before)
        assert not page.recovered and page.position.epoch != before.epoch
        await aforget_history("room:1")
    for call in (history, forget_history):
        with pytest.raises(SynchronousOnlyOperation, match=f"await a{call.__name__}"):
            call("room:1")
    with pytest.raises(ValueError, match="a whole number from 0 on, not -1"):
        await ahistory("room:1", limit=-1)
    with pytest.raises(TypeError, match="a position is"):
        await ahistory("room:1", since=("e", "1"))


async def test_what_is_published_from_python_has_its_place(world, settings):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "GROUPS": f"{RULES_AT}.RULES"}
    async with connect(route()) as ann:
        await ask(ann, "join", "room:1")
        first = await apublish("a", "room:1")
        publish("b", "room:1")
        last = await apublish("c", "room:1", idempotency_key="order 1")
        assert (first.offset, last.offset) == (1, 3)
        again = await apublish("c", "room:1", idempotency_key="order 1")
        assert again == (*last[:2], True)
        assert [await ann.receive() for _ in range(3)] == ["a", "b", "c"]
        assert await ann.received_nothing()
        assert await apublish("x", "plain:1") is None
        for group in ("plain:1", "undeclared"):
            with pytest.raises(PublishError, match="needs a history"):
                await apublish("x", group, idempotency_key="order 1")
        with pytest.raises(PublishError, match="a text of 1 to 1024 characters"):
            publish("x", "room:1", idempotency_key="x" * 1025)


async def test_a_joiner_gets_the_latest_where_the_rule_says_so(world):
    async with connect(route(Number)) as ann, connect(route(Number)) as bob:
        assert await ask(ann, "join", "last:1") == ([True, [ANY, 0, False]], [])
        for text in "ab":
            await ask(ann, "publish", "last:1", text)
        assert await ask(bob, "join", "last:1") == ([True, [ANY, 2, False]], ["2 b"])


async def test_what_a_filter_hides_stays_hidden_and_moves_the_position(world):
    async with connect(route(Number)) as ann, connect(route(Number)) as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        for text in ("a", "hidden", "c", "hidden"):
            await ask(ann, "publish", "room:1", text)
        answer = await ask(bob, "recover", "room:1", epoch, 0)
        assert answer == ([True, [epoch, 4, False]], ["1 a", "3 c"])


@pytest.mark.parametrize("awaits", [False, True], ids=["def", "async"])
async def test_what_comes_out_of_a_history_goes_through_the_send_chain(world, monkeypatch, awaits):
    # After so many the others have their turn.
    monkeypatch.setattr(delivery, "TURN", 2)
    app = route(Number, AddReaderSlowly if awaits else AddReader)
    async with connect(app, "/?ann") as ann, connect(app, "/?bob") as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        for text in ("a", "b", "c", "for no reader"):
            await ask(ann, "publish", "room:1", text)
        answer = await ask(bob, "recover", "room:1", epoch, 0)
        if awaits:
            answer[1].extend([await bob.receive() for _ in range(3 - len(answer[1]))])
        assert answer[0][0] and answer[1] == [f"{n} {t} for bob" for n, t in enumerate("abc", 1)]


async def test_a_store_that_is_away_is_an_outage_of_the_layer(world, monkeypatch):
    async with connect(route()) as ann, connect(route()) as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        hub = get_hub()

        async def away(*args, **kwargs):
            raise ConnectionError("away")

        lost = Mock()
        monkeypatch.setattr(hub.link, "note_lost", lost)
        monkeypatch.setattr(hub.feeds.store, "read", away)
        assert await ask(bob, "recover", "room:1", epoch, 0) == ([False, None], [])
        assert lost.called


async def test_an_outage_that_others_have_seen_is_one_of_the_layer(world):
    async with connect(route()) as ann:
        await ask(ann, "join", "room:1")
        link = get_hub().link
        link.note_lost(ConnectionError("away"))
        assert link.is_available == (world == "memory")
        await until(lambda: link.is_available)


async def test_who_comes_too_late_or_from_elsewhere_is_told_and_gets_no_part(world):
    async with connect(route()) as ann, connect(route()) as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        for number in range(8):
            await ask(ann, "publish", "room:1", str(number))
        for since in [(epoch, 1), (epoch, 9), (epoch, -1), ("other", 8), ("x" * 100_000, 8)]:
            answer = await ask(bob, "recover", "room:1", *since)
            assert answer == ([False, [epoch, 8, False]], []), since
        assert (await ask(bob, "recover", "room:1", "", 7))[1] == ["7"]
        assert await ask(bob, "recover", "plain:1", epoch, 1) == ([False, None], [])
        for offset in ("1", 1.5, True, None):
            with pytest.raises(TypeError, match="a position is"):
                next(iter(get_hub().connections.values())).recover("room:1", (epoch, offset))
        await ask(ann, "publish", "room:1", "8")
        assert await bob.receive() == "8"


async def test_a_group_that_has_no_rule_here_is_followed_all_the_same(world, settings):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "GROUPS": f"{RULES_AT}.RULES"}
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["room:1"], group_rules=[])
    async with connect(app) as ann:
        for text in "abc":
            await apublish(text, "room:1")
        assert [await ann.receive() for _ in range(3)] == ["a", "b", "c"]


async def test_who_asks_for_no_position_gets_what_comes_while_others_ask(
    world, settings, monkeypatch
):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "GROUPS": f"{RULES_AT}.RULES"}
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["room:1"], group_rules=[])
    async with connect(route()) as ann:
        store, may_answer = get_hub().feeds.store, asyncio.Event()
        tops = store.tops

        async def late(keys):
            await may_answer.wait()
            return await tops(keys)

        monkeypatch.setattr(store, "tops", late)
        joining = asyncio.ensure_future(ask(ann, "join", "room:1"))
        await until(lambda: "room:1" in get_hub().groups.names)
        async with connect(app) as bob:
            await apublish("a", "room:1")
            group = get_hub().groups._by_name["room:1"]
            await until(lambda: group.feed.follower.has_skipped)
            may_answer.set()
            assert await bob.receive() == "a"
            await joining


OWN = [personal(history=History(size=5, ttl=60))]


async def test_who_comes_back_gets_what_was_missed_of_the_own_group(world, settings):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "GROUPS": f"{__name__}.OWN"}
    ann, app = User(pk=5), route(rules=OWN, personal=True)
    async with connect(app, user=User(pk=6)) as bob, connect(route(rules=OWN), user=ann) as other:
        async with connect(app, user=ann) as client:
            at = await apublish_to_user(5, "a")
            assert await client.receive() == "a"
        await apublish_to_user(5, "b")
        async with connect(app, user=ann) as client:
            answer = await client.connection.recover("user:5", at[:2])
            assert answer.recovered and answer.position.offset == 2
            await apublish_to_user(5, "c")
            assert [await client.receive(), await client.receive()] == ["b", "c"]
            with pytest.raises(NotAllowed, match="begin with 'user:'"):
                client.connection.join("user:5")
        for client, name in ((bob, "user:5"), (other, "user:5"), (bob, "token:x")):
            with pytest.raises(NotAllowed, match="names that begin with"):
                client.connection.recover(name, at[:2])


@pytest.mark.parametrize("name", ["room:1", "later:1"])
async def test_who_asks_twice_at_once_gets_what_was_missed_once(world, name):
    async with connect(route()) as ann, connect(route()) as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", name)
        for text in "abc":
            await ask(ann, "publish", name, text)
        connection = bob.connection
        first = connection.recover(name, (epoch, 0))
        # It is told nothing: what it asked for comes with the next answer, and to no member yet.
        again, joined = connection.recover(name, (epoch, 1)), connection.join(name)
        assert (await again).recovered and await joined
        await first
        await ask(ann, "publish", name, "d")
        assert [await bob.receive() for _ in range(3)] == ["b", "c", "d"]
        assert await bob.received_nothing()


def members_here(client):
    """The ids of those that are sent what is published to "room:1"."""
    return list(get_hub().groups.members(client.connection._view, "room:1"))


async def test_a_send_filter_that_leaves_while_it_is_sent_the_past_has_left(world, monkeypatch):
    async with connect(route(Act)) as ann, connect(route(Act)) as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        for text in "abc":
            await ask(ann, "publish", "room:1", text)
        monkeypatch.setattr(Act, "act", lambda connection: connection.leave("room:1"))
        answer = await ask(bob, "recover", "room:1", epoch, 0)
        assert answer == ([False, None], ["a"])
        assert members_here(bob) == [ann.connection.id]
        await ask(ann, "publish", "room:1", "d")
        assert await bob.received_nothing()


async def test_a_send_filter_that_asks_again_gets_what_follows_once(world, monkeypatch):
    async with connect(route(Act)) as ann, connect(route(Act)) as bob:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        for text in "abc":
            await ask(ann, "publish", "room:1", text)
        again = []

        def act(connection):
            again.append(connection.recover("room:1", (epoch, 3)))
            assert connection.id not in members_here(bob)
            get_hub().call(publish_later)

        def publish_later():
            again.append(ann.connection.apublish("d", "room:1"))

        monkeypatch.setattr(Act, "act", act)
        _, before = await ask(bob, "recover", "room:1", epoch, 0)
        assert (await again[0]).recovered
        # Its first answer has made it no member: "d" came with the second one, or after it.
        while "d" not in before:
            before.append(await bob.receive())
        assert before == ["a", "b", "c", "d"] and await bob.received_nothing()


def waiting_for(client, chain):
    """How many publications wait for a chain, for one member or for all of its group."""
    delivery = client.connection._view._delivery
    if chain == "group":
        return len(delivery._backlogs["room:1"])
    waiting = delivery._sends._waiting.get(client.connection)
    return 0 if waiting is None else len(waiting.items)


async def publish_some(client, numbers):
    for number in numbers:
        await client.connection.apublish(f"m{number}", "room:1", to_self=True)


@pytest.mark.parametrize("leaves", [True, False])
async def test_what_waits_for_a_send_chain_belongs_to_one_membership(world, monkeypatch, leaves):
    gate = asyncio.Event()
    monkeypatch.setattr(HoldSends, "gate", gate)
    async with connect(route(HoldSends)) as ann:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        await ask(ann, "join", "room:2")
        gate.set()
        await publish_some(ann, range(1, 5))
        assert [await ann.receive() for _ in range(4)] == ["m1", "m2", "m3", "m4"]
        gate.clear()
        await publish_some(ann, [5])
        await until(lambda: waiting_for(ann, "send") == 1)
        await ann.connection.apublish("other", "room:2", to_self=True)
        await publish_some(ann, [6, 7])
        await until(lambda: waiting_for(ann, "send") == 4)
        if leaves:
            ann.connection.leave("room:1")
        answer = await ann.connection.recover("room:1", (epoch, 4))
        assert answer.recovered
        gate.set()
        assert [await ann.receive() for _ in range(4)] == ["other", "m5", "m6", "m7"]
        assert await ann.received_nothing()


async def test_who_comes_back_while_a_group_chain_is_behind_gets_what_it_missed_once(
    world, monkeypatch
):
    gate = asyncio.Event()
    monkeypatch.setattr(HoldOnce, "held", [])
    monkeypatch.setattr(HoldOnce, "gate", gate)
    async with connect(route(HoldOnce)) as ann:
        (_, (epoch, _, _)), _ = await ask(ann, "join", "room:1")
        await publish_some(ann, range(1, 8))
        assert [await ann.receive() for _ in range(4)] == ["m1", "m2", "m3", "m4"]
        await until(lambda: HoldOnce.held and waiting_for(ann, "group") == 2)
        ann.connection.leave("room:1")
        recovering = asyncio.ensure_future(ann.connection.recover("room:1", (epoch, 4)))
        await until(lambda: waiting_for(ann, "group") == 3)
        gate.set()
        assert (await recovering).recovered
        assert [await ann.receive() for _ in range(3)] == ["m5", "m6", "m7"]
        await publish_some(ann, [8])
        assert await ann.receive() == "m8" and await ann.received_nothing()


async def test_what_waits_for_a_group_chain_is_not_for_who_joins_anew(world, monkeypatch):
    """It is of the past, and what follows would not follow on it."""
    gate = asyncio.Event()
    monkeypatch.setattr(HoldOnce, "held", [])
    monkeypatch.setattr(HoldOnce, "gate", gate)
    async with connect(route(HoldOnce)) as ann:
        await ask(ann, "join", "room:1")
        await publish_some(ann, range(1, 8))
        assert [await ann.receive() for _ in range(4)] == ["m1", "m2", "m3", "m4"]
        await until(lambda: HoldOnce.held and waiting_for(ann, "group") == 2)
        ann.connection.leave("room:1")
        (joined, (_, offset, _)), before = await ask(ann, "join", "room:1")
        assert joined and offset == 7 and not before
        gate.set()
        await publish_some(ann, [8])
        assert await ann.receive() == "m8" and await ann.received_nothing()


async def test_groups_with_history_have_positions_of_their_own(world):
    async with connect(route()) as ann:
        for room, text in (("room:1", "a"), ("room:2", "b"), ("room:1", "c")):
            await ask(ann, "publish", room, text)
        offsets = [(await ask(ann, "join", room))[0][1][1] for room in ("room:1", "room:2")]
        assert offsets == [2, 1]
