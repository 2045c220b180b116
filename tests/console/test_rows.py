"""Which connections, groups and errors a process tells of, and what that costs it."""

import json
from types import SimpleNamespace

import pytest

from filtered_websocket import WebSocketMessageFilter, logs
from filtered_websocket.auth.keys import new_key
from filtered_websocket.console import rows, snapshot
from filtered_websocket.console.rows import MAX_ROWS, Top, clean, fitting, user_name
from filtered_websocket.console.snapshot import MAX_BYTES, PER_TURN
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.testing import connect

from .crowds import Somebody, Turns, asked, crowd

MANY = 10_000


# What it costs


@pytest.mark.repeats
@pytest.mark.parametrize(
    ("of", "about"),
    [
        ("process", {}),
        ("connections", {}),
        ("connections", {"search": "user", "order": "unsent", "limit": 100}),
        ("connections", {"group": "all"}),
        ("connections", {"search": "nobody has this"}),
    ],
    ids=["process", "newest", "search", "group", "none"],
)
async def test_of_many_connections_a_few_are_looked_at_in_each_turn(of, about):
    async with crowd(MANY) as (hub, turns):
        answer, size = await asked(hub, of, **about)
        assert turns.now >= MANY // PER_TURN
    # A row is read again for the answer, in the last turn.
    assert max(turns.looks.values(), default=0) <= PER_TURN + 4 * MAX_ROWS
    assert size <= MAX_BYTES
    assert answer.get("num_clients", answer.get("total")) == MANY


async def test_of_many_groups_a_few_are_looked_at_in_each_turn():
    async with crowd(3, groups=MANY) as (hub, turns):
        before = turns.now
        answer, size = await asked(hub, "groups", limit=100)
        assert turns.now - before >= MANY // PER_TURN
    assert answer["total"] == answer["matched"] == MANY
    assert size <= MAX_BYTES and len(answer["rows"]) == 100


@pytest.mark.parametrize("of", ["connections", "groups", "process"])
@pytest.mark.parametrize("most", [MAX_BYTES, 2000])
async def test_an_answer_is_short_whatever_clients_are_called(of, most, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 2 * most}
    async with crowd(500, groups=500, hostile=True) as (hub, _):
        answer, size = await asked(hub, of, limit=10_000)
        if of == "connections":
            name = next(iter(hub.connections))
            size += (await asked(hub, "connection", id=name))[1]
            assert size <= 2 * most
        else:
            assert size <= most
    assert len(answer.get("rows", [])) <= MAX_ROWS
    # No text frame could hold half of a surrogate pair.
    json.dumps(answer, ensure_ascii=False).encode()


async def test_who_asks_too_often_gets_no_answer():
    replies = []
    async with crowd(10 * PER_TURN) as (hub, _):
        for _ in range(3 * snapshot.MAX_QUESTIONS):
            rows.answer(hub, {"of": "connections"}, replies.append)
        assert len(snapshot._answering) == snapshot.MAX_QUESTIONS
        await asked_when_free(hub)
    assert len(replies) == snapshot.MAX_QUESTIONS
    assert snapshot._answering == []


async def asked_when_free(hub):
    """Return when all that is being answered has been."""
    from ..waiting import until

    await until(lambda: not snapshot._answering)


async def test_a_hub_that_has_ended_meanwhile_answers_nothing():
    replies = []
    async with crowd(10 * PER_TURN) as (hub, _):
        rows.answer(hub, {"of": "connections"}, replies.append)
    await asked_when_free(hub)
    assert replies == []


async def test_a_question_of_a_later_version_is_not_answered():
    replies = []
    async with crowd(1) as (hub, _):
        for question in ({"of": "weather"}, {}):
            rows.answer(hub, question, replies.append)
        await asked_when_free(hub)
    assert replies == []


async def test_a_question_that_makes_no_sense_is_logged_and_stops_nothing(caplog):
    replies = []
    async with crowd(1) as (hub, _):
        rows.answer(hub, {"of": "connections", "limit": "many"}, replies.append)
        rows.answer(hub, {"of": "connections", "limit": "many"}, replies.append)
        assert (await asked(hub, "connections"))[0]["total"] == 1
    assert replies == []
    assert [one.getMessage() for one in caplog.records] == ["cannot answer what the console asks"]


# Connections


