"""A tee, in one process: what it shows, and when it ends."""

import asyncio
import json
import threading

import pytest

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketSendFilter,
    observe,
)
from filtered_websocket.api.control import recheck
from filtered_websocket.chains.chain import Chain
from filtered_websocket.console import taps, tee
from filtered_websocket.console.taps import receive
from filtered_websocket.console.tee import (
    Tee,
    on_connection,
    on_group,
    on_place,
    on_route,
)
from filtered_websocket.console.watching import MAX_ID, current_id, watching
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import process_name
from filtered_websocket.layer.envelope import CONTROL, Batch, Item, group_key
from filtered_websocket.publish import apublish
from filtered_websocket.publishing import items
from filtered_websocket.publishing.items import TRAIL
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter
from ..protocols.clients import RULES, speak
from ..protocols.clients import app as protocol_app
from ..waiting import LIMIT, limited, until

BROADCAST = "filtered_websocket.filters.broadcast_messages"


def application(*filters, groups=("g",), **options):
    """Served at the path ``/chat/``."""
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=groups, **options)
    app.route.paths.append("/chat/")
    return app


def shout(web_socket_instance, data):
    if data == b"drop":
        raise Drop("too quiet")
    if data == b"close":
        raise Close(4000, "bye")
    if data == b"fail":
        raise ValueError("on purpose")
    return data.upper()


def extend(web_socket_instance, data):
    data.extend(b"!")


def sign_by(web_socket_instance, data):
    return {**data, "by": "ann"}


SHOUT = message_filter(shout)
SAID = message_filter(sign_by)
EXTEND = message_filter(extend, WebSocketDataFilter)


@pytest.fixture(autouse=True)
def nothing_is_left_on(monkeypatch):
    """And a busy machine may be late to renew a tee."""
    monkeypatch.setattr(taps, "LEASE", LIMIT)
    yield
    assert watching.taps == () and not watching._users and not watching._undo
    assert items.carriers == [] and items.on_publish == []
    assert watching not in observe._of_all
    taps.taps.clear()


class Viewer:
    """``async with``: a tee whose processes have begun; then its records by kind."""

    def __init__(self, subject, **options):
        self.tee = Tee(subject, **{"payloads": True, **options})

    async def __aenter__(self):
        await self.tee.__aenter__()
        async with limited():
            self.begin = await anext(self.tee)
        assert self.begin["is"] == "begin"
        return self

    async def __aexit__(self, *error):
        await self.tee.__aexit__(*error)
        key = self.tee._key
        await until(lambda: key not in taps.taps or taps.taps[key].hub.over)
        if key in taps.taps:
            # Its hub has ended before it was told: it ends by itself, but only after its lease.
            taps.taps.pop(key).end("closed")

    async def seen(self, count):
        """The next ``count`` records."""
        async with limited():
            return [await anext(self.tee) for _ in range(count)]


async def ended():
    """Return when this process has heard of the end of all tees."""
    await until(lambda: not watching.taps)


def words(record):
    """What is told of an event, in short."""
    stages = [
        (one["filter"], one["in"]["text"], one["out"] and one["out"]["text"], one["end"])
        for one in record["stages"]
    ]
    return record["chain"], record["in"]["text"], stages, record["out"] and record["out"]["text"]


