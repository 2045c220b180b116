"""What all processes have, as a page is told."""

import asyncio
import json

import pytest

from filtered_websocket.console import asking
from filtered_websocket.console.asking import Overview, ask, find_connections, find_groups
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import Answer
from filtered_websocket.publish import apublish
from filtered_websocket.testing import connect

from .conftest import look, make_staff
from .test_rows import Fails

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def answers(monkeypatch):
    """What other processes answer: the test sets it, by what is asked for."""
    made = {}
    made["asked"] = []

    async def ask_all(hub, what, expected=(), also_others=True):
        made["asked"].append(what)
        own = hub.grants.inventory.identity()["name"]
        assert own in expected, "this process will answer"
        made["expected"] = sorted(set(expected) - {own}), also_others
        question = what["snapshot"]
        parts = made.get(question["of"], [])
        parts = parts(question) if callable(parts) else parts
        return [Answer.read({"tokens": {}, **part}) for part in parts]

    monkeypatch.setattr(asking, "ask_all", ask_all)
    return made


def node(name, **fields):
    shown = {"uid": name, "name": name, "num_clients": 1, **fields}
    return {"node": shown}


def inside(pipelines=()):
    return {"lag": 0.0, "pipelines": list(pipelines)}


# Processes


async def test_the_processes_are_asked_once_a_second_however_many_look(answers, monkeypatch):
    answers["process"] = [node("b", inside=inside()), node("a", inside=inside())]
    overview = Overview()
    told = await asyncio.gather(*[overview.look(get_hub()) for _ in range(20)])
    assert len(answers["asked"]) == 1
    assert answers["asked"] == [{"node": True, "snapshot": {"of": "process"}}]
    assert [one["name"] for one in told[0]["processes"]] == ["a", "b"]
    assert all("pipelines" not in one["inside"] for one in told[0]["processes"])
    monkeypatch.setattr(asking, "FRESH", 0.0)
    await overview.look(get_hub())
    assert len(answers["asked"]) == 2


async def test_a_process_that_misses_a_question_is_shown_for_a_while(answers, monkeypatch):
    monkeypatch.setattr(asking, "FRESH", 0.0)
    overview = Overview()
    answers["process"] = [node("busy", inside=inside()), node("idle", inside=inside())]
    await overview.look(get_hub())
    answers["process"] = [node("idle", inside=inside())]
    told = await overview.look(get_hub())
    silent = {one["name"]: one["silent"] for one in told["processes"]}
    assert silent.keys() == {"busy", "idle"} and silent["busy"] >= silent["idle"] == 0.0
    monkeypatch.setattr(asking, "GONE", 0.0)
    assert [one["name"] for one in (await overview.look(get_hub()))["processes"]] == ["idle"]


async def test_a_process_that_has_answered_before_is_waited_for(answers, monkeypatch):
    monkeypatch.setattr(asking, "FRESH", 0.0)
    overview = asking.overview_of(get_hub())
    assert overview is asking.overview_of(get_hub())
    answers["process"] = [node("a", inside=inside()), node("b", inside=inside()), node("old")]
    answers["connection"] = [{"process": "a", "snapshot": {"row": None}}]
    await ask(get_hub(), "connection")
    assert answers["expected"] == ([], True)
    await overview.look(get_hub())
    assert answers["expected"] == ([], True)
    await ask(get_hub(), "connection")
    assert answers["expected"] == (["a", "b"], False)
    # Whether a connection has ended is not known while its process is silent.
    sure = {
        name: (await asking._connection(frozenset(), {"id": "1", "process": name}))["sure"]
        for name in ("a", "b", "gone")
    }
    assert sure == {"a": True, "b": False, "gone": True}
    answers["process"] = [node("a", inside=inside())]
    await overview.look(get_hub())
    assert answers["expected"] == (["a", "b"], True)
    await ask(get_hub(), "connection")
    assert answers["expected"] == (["a"], False)
    # It is still shown, and may be busy.
    assert not (await asking._connection(frozenset(), {"process": "b"}))["sure"]


async def test_a_process_of_an_earlier_version_is_shown_with_what_it_says(answers):
    answers["process"] = [node("old"), {"groups": {}}, node("new", inside=inside())]
    told = await Overview().look(get_hub())
    assert [(one["name"], one["inside"] is None) for one in told["processes"]] == [
        ("new", False),
        ("old", True),
    ]