async def found(hub, **about):
    answer, _ = await asked(hub, "connections", **about)
    return [int(row["id"][:8]) for row in answer["rows"]], answer["matched"]


@pytest.mark.parametrize(
    ("order", "first"),
    [("newest", [0, 1, 2]), ("oldest", [29, 28, 27]), ("unsent", [6, 13, 20]), ("?", [0, 1, 2])],
)
async def test_the_order_is_chosen(order, first):
    async with crowd(30) as (hub, _):
        assert await found(hub, order=order, limit=3) == (first, 30)


async def test_those_in_most_groups_come_first():
    async with crowd(30) as (hub, _):
        one = hub.connections["00000017-0000-4000-8000-000000000000"]
        one._joined = {f"g{number}" for number in range(5)}
        assert (await found(hub, order="groups", limit=1))[0] == [17]
        answer, _ = await asked(hub, "connections", order="groups", limit=1)
    assert answer["rows"][0]["num_groups"] == 5
    assert len(answer["rows"][0]["groups"]) == rows.FEW_GROUPS


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"search": "USER12"}, [12]),
        ({"search": "192.0.2.7"}, [7]),
        ({"search": "/room/9"}, [9, 19, 29]),
        ({"search": "00000023-"}, [23]),
        ({"group": "room:5"}, [5]),
        ({"group": "room"}, []),
        ({"user": "9"}, [9]),
        ({"user": "7"}, []),
        ({"search": "user", "group": "room:6"}, [6]),
        ({"search": "x" * 200}, []),
    ],
)
async def test_connections_are_searched(about, expected):
    async with crowd(30) as (hub, _):
        assert await found(hub, **about) == (expected, len(expected))


async def test_a_row_says_what_one_looks_for():
    async with crowd(4) as (hub, _):
        hub.connections["00000003-0000-4000-8000-000000000000"].closing = True
        answer, _ = await asked(hub, "connections", user="3")
    [row] = answer["rows"]
    assert row.pop("age") >= 3
    assert row == {
        "id": "00000003-0000-4000-8000-000000000000",
        "user": "3",
        "name": "user3",
        "path": "/room/3/",
        "address": "192.0.2.3",
        "groups": ["all", "room:3"],
        "num_groups": 2,
        "unsent": 3,
        "state": "closing",
    }


async def test_one_connection_is_told_of_with_all_that_there_is_room_for():
    async with crowd(4) as (hub, _):
        one = hub.connections["00000003-0000-4000-8000-000000000000"]
        one._joined = {f"group {number:04}" for number in range(1000)} | {"\ud800"}
        one.transport.is_open = False
        one.token = Token(pk=5, name="lamp\ud800")
        answer, _ = await asked(hub, "connection", id=one.id)
        assert (await asked(hub, "connection", id="nobody"))[0] == {"row": None}
    row = answer["row"]
    assert len(row["groups"]) <= rows.MAX_GROUPS and row["num_groups"] == 1001
    assert row["state"] == "connecting"
    assert (row["lane"], row["agent"], row["route"]) == ("a lane", "UA", "home group 'home'")
    assert row["token"] == {"id": 5, "name": "lamp?"}


def test_a_connection_without_a_token_or_an_agent_has_none():
    one = Somebody(1, Turns())
    one.scope = {}
    assert (rows._token(one), rows._agent(one)) == (None, "")
    # As a site's own filter may set, which is no row of ours.
    one.token = SimpleNamespace(pk=7, name="secret")
    assert rows._token(one) is None


class Odd:
    is_authenticated = True
    pk = 7

    def get_username(self):
        raise RuntimeError("a field that was not loaded")


def test_the_name_of_a_user_asks_no_database():
    def name_of(user, user_id=None):
        return user_name(SimpleNamespace(user=user, user_id=user_id))

    assert name_of(None) == ""
    assert name_of(SimpleNamespace(is_authenticated=False)) == ""
    assert name_of(SimpleNamespace(is_authenticated=True, get_username=lambda: "ann")) == "ann"
    assert name_of(Odd(), "7") == "7"

    class Plain:
        is_authenticated = True

        def __str__(self):
            return "plain"

    assert name_of(Plain()) == "plain"


# Groups