async def test_a_message_is_followed_through_the_whole_pipe():
    def sign(hub, data):
        return data + b"?"

    def greet(recipient, data):
        return data + b"."

    app = application(
        EXTEND,
        SHOUT,
        BROADCAST,
        message_filter(sign, WebSocketGroupFilter),
        message_filter(greet, WebSocketSendFilter),
    )
    async with (
        connect(app) as ann,
        connect(app) as bob,
        Viewer(on_route("/chat/")) as viewer,
    ):
        # Connect, join, leave and disconnect chains have no filters.
        assert viewer.begin["found"] == 4 and viewer.begin["process"] == process_name()
        one, other = ann.connection.id, bob.connection.id
        await ann.send("hi")
        assert await bob.receive() == "HI!?."
        records = await viewer.seen(5)
    by_time = sorted(records, key=lambda record: record["at"])
    assert [record["is"] for record in by_time] == ["chain", "chain", "publish", "chain", "chain"]
    assert len({record["id"] for record in records}) == 1
    data, message, published, grouped, sent = by_time
    unchanged = (BROADCAST.rpartition(".")[2], "HI!", "HI!", None)
    assert words(data) == ("data", "hi", [("extend", "hi", "hi!", None)], "hi!")
    assert words(message) == ("message", "hi!", [("shout", "hi!", "HI!", None), unchanged], "HI!")
    assert words(grouped) == ("group", "HI!", [("sign", "HI!", "HI!?", None)], "HI!?")
    assert words(sent) == ("send", "HI!?", [("greet", "HI!?", "HI!?.", None)], "HI!?.")
    assert (published["group"], published["connection"]) == ("g", one)
    assert published["in"] == {"kind": "text", "size": 3, "text": "HI!"}
    assert (data["connection"], data["sender"], data["group"]) == (one, None, None)
    assert (grouped["connection"], grouped["sender"], grouped["group"]) == (None, one, "g")
    assert (grouped["members"], grouped["end"]) == (1, None)
    assert (sent["connection"], sent["sender"], sent["group"]) == (other, one, "g")
    assert "members" not in sent
    for record in records:
        assert record["process"] == process_name() and record["at"] > 1e9
        if record["is"] == "chain":
            assert record["route"] == "/chat/" and record["seconds"] >= 0
            assert record["seconds"] >= sum(stage["seconds"] for stage in record["stages"])
            assert all(stage["path"].startswith(("tests.", "filt")) for stage in record["stages"])


async def test_each_message_has_an_id_of_its_own():
    app = application(EXTEND, BROADCAST)
    async with (
        connect(app) as ann,
        connect(app),
        Viewer(on_route("/chat/")) as viewer,
    ):
        for text in "ab":
            await ann.send(text)
        records = await viewer.seen(8)
    texts = {}
    for record in records:
        texts.setdefault(record["id"], []).append(record["in"]["text"])
    assert sorted(map(sorted, texts.values())) == [["a", "a!", "a!", "a!"], ["b", "b!", "b!", "b!"]]


async def test_what_a_protocol_publishes_belongs_to_the_message_of_the_client():
    app = protocol_app([SAID], RULES)
    app.route.paths.append("/chat/")
    async with speak(application=app) as ann, Viewer(on_route("/chat/")) as viewer:
        await ann.ask(subscribe={"channel": "news"})
        await ann.say({"id": 2, "publish": {"channel": "news", "data": {"a": 1}}})
        records = await viewer.seen(3)
        # Nothing else of this client does.
        await ann.say({"id": 3, "subscribe": {"channel": "room:1"}})
        await apublish("from elsewhere", group="news")
        [other] = await viewer.seen(1)
    kinds = sorted((record["is"], record.get("chain", "")) for record in records)
    assert kinds == [("chain", "group"), ("chain", "message"), ("publish", "")]
    assert {record["in"]["text"] for record in records} == {'{"a":1}', '{"a":1,"by":"ann"}'}
    assert len({record["id"] for record in records}) == 1
    assert other["id"] != records[0]["id"]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("drop", {"how": "drop", "why": "too quiet"}),
        ("close", {"how": "close", "code": 4000, "why": "bye"}),
        ("fail", {"how": "error", "class": "ValueError", "why": "on purpose"}),
    ],
)
async def test_an_event_that_ends_in_a_filter_says_where_and_how(text, end):
    app = application(SHOUT, BROADCAST)
    async with connect(app) as ann, Viewer(on_route("/chat/")) as viewer:
        await ann.send(text)
        [record] = await viewer.seen(1)
        assert words(record) == ("message", text, [("shout", text, None, end)], None)
        assert record["end"] == end


