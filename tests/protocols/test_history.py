"""History, recovery and positions, as clients of the Centrifuge protocol get them."""

import asyncio
import contextlib
from unittest.mock import ANY

import pytest

from filtered_websocket import (
    Drop,
    WebSocketConnectFilter,
    WebSocketGroupFilter,
    WebSocketJoinFilter,
    WebSocketSendFilter,
)
from filtered_websocket.codecs.centrifuge import JSON
from filtered_websocket.groups import History, group, personal
from filtered_websocket.history import aforget_history, memory
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.protocols import codes
from filtered_websocket.protocols.connection import ClientConnection
from filtered_websocket.publish import apublish

from .clients import app, speak
from .test_session import jwt_key
from .test_tokens import token

RULES = [
    group("kept", publish=True, binary=True, history=History(size=3, ttl=60)),
    group("board", publish=True, history=History(size=3, ttl=60), latest=True),
    group("plain", publish=True),
    personal(publish=True, history=History(size=3, ttl=60)),
]

grouppatterns = RULES


@pytest.fixture(autouse=True)
def nothing_kept():
    memory.forget_all()


def at(result):
    return {"epoch": result["epoch"], "offset": result["offset"]}


async def subscribed(client, channel="kept", **fields):
    return (await client.ask(subscribe={"channel": channel, **fields}))["subscribe"]


async def history(client, **fields):
    return (await client.ask(history={"channel": "kept", **fields}))["history"]


def data(result):
    return [one["data"] for one in result.get("publications", ())]


async def publish(client, *messages, channel="kept"):
    for message in messages:
        assert await client.ask(publish={"channel": channel, "data": message}) == {"publish": {}}


async def test_pushes_have_offsets_that_go_on_from_the_subscription():
    async with speak(rules=RULES) as ann, speak(rules=RULES) as bob:
        await publish(bob, 1)
        result = await subscribed(ann)
        assert result["recoverable"] and result["positioned"] and result["offset"] == 1
        await publish(bob, 2)
        pub = (await ann.push())["pub"]
        assert pub["offset"] == 2 and pub["data"] == 2 and pub["info"]["client"] == bob.id


async def test_who_comes_back_gets_what_was_missed_with_the_reply():
    async with speak(rules=RULES) as ann, speak(rules=RULES) as bob:
        place = at(await subscribed(ann))
        await ann.ask(unsubscribe={"channel": "kept"})
        await publish(bob, 1, 2)
        result = await subscribed(ann, recover=True, **place)
        assert result["recovered"] and result["was_recovering"] and at(result) == place
        assert [(one["data"], one["offset"]) for one in result["publications"]] == [(1, 1), (2, 2)]
        await publish(bob, 3)
        assert (await ann.push())["pub"]["offset"] == 3


async def test_who_missed_nothing_has_recovered():
    async with speak(rules=RULES) as ann:
        place = at(await subscribed(ann))
        await ann.ask(unsubscribe={"channel": "kept"})
        result = await subscribed(ann, recover=True, **place)
        assert result["recovered"] and "publications" not in result


@pytest.mark.parametrize("place", [{"epoch": "other", "offset": 0}, {"epoch": "", "offset": 9}])
async def test_who_cannot_recover_goes_on_from_here(place):
    async with speak(rules=RULES) as ann:
        await publish(ann, 1)
        result = await subscribed(ann, recover=True, **place)
        assert "recovered" not in result and "publications" not in result
        assert result["was_recovering"] and result["offset"] == 1


async def test_who_wants_all_or_nothing_is_not_subscribed():
    async with speak(rules=RULES) as ann:
        wanted = {"channel": "kept", "recover": True, "epoch": "other", "flag": 2}
        assert await ann.error(subscribe=wanted) == 112
        assert not (await subscribed(ann)).get("recovered")
        wanted = {"channel": "plain", "recover": True, "flag": 2}
        assert await ann.error(subscribe=wanted) == 112


async def test_a_group_that_keeps_nothing_has_no_position():
    async with speak(rules=RULES) as ann:
        assert await subscribed(ann, "plain", recover=True) == {"was_recovering": True}


async def test_who_joins_a_board_gets_the_last_one():
    async with speak(rules=RULES) as ann:
        await publish(ann, 1, 2, channel="board")
        result = await subscribed(ann, "board")
        assert result["offset"] == 1 and not result.get("recovered")
        pub = (await ann.push())["pub"]
        assert (pub["offset"], pub["data"]) == (2, 2)


class Doubled(WebSocketGroupFilter):
    @classmethod
    def filter(cls, hub, message):
        if message == 1:
            raise Drop
        return message * 2


