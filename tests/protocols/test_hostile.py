"""What a hostile client of the Centrifuge protocol cannot do."""

import asyncio
import json
import logging

import pytest
from django.contrib.auth.models import User

from filtered_websocket import WebSocketMessageFilter
from filtered_websocket.codecs import commands
from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF, Json
from filtered_websocket.connections import reading
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group, personal
from filtered_websocket.history import ahistory
from filtered_websocket.protocols import requests
from filtered_websocket.publish import apublish
from filtered_websocket.testing import Closed, connect
from filtered_websocket.transports import scheduling
from filtered_websocket.transports.scheduling import LONGEST_TURN, TURN

from .clients import speak

KEPT = History(size=10, ttl=60)
OPEN = {"publish": True, "see": True, "presence": True, "history": KEPT}
RULES = [group("<path:name>", **OPEN), personal(**OPEN)]


@pytest.mark.parametrize("channel", ["user:7", "user:7\0x", "token:secret", "#7", "#"])
@pytest.mark.parametrize("command", ["subscribe", "publish", "presence", "history"])
async def test_no_name_leads_to_what_belongs_to_others(channel, command):
    async with (
        speak(rules=RULES, user=User(pk=7, username="ann")) as ann,
        speak(rules=RULES, user=User(pk=5, username="bob")) as bob,
    ):
        assert await bob.error(**{command: {"channel": channel, "data": 1}}) == 103
        assert await ann.client.received_nothing()


async def test_what_a_client_says_of_itself_is_not_told_to_others():
    async with speak(rules=RULES) as ann:
        forged = {"client": "somebody", "user": "1", "conn_info": {"admin": True}}
        await ann.ask(subscribe={"channel": "room", "info": forged, "chan_info": forged})
        publish = {"channel": "room", "data": 1, "info": forged, "offset": 99, "tags": {}}
        await ann.say({"id": 9, "publish": publish})
        heard = [await ann.hear(), await ann.hear()]
        push = next(one["push"] for one in heard if "push" in one)
        assert push["pub"] == {"data": 1, "offset": 1, "info": {"client": ann.id}}


async def test_a_client_recovers_no_group_that_it_is_not_subscribed_to():
    async with speak(rules=RULES, connects=False) as ann:
        await apublish(1 * [5], "room")
        place = {"recover": True, "epoch": "", "offset": 0}
        subs = dict.fromkeys(["room", "#7", "user:7", "token:x", "never"], place)
        reply = await ann.ask(connect={"subs": subs})
        assert "subs" not in reply["connect"]
    async with speak(rules=RULES, connects=False) as ann:
        await ann.say({"id": 1, "connect": {"subs": {"": place}}})
        assert await ann.closed() == 3501


@pytest.mark.parametrize("offset", [2**53, 2**63, 2**64 - 1])
async def test_positions_of_any_size_are_positions(offset):
    async with speak(rules=RULES) as ann:
        place = {"epoch": "x" * 1000, "offset": offset}
        wanted = {"channel": "room", "recover": True, **place}
        assert "recovered" not in (await ann.ask(subscribe=wanted))["subscribe"]
        assert await ann.error(history={"channel": "room", "since": place}) == 112
        since = {"offset": offset}
        for reverse in (False, True):
            wanted = {"channel": "room", "limit": 5, "since": since, "reverse": reverse}
            assert (await ann.ask(history=wanted))["history"]["offset"] == 0