async def test_a_tee_on_a_filter_shows_this_one_and_all_messages_of_its_route():
    app, other = application(EXTEND, SHOUT, BROADCAST), application(SHOUT, groups=("h",))
    other.route.paths[:] = ["/other/"]
    async with (
        connect(app) as ann,
        connect(other) as bob,
        Viewer(on_place("/chat/", "shout")) as viewer,
    ):
        assert viewer.begin["found"] == 1
        await bob.send("x")
        await bob.settle()
        for text in "ab":
            await ann.send(text)
        records = await viewer.seen(2)
        assert list(map(words, records)) == [
            (
                "message",
                f"{one}!",
                [("shout", f"{one}!", f"{one.upper()}!", None)],
                f"{one.upper()}!",
            )
            for one in "ab"
        ]
        assert len({record["id"] for record in records}) == 2


async def test_without_payloads_no_text_leaves_the_process():
    app = application(SHOUT, BROADCAST)
    sent = []
    async with (
        connect(app) as ann,
        connect(app),
        Viewer(on_route("/chat/"), payloads=False) as viewer,
    ):
        hub = get_hub()
        post, hub.link.post = hub.link.post, lambda *call: (sent.append(call[0]), post(*call))
        for text in ("secret words", "fail"):
            await ann.send(text)
        records = await viewer.seen(4)
        hub.link.post = post
    told = [batch for batch in sent if batch.key.startswith("fws.tee.")]
    assert len(told) >= 1
    for batch in told:
        for item in batch.items:
            assert b"words" not in item.payload.lower() and b"purpose" not in item.payload
    assert [record["in"] for record in records[:2]] == [{"kind": "text", "size": 12}] * 2
    assert records[3]["end"] == {"how": "error", "class": "ValueError", "why": ""}


async def test_secrets_of_payloads_and_cookies_are_hidden():
    def echo(web_socket_instance, data):
        web_socket_instance.push(data)

    app = application(message_filter(echo))
    headers = {"cookie": 'sessionid=abcdefghijkl; theme=dark; csrf="qrstuvwxyz"'}
    async with (
        connect(app, headers=headers) as ann,
        Viewer(on_connection(ann.connection.id)) as viewer,
    ):
        await ann.send("abcdefghijkl qrstuvwxyz dark fws_" + "k" * 43)
        records = await viewer.seen(3)
        shown = "*** *** dark fws_kkkkkkkk"
        assert [record["in"]["text"] for record in records] == [shown] * 3


# Of a connection


async def test_a_tee_on_a_connection_shows_its_frames_and_its_chains():
    def answer(web_socket_instance, data):
        web_socket_instance.push(b"\xff" if data == b"binary" else "pong")

    app = application(message_filter(answer))
    async with connect(app) as ann, connect(app) as bob:
        key = ann.connection.id
        async with Viewer(on_connection(key)) as viewer:
            assert viewer.begin["found"] == 1
            await bob.send("of bob")
            await bob.receive()
            for text in ("ping", "binary"):
                await ann.send(text)
                await ann.receive()
            records = await viewer.seen(6)
            # Nothing waits in the writer while nothing is written.
            assert not ann.connection.transport.writing
        ways = [(record.get("way"), record["in"].get("text")) for record in records]
        assert ways == [
            ("in", "ping"),
            (None, "ping"),
            ("out", "pong"),
            ("in", "binary"),
            (None, "binary"),
            ("out", "\\xff"),
        ]
        assert {record["connection"] for record in records} == {key}
        assert [len({one["id"] for one in some}) for some in (records[:3], records[3:])] == [1, 1]
        assert records[5]["in"]["kind"] == "binary"
        # Afterwards everything is as it was.
        await ann.send("again")
        assert await ann.receive() == "pong"
        assert ann.connection.transport.on_write is None
        assert ann.connection.reader.handle.__self__.connection is ann.connection