class Own(WebSocketSendFilter):
    @classmethod
    def filter(cls, connection, message):
        if message == 4:
            raise Drop
        return [connection.id, message]


class OwnLater(Own):
    @classmethod
    async def filter(cls, connection, message):
        return Own.filter(connection, message)


@pytest.mark.parametrize("own", [Own, OwnLater])
async def test_filters_see_what_comes_out_of_the_history(own):
    async with speak([Doubled, own], RULES) as ann:
        await publish(ann, 1, 2, 3)
        assert data(await history(ann, limit=-1)) == [[ann.id, 6]]
        result = await subscribed(ann, recover=True, epoch="", offset=0)
        assert result["recovered"] and result["offset"] == 0
        told = data(result) or [(await ann.push())["pub"]["data"]]
        assert told == [[ann.id, 6]]


async def test_history_is_read_by_pages():
    async with speak(rules=RULES) as ann:
        await publish(ann, 1, 2, 3, 4)
        place = await history(ann)
        assert place["offset"] == 4 and "publications" not in place
        epoch = place["epoch"]
        assert data(await history(ann, limit=-1)) == [2, 3, 4]
        assert data(await history(ann, limit=2, reverse=True)) == [4, 3]
        for offset, reverse, found in [
            (2, False, [3, 4]),
            (4, True, [3, 2]),
            (0, False, [2, 3, 4]),
            (9, False, []),
            (9, True, [4, 3, 2]),
            (1, True, []),
        ]:
            since = {"epoch": epoch, "offset": offset}
            assert data(await history(ann, limit=-1, since=since, reverse=reverse)) == found
        wanted = {"channel": "kept", "limit": 1, "since": {"epoch": "other", "offset": 4}}
        assert await ann.error(history=wanted) == 112
        assert await ann.error(history={"channel": "plain"}) == 108


async def test_where_nothing_can_be_kept_nothing_is_read(monkeypatch):
    async with speak(rules=RULES) as ann:
        monkeypatch.setattr(type(get_hub().feeds), "store", None)
        assert await ann.error(history={"channel": "kept"}) == 108