async def test_a_page_is_told_of_a_bounded_number_of_processes_and_pipelines(answers):
    def pipeline(number):
        fields = {"paths": [f"/{number}"], "home": "", "own": False, "connections": number}
        return {**fields, "chains": []}

    pipelines = [pipeline(number) for number in range(80)]
    answers["process"] = [node(f"{number:04}", inside=inside()) for number in range(300)]
    answers["process"].append(node("all", inside=inside(pipelines)))
    told = await Overview().look(get_hub())
    assert (len(told["processes"]), told["num_processes"]) == (asking.MAX_PROCESSES, 301)
    assert (len(told["pipelines"]), told["num_pipelines"]) == (asking.MAX_PIPELINES, 80)


# Rows of several processes


def rows(process, *found, **more):
    return {"process": process, "snapshot": {"rows": list(found), **more}}


async def test_the_first_connections_of_all_processes(answers):
    def connections(question):
        assert question["limit"] == 2
        return [
            rows("a", {"age": 5, "id": "5"}, {"age": 9, "id": "9"}, matched=7, total=70),
            rows("b", {"age": 1, "id": "1"}, {"age": 8, "id": "8"}, matched=2, total=30),
            {"node": {"uid": "of an earlier version"}},
        ]

    answers["connections"] = connections
    found = await find_connections(get_hub(), 2, order="newest", search="x")
    assert [(row["id"], row["process"]) for row in found["rows"]] == [("1", "b"), ("5", "a")]
    assert (found["matched"], found["total"]) == (9, 100)
    oldest = await find_connections(get_hub(), 2, order="oldest")
    assert [row["id"] for row in oldest["rows"]] == ["9", "8"]


def a_group(name, members, messages=0, **fields):
    return {
        "name": name,
        "members": members,
        "messages": messages,
        "presence": False,
        "history": False,
        **fields,
    }


async def test_groups_are_added_up_over_processes(answers):
    answers["groups"] = [
        rows("a", a_group("x", 3, 10), a_group("y", 1), matched=2, total=5),
        rows("b", a_group("x", 4, 12, history=True), matched=1, total=9),
    ]
    found = await find_groups(get_hub())
    assert [(row["name"], row["members"], row["messages"]) for row in found["rows"]] == [
        ("x", 7, 12),
        ("y", 1, 0),
    ]
    assert found["rows"][0]["history"] and found["rows"][0]["processes"] == 2
    # In the process that has most of them: which are the same nobody knows.
    assert (found["matched"], found["total"]) == (2, 9)
    assert len(answers["asked"]) == 1


async def test_a_group_that_is_large_in_one_process_only_is_counted_in_the_others_too(answers):
    answers["groups"] = [
        rows("a", a_group("x", 50), matched=1000, total=1000),
        rows("b", a_group("y", 60), matched=1000, total=1000),
    ]

    def counted(question):
        assert question["names"] == ["y"]
        return [rows("a", a_group("y", 2)), rows("b", a_group("y", 60))]

    answers["group"] = counted
    found = await find_groups(get_hub(), 1)
    assert [(row["name"], row["members"]) for row in found["rows"]] == [("y", 62)]


async def test_names_of_groups_fit_into_one_question(answers):
    names = ["x" * 1000 + str(number) for number in range(100)]
    answers["groups"] = [
        rows("a", *[a_group(name, 1) for name in names], matched=200, total=200),
        rows("b", matched=200, total=200),
    ]
    answers["group"] = []
    await find_groups(get_hub(), 100)
    assert len(json.dumps(answers["asked"][-1])) <= 16_384


async def test_where_nobody_answers_nothing_is_found(answers):
    assert await find_groups(get_hub()) == {"rows": [], "matched": 0, "total": 0}
    assert await find_connections(get_hub()) == {"rows": [], "matched": 0, "total": 0}
    assert await ask(get_hub(), "connections") == []


async def test_an_error_of_several_processes_is_shown_once(answers):
    def error(last, first, count, **fields):
        return {
            "key": "k",
            "what": "w",
            "where": "c",
            "first": first,
            "last": last,
            "count": count,
            **fields,
        }

    answers["errors"] = [
        rows("a", error(10, 5, 3)),
        rows("b", error(20, 7, 4, where="d"), error(1, 1, 1, key="other")),
        rows("c", error(15, 9, 1)),
    ]
    found = await asking._errors(frozenset(), {})
    first, other = found["rows"]
    assert (first["first"], first["last"], first["count"], first["processes"]) == (5, 20, 8, 3)
    assert (first["where"], first["process"]) == ("d", "b")
    assert other["key"] == "other" and found["total"] == 2