async def test_a_tee_on_a_connection_shows_what_it_gets_of_its_groups():
    def sign(hub, data):
        return data + b"?"

    plain = application(BROADCAST)
    chained = application(BROADCAST, message_filter(sign, WebSocketGroupFilter))
    for app, text in ((plain, "a"), (chained, "a?")):
        async with (
            connect(app) as ann,
            connect(app) as bob,
            Viewer(on_connection(bob.connection.id)) as viewer,
        ):
            await ann.send("a")
            assert await bob.receive() == text
            grouped, frame = sorted(await viewer.seen(2), key=lambda one: one["is"])
            assert (grouped["chain"], grouped["members"]) == ("group", 1)
            assert grouped["in"]["text"] == "a" and grouped["out"]["text"] == text
            assert (frame["way"], frame["in"]["text"]) == ("out", text)
            assert grouped["id"] == frame["id"]
            # What it publishes it does not get itself.
            await bob.send("b")
            records = await viewer.seen(3)
            assert {one["is"] for one in records} == {"frame", "chain", "publish"}
            assert len({one["id"] for one in records}) == 1
            assert await bob.received_nothing()


async def test_a_tee_on_a_connection_that_is_not_here_finds_nothing():
    app = application(BROADCAST)
    async with connect(app), Viewer(on_connection("nobody")) as viewer:
        assert viewer.begin["found"] == 0


async def test_a_connection_that_is_not_accepted_yet_is_watched_once_it_is(monkeypatch):
    gate, waits = asyncio.Event(), asyncio.Event()
    held = []

    async def wait(web_socket_instance, handshake):
        held.append(web_socket_instance)
        waits.set()
        await gate.wait()

    app = application(message_filter(wait, WebSocketConnectFilter))
    monkeypatch.setattr(tee, "RENEW", 0.05)
    async with connect(application(BROADCAST)):
        opening = asyncio.ensure_future(connect(app)._open())
        await waits.wait()
        async with Viewer(on_connection(held[0].id)) as viewer:
            assert viewer.begin["found"] == 1
            gate.set()
            client = await opening
            await until(lambda: held[0].transport.on_write is not None)
            await client.send("x")
            [record] = await viewer.seen(1)
            assert (record["way"], record["in"]["text"]) == ("in", "x")
            await client.close()


# Of a group


async def test_a_tee_on_a_group_shows_what_is_published_to_it_and_to_whom_it_goes():
    app = application(BROADCAST)
    async with connect(app) as ann, connect(app), connect(app):
        async with Viewer(on_group("g")) as viewer:
            assert viewer.begin["found"] == 1
            await ann.send("a")
            published, grouped = await viewer.seen(2)
            assert (published["is"], grouped["chain"]) == ("publish", "group")
            assert published["id"] == grouped["id"]
            assert published["connection"] == grouped["sender"] == ann.connection.id
            assert (grouped["members"], grouped["stages"]) == (2, [])
            assert grouped["in"] == grouped["out"] == {"kind": "text", "size": 1, "text": "a"}
            await apublish("elsewhere", "h")
            await apublish({"b": 1}, "g")
            published, grouped = await viewer.seen(2)
            assert published["connection"] is grouped["sender"] is None
            assert published["id"] == grouped["id"] and grouped["members"] == 3
            assert grouped["in"] == {"kind": "json", "size": 7, "text": '{"b":1}'}
        async with Viewer(on_group("nowhere")) as viewer:
            assert viewer.begin["found"] == 0


async def test_a_message_has_the_same_id_in_every_process():
    """Where none has seen it published."""
    app = application(BROADCAST)
    batch = Batch("o", group_key("g"), 0, [Item(7, "t", "c", b"x", {})])
    ids = []
    async with connect(app), Viewer(on_group("g")) as viewer:
        for meta in ({}, {}, {TRAIL: "t1"}, {TRAIL: "t" * (MAX_ID + 1)}, {TRAIL: 5}):
            item = batch.items[0]._replace(meta=dict(meta))
            get_hub().groups.deliver(batch._replace(items=[item]))
            [record] = await viewer.seen(1)
            ids.append(record["id"])
    assert ids[2] == "t1" and set(ids[:2] + ids[3:]) == {ids[0]}