async def test_what_a_json_client_cannot_be_sent_is_left_out(settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": __name__}
    async with speak(rules=RULES) as ann:
        await apublish(b"\xff", "kept")
        await publish(ann, 1)
        before = get_hub().counts["not_json"]
        assert data(await history(ann, limit=-1)) == [1]
        assert get_hub().counts["not_json"] == before + 1


async def test_who_has_lost_something_subscribes_again():
    async with speak(rules=RULES) as ann:
        await subscribed(ann)
        group = get_hub().groups._by_name["kept"]
        group.feed.lose()
        why = {"code": codes.INSUFFICIENT_STATE[0], "reason": "insufficient state"}
        assert await ann.push() == {"channel": "kept", "unsubscribe": why}
        assert "recovered" not in await subscribed(ann)


class Loses(WebSocketJoinFilter):
    """Something is lost while the subscription is under way."""

    @classmethod
    def filter(cls, connection, subscription):
        subscription.reply = "hello"
        group = subscription.group
        get_hub().loop.call_soon(lambda: get_hub().groups._by_name[group].feed.lose())


async def test_what_is_lost_before_the_reply_is_told_after_it():
    async with speak([Loses], RULES) as ann:
        assert (await subscribed(ann))["data"] == "hello"
        assert (await ann.push())["unsubscribe"]["code"] == 2500


@jwt_key
async def test_a_connection_that_the_server_subscribed_is_closed():
    application = app(rules=RULES)
    async with speak(application=application, connects=False) as ann:
        reply = await ann.ask(connect={"token": token(sub="7", channels=["kept"])})
        assert reply["connect"]["subs"]["kept"]["positioned"]
        get_hub().groups._by_name["kept"].feed.lose()
        assert await ann.closed() == 3010


@jwt_key
async def test_who_comes_back_recovers_what_the_server_subscribed():
    application = app(rules=RULES)
    wanted = {"token": token(sub="7", channels=["kept"])}
    async with speak(application=application, connects=False) as ann:
        subs = (await ann.ask(connect=wanted))["connect"]["subs"]
        places = {channel: at(one) for channel, one in subs.items()}
        assert set(places) == {"kept", "#7"}
    async with speak(rules=RULES) as bob:
        await publish(bob, 1)
    await aforget_history("user:7")
    places = {channel: {**place, "recover": True} for channel, place in places.items()}
    places["plain"] = {"recover": True}
    async with speak(application=application, connects=False) as ann:
        subs = (await ann.ask(connect={**wanted, "subs": places}))["connect"]["subs"]
        assert data(subs["kept"]) == [1] and subs["kept"]["recovered"]
        assert subs["kept"]["was_recovering"] and subs["#7"]["was_recovering"]
        assert "recovered" not in subs["#7"]


async def test_who_comes_back_together_shares_a_question_and_what_is_told(monkeypatch):
    read, asked, told, tasks = memory.MemoryHistory.read, [], [], []
    fields, start = type(JSON).fields, ClientConnection.start_task

    def note_task(connection, steps, name):
        tasks.append(name)
        return start(connection, steps, name)

    async with contextlib.AsyncExitStack() as stack:
        cy, *back = [await stack.enter_async_context(speak(rules=RULES)) for _ in range(6)]
        await publish(cy, 1, 2)
        monkeypatch.setattr(
            memory.MemoryHistory,
            "read",
            lambda *args, **kept: asked.append(1) or read(*args, **kept),
        )
        monkeypatch.setattr(type(JSON), "fields", lambda *args: told.append(1) or fields(*args))
        monkeypatch.setattr(ClientConnection, "start_task", note_task)
        request = {"channel": "kept", "recover": True, "epoch": "", "offset": 0}
        for one in back:
            await one.say({"id": 9, "subscribe": request})
        answers = [(await one.hear())["subscribe"] for one in back]
        await publish(cy, 3)
        assert [(await one.push())["pub"]["data"] for one in back] == [3] * 5
    assert all(one["recovered"] and data(one) == [1, 2] for one in answers)
    # One question, the publications written once, and one task for each client.
    assert (len(asked), len(told), tasks) == (1, 2, ["fws-join"] * 5)


async def test_who_comes_back_after_an_epoch_ended_is_told_so_with_all_others():
    async with contextlib.AsyncExitStack() as stack:
        cy, *back = [await stack.enter_async_context(speak(rules=RULES)) for _ in range(4)]
        await publish(cy, 1, 2)
        known = await history(cy)
        await aforget_history("kept")
        begun = await history(cy)
        await publish(cy, 3)
        old = {"channel": "kept", "recover": True, **at(known)}
        new = {"channel": "kept", "recover": True, **at(begun)}
        for one, request in zip(back, (old, old, new), strict=True):
            await one.say({"id": 9, "subscribe": request})
        answers = [(await one.hear())["subscribe"] for one in back]
        assert [one.get("recovered", False) for one in answers] == [False, False, True]
        assert [data(one) for one in answers] == [[], [], [3]]
        await publish(cy, 4)
        assert [(await one.push())["pub"]["data"] for one in back] == [4] * 3


# By the server


@contextlib.contextmanager
def unanswered(monkeypatch):
    """Inside, nobody is told how far a history goes. Yields what ends that."""
    answers = asyncio.Event()
    store = get_hub().feeds.store
    tops = store.tops

    async def late(keys):
        await answers.wait()
        return await tops(keys)

    with monkeypatch.context() as patch:
        patch.setattr(store, "tops", late)
        yield answers


async def test_a_subscription_by_the_server_is_told_with_its_position(monkeypatch):
    async with speak(rules=RULES) as ann, speak(rules=RULES) as bob:
        await publish(bob, 1)
        with unanswered(monkeypatch) as answers:
            joining = ann.client.connection.join("kept", trusted=True)
            # No reply to anything else says that it stands, either.
            await ann.ask(publish={"channel": "plain", "data": 1})
            assert await ann.client.received_nothing()
            answers.set()
            push = await ann.push()
        assert await joining and push["channel"] == "kept"
        assert push["subscribe"]["recoverable"] and push["subscribe"]["offset"] == 1
        await publish(bob, 2)
        assert (await ann.push())["pub"] == {"data": 2, "offset": 2, "info": ANY}


async def test_one_that_ends_before_it_stands_is_not_told(monkeypatch):
    async with speak(rules=RULES) as ann:
        connection = ann.client.connection
        with unanswered(monkeypatch) as answers:
            joining = connection.join("kept", trusted=True)
            connection.leave("kept")
            answers.set()
            await joining
        assert await ann.client.received_nothing()


class Comes(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance):
        web_socket_instance.join("kept", trusted=True)


async def test_the_reply_to_connect_waits_until_all_stand():
    async with speak([Comes], rules=RULES) as ann:
        kept = ann.connected["connect"]["subs"]["kept"]
        assert kept["recoverable"] and kept["offset"] == 0