# What a page is told


@pytest.fixture
def staff():
    return make_staff("view_console")


@pytest.fixture
def trusted():
    """May see what passes, too."""
    return make_staff("view_console", "tee_console", name="tess")


async def test_a_page_searches_connections_and_looks_at_one(site, staff):
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["garden"])
    async with connect(app, "/a/path/") as ann, look(site, staff) as watcher:
        found = await watcher.call("connections", group="garden", limit=5)
        [row] = found["rows"]
        assert (row["id"], row["path"], found["total"]) == (ann.connection.id, "/a/path/", 2)
        assert row["process"] == (await watcher.call("overview"))["processes"][0]["name"]
        assert (await watcher.call("connections", search="sam"))["matched"] == 1
        told = (await watcher.call("connection", id=row["id"]))["row"]
        assert told["groups"] == ["garden"] and told["process"] == row["process"]
        assert await watcher.call("connection", id="nobody") == {"row": None, "sure": True}


RULES = [
    group("kept:<slug:name>", history=History(size=30, ttl=60), presence=True),
    group("plain"),
]


@pytest.fixture
def kept(settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": f"{__name__}.RULES"}
    names = ["kept:a", "plain"]
    return FilteredWebSocketConsumer.as_asgi(filters=[], groups=names, group_rules=RULES)


async def test_a_group_shows_who_is_there_and_what_was_published_to_who_may_see_it(
    site, staff, trusted, kept
):
    async with connect(kept) as ann:
        for number in range(25):
            await apublish({"n": number}, "kept:a")
        await apublish({"n": 25, "token": "abcdef"}, "kept:a")
        await apublish(b"\xff\0", "kept:a")
        async with look(site, staff) as watcher:
            told = await watcher.call("group", name="kept:a")
            assert told["row"]["members"] == 1 and told["row"]["messages"] >= 27
            assert told["presence"] == {
                "connections": 1,
                "users": 1,
                "members": [{"id": ann.connection.id, "user": ""}],
            }
            assert "messages" not in told, "only who may see payloads"
            assert (await watcher.call("group", name="plain"))["row"]["members"] == 1
            assert await watcher.call("group", name="empty") == {"row": None}
            assert (await watcher.call("groups", search="kept"))["matched"] == 1
        async with look(site, trusted) as watcher:
            told = await watcher.call("group", name="kept:a")
            plain = await watcher.call("group", name="plain")
    messages = told["messages"]
    assert len(messages) == asking.MAX_MESSAGES
    assert messages[0] == {"offset": 27, "size": 2, "text": "", "sender": ""}
    assert messages[2]["text"].replace(" ", "") == '{"n":24}'
    assert messages[1]["text"].startswith('{"n":') and "abcdef" not in messages[1]["text"]
    assert not {"messages", "presence"} & plain.keys()


async def test_the_members_of_a_large_group_are_only_counted(site, staff, kept, monkeypatch):
    monkeypatch.setattr(asking, "MAX_MEMBERS", 1)
    async with connect(kept), connect(kept), look(site, staff) as watcher:
        told = await watcher.call("group", name="kept:a")
    assert told["presence"] == {"connections": 2, "users": 1}


async def test_where_redis_does_not_answer_the_page_says_so(site, staff, kept, monkeypatch):
    async def fail(name):
        raise ConnectionError("cannot read who is in it")

    monkeypatch.setattr(asking, "apresence_stats", fail)
    async with connect(kept), look(site, staff) as watcher:
        told = await watcher.call("group", name="kept:a")
    assert told["problem"] == "cannot read who is in it"


async def test_what_an_exception_says_is_shown_to_who_may_see_messages(site, staff, trusted):
    """It may hold what a client has sent; where it was raised is shown to all who look."""
    async with connect([Fails]) as ann:
        await ann.send("a payload")
        await ann.settle()
        seen = []
        for user in (staff, trusted):
            async with look(site, user) as watcher:
                listed = await watcher.call("errors")
                [key] = {
                    row["key"] for row in listed["rows"] if row["what"].endswith("test_rows.Fails")
                }
                assert "a payload" not in json.dumps(listed)
                seen.append((await watcher.call("error", key=key))["row"])
                assert await watcher.call("error", key="none") == {"row": None}
    for row in seen:
        assert row["count"] >= 1 and "raise ValueError" in row["trace"][0]["frames"]
    assert seen[0]["trace"][0]["message"] is None
    assert seen[1]["trace"][0]["message"].startswith("cannot read ")