async def test_publications_of_a_history_are_shown_as_well():
    rules = [group("g", history=History(size=9, ttl=60))]
    app = application(BROADCAST, group_rules=rules)
    async with connect(app) as ann, connect(app) as bob, Viewer(on_group("g")) as viewer:
        await ann.send("a")
        assert await bob.receive() == "a"
        published, grouped = await viewer.seen(2)
        assert published["id"] == grouped["id"] and grouped["members"] == 1


async def test_messages_of_one_batch_are_shown_one_by_one():
    app = application(BROADCAST)
    async with connect(app) as ann, Viewer(on_group("g")) as viewer:
        some = [Item(n, "t", "c", b"%d" % n, {}) for n in range(3)]
        get_hub().groups.deliver(Batch("o", group_key("g"), 0, some))
        records = await viewer.seen(3)
        assert [record["in"]["text"] for record in records] == ["0", "1", "2"]
        assert len({record["id"] for record in records}) == 3
        assert [await ann.receive() for _ in some] == ["0", "1", "2"]


# Other chains


async def test_the_events_of_all_chains_are_shown():
    def look(web_socket_instance, data):
        pass

    bases = WebSocketConnectFilter, WebSocketConsumerFilter, WebSocketDisconnectFilter
    app = application(*(message_filter(look, base) for base in bases))
    async with connect(app) as ann, Viewer(on_route("/chat/")) as viewer:
        client = await connect(app, "/chat/?password=abcdef")
        await client.close()
        ann.connection.queue.put({"type": "own"})
        records = await viewer.seen(3)
    told = {record["chain"]: record for record in records}
    assert told.keys() == {"connect", "disconnect", "consumer"}
    assert told["connect"]["in"] == {
        "kind": "handshake",
        "size": None,
        "text": "/chat/?password=***",
    }
    assert told["disconnect"]["in"] == {"kind": "none", "size": 0}
    assert told["consumer"]["in"]["text"] == '{"type":"own"}'
    assert told["connect"]["connection"] == told["disconnect"]["connection"]
    assert told["consumer"]["connection"] is None
    assert len({record["id"] for record in records}) == 3


async def test_what_a_filter_publishes_in_a_thread_belongs_to_its_message():
    def spread(web_socket_instance, data):
        web_socket_instance.publish(data)

    app = application(message_filter(spread, blocking=True))
    async with (
        connect(app) as ann,
        connect(app),
        Viewer(on_route("/chat/")) as viewer,
    ):
        await ann.send("a")
        records = await viewer.seen(3)
        assert len({record["id"] for record in records}) == 1
        assert {record["is"] for record in records} == {"chain", "publish"}
        assert current_id() != records[0]["id"]


async def test_two_tees_see_the_same_ids():
    app = application(EXTEND, BROADCAST)
    async with (
        connect(app) as ann,
        connect(app),
        Viewer(on_route("/chat/")) as one,
        Viewer(on_group("g")) as other,
        Viewer(on_connection(ann.connection.id)) as third,
    ):
        await ann.send("a")
        seen = [*await one.seen(4), *await other.seen(2), *await third.seen(4)]
        assert len({record["id"] for record in seen}) == 1


async def test_what_a_viewer_skips_is_left_out():
    app = application(BROADCAST)
    async with connect(app) as ann, connect(app) as bob:
        skip = [ann.connection.id]
        async with Viewer(on_route("/chat/"), skip=skip) as viewer:
            await ann.send("of the viewer")
            assert await bob.receive() == "of the viewer"
            await bob.send("of bob")
            records = await viewer.seen(4)
        told = {(record["is"], record["in"]["text"]) for record in records}
        # That it was delivered is about the group.
        assert told == {("chain", "of the viewer"), ("chain", "of bob"), ("publish", "of bob")}


# Bounds