async def test_the_largest_groups_come_first_or_those_with_most_messages():
    async with crowd(1, groups=120) as (hub, _):
        by_members, _ = await asked(hub, "groups", limit=2)
        by_messages, _ = await asked(hub, "groups", limit=2, order="messages")
        searched, _ = await asked(hub, "groups", search="GROUP 7", limit=100)
    assert [row["members"] for row in by_members["rows"]] == [50, 50]
    assert [row["name"] for row in by_messages["rows"]] == ["group 119", "group 118"]
    assert searched["matched"] == 11 and searched["total"] == 120


async def test_groups_are_counted_by_name():
    async with crowd(1, groups=10) as (hub, _):
        answer, _ = await asked(hub, "group", names=["group 3", "nobody's", "group 4"])
        nothing, _ = await asked(hub, "group")
    assert [(row["name"], row["members"]) for row in answer["rows"]] == [
        ("group 3", 4),
        ("group 4", 5),
    ]
    assert nothing == {"rows": []}


def no_converter(name):
    raise RuntimeError("a converter of the site's")


async def test_what_a_group_keeps_is_that_of_its_rule():
    rule = [
        group("kept", history=History(size=1, ttl=10)),
        group("room:<int:number>", presence=True),
        group("plain"),
    ]
    names = ["kept", "room:1", "plain"]
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=names, group_rules=rule)
    async with connect(app) as client:
        answer, _ = await asked(get_hub(), "groups")
        # One that was joined before its rule was there.
        client.connection.pipeline.rules.find = no_converter
        broken, _ = await asked(get_hub(), "groups")
    kept = {row["name"]: (row["presence"], row["history"]) for row in answer["rows"]}
    assert kept == {"kept": (False, True), "room:1": (True, False), "plain": (False, False)}
    assert not any(row["presence"] or row["history"] for row in broken["rows"])


async def test_the_messages_of_a_group_are_counted():
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["news"])
    async with connect(app) as ann, connect(app) as bob:
        for number in range(3):
            ann.connection.publish(str(number), "news")
        await bob.settle()
        answer, _ = await asked(get_hub(), "groups")
    [row] = answer["rows"]
    assert (row["members"], row["messages"]) == (2, 3)


# Errors


class Fails(WebSocketMessageFilter):
    @classmethod
    def filter(cls, connection, data):
        raise ValueError(f"cannot read {data.decode()}")


async def test_an_error_is_told_once_with_its_count_and_the_first_traceback(recent):
    async with connect([Fails]) as client:
        for text in ("one", "two", "three"):
            await client.send(text)
        await client.settle()
        listed, _ = await asked(get_hub(), "errors")
        [row] = listed["rows"]
        told, _ = await asked(get_hub(), "error", key=row["key"])
        nothing, _ = await asked(get_hub(), "error", key="unknown")
        where = f"connection {client.connection.id}"
    assert (row["what"], row["kind"]) == (f"{__name__}.Fails", "ValueError")
    assert (row["count"], row["where"], listed["matched"]) == (3, where, 1)
    assert "trace" not in row
    [trace] = told["row"]["trace"]
    assert (trace["kind"], trace["message"]) == ("ValueError", "cannot read one")
    assert "raise ValueError" in trace["frames"]
    assert nothing == {"row": None}


async def test_no_error_shows_a_secret(recent):
    key = new_key()
    recent.failed("a.Filter", ValueError(f"bad {key}"), "a.py:1", "here")
    record = logs.logging.LogRecord("a", logs.logging.ERROR, "", 1, "cookie: %s", (key,), None)
    recent.logged(record)
    async with crowd(1) as (hub, _):
        listed, _ = await asked(hub, "errors")
        found = [await asked(hub, "error", key=row["key"]) for row in listed["rows"]]
    assert listed["matched"] == 2
    assert str(key)[12:] not in f"{listed} {found}"


# Small parts


def test_the_first_of_any_number_are_kept():
    top = Top(3, lambda number: number % 10)
    for number in range(100):
        top.add(number)
    assert top.entries() == [9, 19, 29] and top.count == 100


@pytest.mark.parametrize(
    ("text", "shown"),
    [("ann", "ann"), ("x" * 200, "x" * 119 + "…"), ("a\ud800b", "a?b"), (5, "5")],
)
def test_a_text_is_cut_and_made_what_json_can_have(text, shown):
    assert clean(text) == shown


def test_rows_are_kept_while_there_is_room(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 200}
    kept = fitting({"name": "x" * 10} for _ in range(100))
    assert 0 < len(kept) < 10