class Clock:
    """The time that work takes, as the package reads it: none but what a test says."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (reading, scheduling):
            monkeypatch.setattr(module, "time", self)

    def perf_counter(self):
        return self.now

    def work(self):
        """``PART`` times this take a turn, and a little more, as the sum is rounded."""
        self.now += 1.001 * scheduling.TURN / PART


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


async def turns_of_others(client, *frames, wait=True):
    """
    How often others have their turn until all these frames are handled: those that ``wait`` for
    it, or nobody does anything in it.
    """
    turns, is_over = 0, False

    def count():
        nonlocal turns
        turns += 1
        if wait:
            scheduling.served.last = "another"
        if not is_over:
            asyncio.get_running_loop().call_soon(count)

    for frame in frames:
        await client.send(frame)
    count()
    await client.settle()
    is_over = True
    return turns


#: So many messages, of which each takes a fourth of the time that a client may take at once.
MESSAGES, PART = 400, 4
#: How often others then have their turn.
TURNS = MESSAGES // PART * scheduling.YIELD_ITERATIONS
SEND = '{"send":{"data":1}}'


@pytest.mark.repeats
@pytest.mark.parametrize("how", ["one frame", "many frames", "a plain route"])
@pytest.mark.parametrize("waits", [True, False], ids=["beside others", "alone"])
async def test_a_flood_gets_no_longer_turns_than_one_of_a_plain_route(clock, how, waits):
    quiet = 0.0 if waits else 3600.0

    class Works(WebSocketMessageFilter):
        @classmethod
        def filter(cls, web_socket_instance, message):
            nonlocal quiet
            clock.work()
            clock.now += quiet
            quiet = 0.0

    frames = ["\n".join([SEND] * MESSAGES)] if how == "one frame" else [SEND] * MESSAGES
    if how == "a plain route":
        async with connect(FilteredWebSocketConsumer.as_asgi(filters=[Works])) as ann:
            turns = await turns_of_others(ann, *frames, wait=waits)
    else:
        async with speak([Works], RULES) as ann:
            turns = await turns_of_others(ann.client, *frames, wait=waits)
    # Alone its turns are longer, up to the longest.
    assert turns >= TURNS if waits else TURNS > 2 * turns > TURNS * TURN / LONGEST_TURN


@pytest.mark.repeats
@pytest.mark.parametrize("count", [MESSAGES, commands.MOST_DECODED + MESSAGES])
async def test_a_frame_that_takes_long_to_decode_is_decoded_in_turns(clock, count, monkeypatch):
    decode = Json.decode

    def slow(*frame):
        for command in decode(*frame):
            clock.work()
            yield command

    async with speak(rules=RULES) as ann:
        monkeypatch.setattr(Json, "decode", slow)
        turns = await turns_of_others(ann.client, "\n".join([SEND] * count))
        # The first ones are decoded at once; what is not kept is decoded twice.
        decoded = count - commands.AT_ONCE + (count if count > commands.MOST_DECODED else 0)
        assert turns >= decoded // PART * scheduling.YIELD_ITERATIONS


@pytest.mark.parametrize("form", [JSON, PROTOBUF], ids=["json", "protobuf"])
async def test_a_message_without_an_answer_is_none_in_both_formats(form, caplog):
    codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
    seen = []

    class Sees(WebSocketMessageFilter):
        @classmethod
        def filter(cls, web_socket_instance, message):
            seen.append(message)

    def frame(command):
        return json.dumps(command) if form is JSON else codecs.encode_commands([command])

    data = 5 if form is JSON else "NQ=="
    async with speak([Sees], RULES, connects=False, subprotocols=[form.subprotocol]) as ann:
        await ann.client.send(frame({"id": 1, "connect": {}}))
        await ann.client.receive()
        await ann.client.send(frame({"send": {"data": data}}))
        assert await ann.client.received_nothing()
    assert seen == [5]
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []


async def test_what_takes_no_time_is_done_at_once(clock):
    async with speak(rules=RULES) as ann:
        assert await turns_of_others(ann.client, "\n".join([SEND] * MESSAGES)) < 100


class Counted(dict):
    """A command; how many there are, and the most there were."""

    alive = most = 0

    def __init__(self, command):
        super().__init__(command)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


@pytest.mark.parametrize("count", [100, 101, 1000])
async def test_of_a_frame_so_many_commands_at_most_are_kept(count, monkeypatch):
    decode = Json.decode
    monkeypatch.setattr(Json, "decode", lambda *frame: map(Counted, decode(*frame)))
    monkeypatch.setattr(commands, "MOST_DECODED", 100)
    async with speak(rules=RULES) as ann:
        Counted.most = 0
        await ann.say(*[{"id": number, "ping": {}} for number in range(1, count + 1)])
        for number in range(1, count + 1):
            assert await ann.hear() == {"id": number, "ping": {}}
        # Besides those, the one that is handled and the one that is read.
        assert 100 <= Counted.most <= 102


async def test_a_history_is_read_by_pages_of_a_bounded_size(monkeypatch, settings):
    async with speak(rules=RULES) as ann:
        for number in range(5):
            await ann.ask(publish={"channel": "room", "data": f"{number:500}"})
        monkeypatch.setattr(requests, "MAX_PAGE", 4)
        for limit in (-1, 4, 2**31 - 1):
            found = (await ann.ask(history={"channel": "room", "limit": limit}))["history"]
            assert len(found["publications"]) == 4 and found["offset"] == 5
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 4_000}
    async with speak(rules=RULES) as ann:
        offset, pages = 0, 0
        while offset < 5:
            since = {"offset": offset}
            wanted = {"channel": "room", "limit": -1, "since": since}
            found = (await ann.ask(history=wanted))["history"]["publications"]
            assert 1 <= len(found) <= 3 and found[0]["offset"] == offset + 1
            offset, pages = found[-1]["offset"], pages + 1
        assert pages >= 2


# Rates


def limited(rules=RULES, also=(), **options):
    name = "filtered_websocket.filters.rate_limit"
    return speak([{"NAME": name, "OPTIONS": {"rate": "3/h", **options}}, *also], rules)


@pytest.mark.parametrize("action", ["drop", "answer"])
async def test_every_command_counts(action):
    async with limited(action=action) as ann:
        assert await ann.ask(ping={}) == {"ping": {}}
        assert await ann.error(subscribe={"channel": "#7"}) == 103
        assert await ann.ask(publish={"channel": "room", "data": 1}) == {"publish": {}}
        for request in ({"ping": {}}, {"publish": {"channel": "room", "data": 1}}, {"rpc": {}}):
            reply = await ann.ask(**request)
            assert reply["error"] == {
                "code": 111,
                "message": "too many requests",
                "temporary": True,
            }
        assert await ann.client.received_nothing()


async def test_messages_without_an_answer_count_too():
    seen = []

    class Sees(WebSocketMessageFilter):
        @classmethod
        def filter(cls, web_socket_instance, message):
            seen.append(message)

    async with limited(also=[Sees]) as ann:
        await ann.say(*[{"send": {"data": number}} for number in range(9)])
        assert await ann.error(ping={}) == 111
    assert seen == [0, 1, 2]


async def test_who_sends_too_much_may_be_closed():
    async with limited(action="close") as ann:
        await ann.say(*[{"id": number, "rpc": {}} for number in range(1, 9)])
        assert await ann.closed() == 3013


# Frames that are none


MALFORMED = [
    b"",
    b" ",
    b"\n\n",
    b"\x0b",
    "\u2003".encode(),
    b"\xff",
    b"nonsense",
    b"[]",
    b"null",
    b"5",
    b'"text"',
    b'{"id":1,"ping":{}}{"id":2,"ping":{}}',
    b'{"id":1,"ping":{}},{"id":2,"ping":{}}',
    b'{"id":1,"ping":{}}\nnonsense',
    b'{"id":-1,"ping":{}}',
    b'{"id":4294967296,"ping":{}}',
    b'{"id":"1","ping":{}}',
    b'{"id":true,"ping":{}}',
    b'{"id":1.5,"ping":{}}',
    b'{"id":1,"ping":[]}',
    b'{"id":1,"ping":null}',
    b'{"id":1,"id":2,"ping":{}}',
    b'{"id":1,"nothing":{}}',
    b'{"id":0,"ping":{}}',
    b'{"id":1,"subscribe":{"channel":5}}',
    b'{"id":1,"subscribe":{"channel":"a","recover":1}}',
    b'{"id":1,"subscribe":{"channel":"a","offset":-1}}',
    b'{"id":1,"subscribe":{"channel":"a","data":NaN}}',
    b'{"id":1,"subscribe":{"channel":"\\ud800"}}',
    b'{"id":1,"history":{"channel":"a","since":[]}}',
    b'{"id":1,"rpc":{"data":' + b"[" * 100 + b"]" * 100 + b"}}",
    b'{"id":1,"rpc":{"data":' + b"[" * 100_000 + b"}}",
    b'{"id":1,"rpc":{"data":' + b"9" * 5_000 + b"}}",
]


async def only_close(client, frame):
    """The code of the close; nothing may come before it."""
    await client.client.send(frame)
    with pytest.raises(Closed):
        pytest.fail(f"{await client.client.receive()!r} came")
    return await client.closed()


@pytest.mark.parametrize("frame", MALFORMED, ids=lambda frame: repr(frame[:40]))
async def test_a_malformed_frame_is_answered_by_3501_alone(frame, caplog):
    try:
        message = frame.decode()
    except UnicodeDecodeError:
        message = frame
    async with speak(rules=RULES) as ann:
        assert await only_close(ann, message) == 3501
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []


@pytest.mark.parametrize("count", [1, commands.MOST_DECODED + 1])
async def test_nothing_of_a_malformed_frame_is_done(count):
    async with speak(rules=RULES) as ann:
        publish = json.dumps({"id": 1, "publish": {"channel": "room", "data": 1}})
        frame = f"{publish}\n" * count + "nonsense"
        assert await only_close(ann, frame) == 3501
        assert (await ahistory("room")).publications == []


BROKEN = [
    b"",
    b"\x01",
    b"\x80",
    b"\xff\xff\xff\xff\x7f",
    b"\xff" * 10,
    b"\x02\x08",
    b"\x02\x08\x01\xff",
    b"\x05\x08\x01\x22\x7f\x00",
    b"\x04\x08\x01\x62\x01",
    b"\x02\x0b\x0b",
    b"\x06\x08\x01\x22\x02\x0a\xff",
    b"\x02\x08\x01",
]


@pytest.mark.parametrize("frame", BROKEN, ids=repr)
async def test_a_malformed_frame_of_protobuf_is_answered_by_3501_alone(frame, caplog):
    codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
    async with speak(rules=RULES, connects=False, subprotocols=["centrifuge-protobuf"]) as ann:
        await ann.client.send(codecs.encode_commands([{"id": 1, "connect": {}}]))
        await ann.client.receive()
        assert await only_close(ann, frame) == 3501
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []


@pytest.mark.parametrize("form", [JSON, PROTOBUF], ids=["json", "protobuf"])
async def test_who_comes_back_with_too_many_subscriptions_is_answered_by_3501_alone(form):
    command = {"id": 1, "connect": {"subs": {f"room {number}": {} for number in range(1001)}}}
    frame = json.dumps(command)
    if form is PROTOBUF:
        codecs = pytest.importorskip("centrifuge.codecs")._ProtobufCodec
        frame = codecs.encode_commands([command])
    async with speak(rules=RULES, connects=False, subprotocols=[form.subprotocol]) as ann:
        assert await only_close(ann, frame) == 3501


@pytest.mark.parametrize("frame", ["text", b"\x00"])
async def test_the_kind_of_frame_is_that_of_the_format(frame):
    offered = ["centrifuge-protobuf"] if frame == "text" else []
    async with speak(rules=RULES, connects=False, subprotocols=offered) as ann:
        assert await only_close(ann, frame) == 3501