async def test_a_viewer_gets_as_many_as_it_asked_for():
    app = application(SHOUT)
    async with connect(app) as ann:
        async with limited(), Tee(on_route("/chat/"), messages=2) as view:
            assert (await anext(view))["is"] == "begin"
            for text in "abc":
                await ann.send(text)
            records = [record async for record in view]
            assert [record["is"] for record in records if record["is"] != "end"] == ["chain"] * 2
            assert view.processes == {process_name()}
        await ended()


async def test_a_tee_ends_when_its_time_is_over():
    app = application(SHOUT)
    async with connect(app), limited(), Tee(on_route("/chat/"), seconds=0.2) as view:
        assert [record["is"] async for record in view][:1] == ["begin"]
    await ended()


async def test_a_process_ends_a_tee_whose_viewer_has_died(monkeypatch):
    monkeypatch.setattr(taps, "LEASE", 0.05)
    app = application(SHOUT)
    async with connect(app):
        view = Tee(on_route("/chat/"))
        await view.__aenter__()
        async with limited():
            await anext(view)
            view._renewing.cancel()  # it is no more
            record = await anext(view)
            assert (record["is"], record["why"]) == ("end", "time")
            await until(lambda: not taps.taps)
        await view._listener.__aexit__(None, None, None)


async def test_bytes_are_bounded():
    app = application(SHOUT)
    async with connect(app) as ann, Viewer(on_route("/chat/"), total=3000) as viewer:
        for _ in range(9):
            await ann.send("x" * 1000)
        records = []
        while not records or records[-1]["is"] != "end":
            records += await viewer.seen(1)
        assert records[-1]["why"] == "bytes" and len(records) < 5
        # Renewed, it stays over.
        await viewer.tee._send(viewer.tee._spec.event())
        await get_hub().link.round_trip()
        assert not watching.taps


@pytest.mark.parametrize(("kind", "each"), [("route", 1), ("connection", 2)])
async def test_what_comes_faster_than_it_is_sent_is_dropped_and_counted(monkeypatch, kind, each):
    monkeypatch.setattr(taps, "MAX_FLUSH", 3)
    app = application(SHOUT)
    async with connect(app) as ann, connect(app):
        subject = on_route("/chat/") if kind == "route" else on_connection(ann.connection.id)
        async with Viewer(subject) as viewer:
            for _ in range(9):
                await ann.send("x")
            await ann.settle()
            records = []
            while not records or records[-1]["is"] != "lost":
                records += await viewer.seen(1)
            told = [record["is"] in ("chain", "frame") for record in records].count(True)
            assert records[-1]["dropped"] + told == 9 * each and told <= 3
            assert viewer.tee.dropped == records[-1]["dropped"]


async def test_a_slow_viewer_misses_records_and_knows_how_many(monkeypatch):
    monkeypatch.setattr(tee, "ROOM", 2)
    app = application(SHOUT)
    async with connect(app) as ann, Viewer(on_route("/chat/")) as viewer:
        for _ in range(5):
            await ann.send("x")
        await until(lambda: viewer.tee.dropped == 3)
        assert [record["is"] for record in await viewer.seen(2)] == ["chain"] * 2


async def test_a_long_record_is_shortened(monkeypatch):
    monkeypatch.setattr(taps, "MAX_RECORD", 2000)
    app = application(SHOUT)
    async with connect(app) as ann, Viewer(on_route("/chat/")) as viewer:
        await ann.send("x" * 1500)
        [record] = await viewer.seen(1)
        assert record["in"] == {"kind": "text", "size": 1500, "text": "x" * 256, "cut": True}


async def test_a_process_has_so_many_tees_at_most(monkeypatch):
    monkeypatch.setattr(taps, "MAX_TEES", 1)
    app = application(SHOUT)
    async with (
        connect(app),
        Viewer(on_route("/chat/")),
        limited(),
        Tee(on_route("/chat/")) as other,
    ):
        record = await anext(other)
        assert (record["is"], record["why"]) == ("end", "too many")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seconds": 601}, "601"),
        ({"seconds": -1}, "-1"),
        ({"messages": 10_001}, "10001"),
        ({"size": 16_385}, "16385"),
        ({"total": 1 << 25}, str(1 << 25)),
    ],
)
async def test_a_bound_above_its_limit_is_refused(options, name):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: {name} is not between 0 and"):
        Tee(on_group("g"), **options)


# Control events


def wanted(**changed):
    return {
        "on": ["group", "g", ""],
        "left": 5,
        "messages": 5,
        "size": 5,
        "total": 500,
        "payloads": True,
        "skip": [],
        **changed,
    }


@pytest.mark.parametrize(
    ("key", "spec"),
    [
        ("a" * 31, wanted()),
        ("../" + "a" * 29, wanted()),
        (7, wanted()),
        ("a" * 32, wanted(on=["world", "g", ""])),
        ("a" * 32, wanted(on=["group", 7, ""])),
        ("a" * 32, wanted(left=1e9)),
        ("a" * 32, wanted(messages="5")),
        ("a" * 32, {}),
        ("a" * 32, 5),
    ],
)
async def test_what_no_viewer_sends_begins_nothing(key, spec):
    async with connect(application(BROADCAST)):
        with pytest.raises((KeyError, TypeError, ValueError)):
            receive(get_hub(), {"nonce": key, "tee": spec})
        assert not taps.taps and not watching.taps


async def test_an_end_without_a_beginning_does_nothing():
    async with connect(application(BROADCAST)):
        receive(get_hub(), {"nonce": "a" * 32, "tee": None})
        assert not taps.taps


async def test_of_two_event_loops_of_a_process_one_shows_a_tee():
    """The second one does once the first has ended."""
    event = {"nonce": "a" * 32, "tee": wanted()}
    async with connect(application(BROADCAST)):
        receive(get_hub(), event)
        [tap] = taps.taps.values()

        class Other:
            over = False
            loop = get_hub().loop
            connections, views, groups = {}, {}, get_hub().groups

        receive(Other, event)
        assert [*taps.taps.values()] == [tap]
        monkeyed = tap.hub
        tap.hub = type("Ended", (), {"over": True, "loop": monkeyed.loop})
        receive(Other, event)
        [new] = taps.taps.values()
        assert new.hub is Other and not tap._is_on
        new.end("closed")
        Other.over = True


async def test_a_tee_of_a_hub_that_has_ended_ends(monkeypatch):
    monkeypatch.setattr(taps, "LEASE", 0.05)
    async with connect(application(BROADCAST)):
        receive(get_hub(), {"nonce": "a" * 32, "tee": wanted()})
    await until(lambda: not taps.taps)


async def test_after_a_fork_there_are_none():
    async with connect(application(BROADCAST)):
        receive(get_hub(), {"nonce": "a" * 32, "tee": wanted()})
        [tap] = taps.taps.values()
        taps._forget()
        assert not taps.taps and watching.taps == ()
        watching.taps = (tap,)
        tap.end("closed")


async def test_while_records_are_on_their_way_the_next_ones_wait():
    app = application(SHOUT)
    async with connect(app) as ann, Viewer(on_route("/chat/")) as viewer:
        hub = get_hub()
        post, held = hub.link.post, []

        def hold(batch, on_sent):
            if batch.key.startswith("fws.tee."):
                held.append((batch, on_sent))
            else:
                post(batch, on_sent)

        hub.link.post = hold
        await ann.send("a")
        await until(lambda: held)
        [tap] = taps.taps.values()
        outbox = tap._outbox
        await ann.send("b")
        await until(lambda: outbox._waiting or len(held) > 1)
        # Nothing will send them, either.
        assert len(held) == 1 and outbox._timer is None
        hub.link.post = post
        post(*held[0])
        texts = [record["in"]["text"] for record in await viewer.seen(2)]
        assert texts == ["a", "b"]


async def test_records_of_another_thread_are_told_on_the_loop_of_the_hub():
    async with connect(application(BROADCAST)), Viewer(on_group("g")) as viewer:
        [tap] = watching.taps
        thread = threading.Thread(target=tap.tell, args=({"is": "chain", "at": 1, "n": 1},))
        thread.start()
        [record] = await viewer.seen(1)
        assert record["n"] == 1
        thread.join()
        tap.end("closed")
        tap.tell({"is": "chain", "at": 2, "n": 2})
        [record] = await viewer.seen(1)
        assert record["is"] == "end"


async def test_a_tee_that_fails_costs_no_message(monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("on purpose")

    app = application(EXTEND, SHOUT, BROADCAST)
    async with (
        connect(app) as ann,
        connect(app) as bob,
        Viewer(on_connection(ann.connection.id)),
        Viewer(on_group("g")),
    ):
        monkeypatch.setattr("filtered_websocket.console.records.Shown.payload", fail)
        await ann.send("hi")
        assert await bob.receive() == "HI!"
        await bob.send("hi")
        assert await ann.receive() == "HI!"
        monkeypatch.undo()
    assert "cannot watch an event" in caplog.text


async def test_an_outage_of_the_viewer_is_told():
    async with connect(application(BROADCAST)), Viewer(on_group("g")) as viewer:
        viewer.tee._lost(ConnectionError())
        viewer.tee._back(1.0)
        records = await viewer.seen(2)
        assert [(record["is"], record["lost"]) for record in records] == [
            ("outage", True),
            ("outage", False),
        ]


async def test_where_the_layer_does_not_answer_there_is_no_tee(monkeypatch):
    async def no(self, key):
        return False

    monkeypatch.setattr("filtered_websocket.api.listener.Listener.join", no)
    with pytest.raises(TimeoutError, match=r"the channel layer \(Redis\) does not answer"):
        await Tee(on_group("g")).__aenter__()


async def test_what_several_processes_tell_is_bounded_as_well():
    async with connect(application(BROADCAST)):
        async with limited(), Tee(on_group("g"), messages=2) as view:
            items = [Item(n, "j", "", b'{"is":"frame","at":1}', {}) for n in range(3)]
            view._receive(Batch("o", tee.results_key(view._key), 0, items))
            assert [record["is"] async for record in view if record["is"] != "begin"] == [
                "frame",
                "frame",
            ]
        await ended()


async def test_what_is_not_its_subject_is_not_shown():
    """Another group, a control event, a chain of no pipeline."""
    app = application(BROADCAST, groups=("g", "h"))
    async with connect(app) as ann, Viewer(on_group("g")) as viewer:
        await apublish("of h", "h")
        assert await ann.receive() == "of h"
        recheck("token", 5)
        assert Chain("message", [SHOUT]).run(None, b"x") == b"X"
        await apublish("of g", "g")
        assert {record["in"]["text"] for record in await viewer.seen(2)} == {"of g"}


async def test_a_tee_remembers_so_many_trails(monkeypatch):
    monkeypatch.setattr(taps, "MAX_TRAILS", 2)
    app = application(BROADCAST)
    async with connect(app) as ann, connect(app), Viewer(on_route("/chat/")) as viewer:
        for text in "abc":
            await ann.send(text)
        await viewer.seen(9)
        [tap] = watching.taps
        assert len(tap._trails) == 2


async def test_a_tee_goes_on_until_its_last_renewal_is_old():
    async with connect(application(BROADCAST)), Viewer(on_group("g")):
        [tap] = watching.taps
        timer = tap._timer
        tap._check()  # as a timer that was set before it was renewed
        assert watching.taps == (tap,) and tap._timer is not timer
        timer.cancel()


async def test_batches_of_other_groups_are_not_the_tees():
    async with connect(application(BROADCAST)), Viewer(on_group("g")) as viewer:
        viewer.tee._receive(Batch("o", group_key(CONTROL), 0, [Item(1, "j", "", b"{}", {})]))
        assert not viewer.tee._records
        assert json.dumps(viewer.tee._spec.event())
