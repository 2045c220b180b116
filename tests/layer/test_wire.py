"""
What crosses the channel layer, byte for byte.

During an update old and new processes share the layer. A change here needs a new version of
the envelope, or names that old processes do not know.
"""

import asyncio
import json
import re

import msgpack
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from filtered_websocket.api import control
from filtered_websocket.api.listener import Listener
from filtered_websocket.codecs.frames import Encoded
from filtered_websocket.console import asking, tee
from filtered_websocket.console.tee import Spec, Subject, Tee
from filtered_websocket.console.watching import Trail, trail_event, watching
from filtered_websocket.disconnect import (
    disconnect_connection,
    disconnect_session,
    disconnect_token,
    disconnect_user,
    subscribe,
)
from filtered_websocket.hub import registry
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import (
    CONTROL,
    HISTORY_VERSION,
    VERSION,
    BadEnvelope,
    Batch,
    Item,
    group_key,
    seal,
    unseal,
)
from filtered_websocket.layer.health import Probes
from filtered_websocket.metrics.trace_context import carry
from filtered_websocket.publishing import items
from filtered_websocket.publishing.items import encoded_item, new_item
from filtered_websocket.testing import connect

from ..waiting import until

BATCH = Batch(
    "0123456789abcdef",
    group_key("default"),
    7,
    [
        Item(1, "t", "c1", "é".encode(), {}),
        Item(2, "b", "", b"\xff", {"x": ["a", "b"]}),
        Item(3, "j", "c2", b'{"a":1}', {}),
    ],
)


@pytest.mark.parametrize(
    ("group", "key"),
    [
        ("default", "fws.g.37a8eec1ce19687d132fe29051dca629"),
        ("Räume/1\n", "fws.g.acf199ee9390084bd42633007cc9473c"),
        (CONTROL, "fws.house"),
    ],
)
def test_a_group_has_the_name_that_it_always_had(group, key):
    assert group_key(group) == key


#: ``BATCH``, as msgpack writes its envelope.
BYTES = (
    "85a17601a16fb030313233343536373839616263646566a167d9266677732e672e3337613865656331636531"
    "393638376431333266653239303531646361363239a17307a16d939501a174a26331c402c3a9809502a162"
    "a0c401ff81a17892a161a1629503a16aa26332c4077b2261223a317d80"
)


def test_an_envelope_has_the_bytes_that_it_always_had():
    assert msgpack.packb(seal(BATCH)).hex() == BYTES


def test_what_an_old_process_sent_is_read():
    assert unseal(msgpack.unpackb(bytes.fromhex(BYTES))) == BATCH


#: ``BATCH`` in a history, from offset 7 on. What Redis writes itself has offsets of nine bytes.
KEPT_BYTES = (
    "86a17602a16fb030313233343536373839616263646566a167d9266677732e672e3337613865656331636531"
    "393638376431333266653239303531646361363239a16d939501a174a26331c402c3a9809502a162a0c401ff"
    "81a17892a161a1629503a16aa26332c4077b2261223a317d80a165b066656463626139383736353433323130"
    "a17307"
)
KEPT = BATCH._replace(epoch="fedcba9876543210")


def test_a_batch_of_a_history_has_the_bytes_that_it_always_had():
    assert msgpack.packb(seal(KEPT)).hex() == KEPT_BYTES
    wide = KEPT_BYTES[:-2] + "cf" + "07".zfill(16)
    for written in (KEPT_BYTES, wide):
        assert unseal(msgpack.unpackb(bytes.fromhex(written))) == KEPT


def test_a_process_without_histories_skips_it():
    """It reads version 1 only, and counts another as no envelope."""
    assert msgpack.unpackb(bytes.fromhex(KEPT_BYTES))["v"] != VERSION
    for version in (0, HISTORY_VERSION + 1):
        with pytest.raises(BadEnvelope, match="envelope version"):
            unseal({**seal(BATCH), "v": version})


@pytest.mark.parametrize(
    ("message", "options", "item"),
    [
        ("é", {"sender": "c1", "exclude": ["c1", "c2"]}, ("t", "c1", "é".encode())),
        (b"a", {"text": True}, ("t", "", b"a")),
        (b"\xff", {"text": True}, ("b", "", b"\xff")),
        ({"a": 1}, {}, ("j", "", b'{"a":1}')),
    ],
)
def test_a_message_has_the_kind_and_the_key_of_the_excluded_that_it_always_had(
    message, options, item
):
    meta = {"x": options["exclude"]} if "exclude" in options else {}
    assert new_item(message, **options)[1:] == (*item, meta)


#: A traced message, in the same envelope: W3C Trace Context, as text.
TRACED = Item(
    2,
    "t",
    "",
    b"hi",
    {"x": ["a"], "c": f"00-{'a' * 32}-{'b' * 16}-01", "cs": "vendor=value"},
)
TRACED_BYTES = (
    "85a17601a16fb030313233343536373839616263646566a167d9266677732e672e3337613865656331636531"
    "393638376431333266653239303531646361363239a17307a16d919502a174a0c402686983a17891a161a163"
    f"d93730302d{'61' * 32}2d{'62' * 16}2d3031a26373ac76656e646f723d76616c7565"
)


def test_a_traced_message_has_two_keys_more_which_other_processes_need_not_know():
    batch = BATCH._replace(items=[TRACED])
    assert msgpack.packb(seal(batch)).hex() == TRACED_BYTES
    assert unseal(msgpack.unpackb(bytes.fromhex(TRACED_BYTES))) == batch
    parent = NonRecordingSpan(
        SpanContext(
            int("a" * 32, 16),
            int("b" * 16, 16),
            False,
            TraceFlags(1),
            TraceState([("vendor", "value")]),
        )
    )
    assert carry(TRACED._replace(meta={"x": ["a"]}), parent) == TRACED


async def test_a_process_that_traces_nothing_delivers_what_is_traced():
    async with connect([]) as ann:
        get_hub().publish_queue.put(ann.connection.home, TRACED)
        assert await ann.receive() == "hi"


class Layer:
    """Keeps what is sent to it."""

    def __init__(self):
        self.sent = []

    async def group_send(self, group, message):
        self.sent.append((group, message))


async def test_a_probe_has_the_form_that_it_always_had():
    layer = Layer()
    probes = Probes(layer, lambda error: None)
    await probes.send()
    [(group, message)] = layer.sent
    assert re.fullmatch(r"fws\.probe\.[0-9a-f]{16}\.0", group)
    assert list(message) == ["v", "probe"] and message["v"] == 1
    assert re.fullmatch(re.escape(group) + r" [0-9a-f]{16}", message["probe"])


@pytest.mark.parametrize(
    ("send", "payload"),
    [
        (
            lambda: disconnect_user(5),
            '{"is":"close","kind":"user","id":"5","code":4401,"reason":"disconnected by the site"}',
        ),
        (
            lambda: disconnect_token(7, 4403, "gone"),
            '{"is":"close","kind":"token","id":"7","code":4403,"reason":"gone"}',
        ),
        (
            lambda: disconnect_session("abc"),
            '{"is":"close","kind":"session","id":'
            '"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",'
            '"code":4401,"reason":"logged out"}',
        ),
        (
            lambda: subscribe(5, "room"),
            # Earlier versions take it for a change of a row that nobody depends on.
            '{"is":"changed","kind":"subscribe","id":"5","group":"room","n":"0011223344556677"}',
        ),
        (
            lambda: disconnect_connection("6ba7"),
            '{"is":"close","kind":"connection","id":"6ba7","code":4401,'
            '"reason":"disconnected by the site"}',
        ),
        (
            lambda: control.change("unsubscribe", "5", "room", "6ba7"),
            '{"is":"changed","kind":"unsubscribe","id":"5","client":"6ba7",'
            '"group":"room","n":"0011223344556677"}',
        ),
        (
            lambda: control.close("user", "", 4000, "", "6ba7", ["6ba8"]),
            '{"is":"close","kind":"user","id":"","client":"6ba7",'
            '"code":4000,"reason":"","keep":["6ba8"]}',
        ),
        (
            lambda: control.set_expiry("5", "", 7),
            '{"is":"changed","kind":"expiry","id":"5","at":7}',
        ),
        (lambda: control.recheck("token", 7), '{"is":"changed","kind":"token","id":"7"}'),
        (lambda: get_hub().send_control({"is": "sweep"}), '{"is":"sweep"}'),
        (
            lambda: get_hub().send_control({"is": "ask", "nonce": "n"}),
            '{"is":"ask","nonce":"n"}',
        ),
    ],
)
async def test_a_control_event_has_the_bytes_that_it_always_had(monkeypatch, send, payload):
    monkeypatch.setattr(control.secrets, "token_hex", lambda size: "0011223344556677"[: 2 * size])
    async with connect([]):
        hub = get_hub()
        batches = []
        monkeypatch.setattr(hub, "_link", Link(hub._link, batches))
        send()
        await hub.settled()
        # This process answers a question itself: that is another batch.
        batch, *_ = batches
        [item] = batch.items
        assert (batch.key, item.kind, item.sender, item.meta) == ("fws.house", "j", "", {})
        assert item.payload.decode() == payload
        assert json.loads(payload)["is"] in hub.grants._handlers
        monkeypatch.undo()


#: What asks all processes for a tee. Versions without tees take it for an answer to a question
#: that they have not asked.
TEE = (
    '{"is":"count","nonce":"0011223344556677","tokens":{},"tee":{"left":9.0,"messages":2,'
    '"size":3,"total":4,"payloads":true,"skip":["c1"],"on":["place","/","shout"]}}'
)


async def test_a_tee_has_the_bytes_that_it_always_had(monkeypatch):
    subject = Subject("place", "/", "shout")
    assert Spec.read(json.loads(TEE)["tee"]) == Spec(subject, 9.0, 2, 3, 4, True, ("c1",))
    monkeypatch.setattr(tee.secrets, "token_hex", lambda size: "0011223344556677")
    options = {"seconds": 9.0, "messages": 2, "size": 3, "total": 4, "skip": ["c1"]}
    made = Tee(subject, payloads=True, **options)
    sent = []
    monkeypatch.setattr(Listener, "send", lambda self, *call: sent.append(call) or done())
    await made._send(made._spec.event())
    await made._send(None)
    assert [(key, item.kind, item.payload.decode()) for key, item in sent] == [
        ("fws.house", "j", TEE),
        ("fws.house", "j", '{"is":"count","nonce":"0011223344556677","tokens":{},"tee":null}'),
    ]
    assert tee.results_key("0011223344556677") == "fws.tee.0011223344556677"


def done():
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


async def test_a_process_without_tees_ignores_one(monkeypatch):
    monkeypatch.setattr(registry, "told", {})
    async with connect([]):
        hub = get_hub()
        seen = hub.grants.events_seen
        hub.grants.receive(Batch("o", group_key(CONTROL), 0, [new_item(json.loads(TEE))]))
        assert hub.counts["bad_envelope"] == 0 and hub.grants.events_seen == seen


async def test_a_message_brings_the_id_of_its_trail_along_only_while_a_tee_is_on(monkeypatch):
    assert new_item("a").meta == encoded_item(Encoded("t", b"a"), "", "").meta == {}
    monkeypatch.setattr(items, "carriers", [watching._carry])
    token = trail_event.set(Trail("0011"))
    told = new_item("a", exclude=["c"], meta={"i": "{}"}).meta
    assert told == {"x": ["c"], "i": "{}", "w": "0011"}
    assert encoded_item(Encoded("t", b"a"), "", "").meta == {"w": "0011"}
    trail_event.reset(token)
    assert new_item("a").meta == {}


async def test_an_answer_to_a_count_has_the_bytes_that_it_always_had(monkeypatch):
    async with connect([]):
        hub = get_hub()
        batches = []
        monkeypatch.setattr(hub, "_link", Link(hub._link, batches))
        hub.grants._handle({"is": "ask", "nonce": "n"})
        await hub.settled()
        assert batches[0].items[0].payload == b'{"is":"count","nonce":"n","tokens":{}}'
        monkeypatch.undo()


#: What the console asks all processes, and the nonce of each.
QUESTIONS = [
    (
        lambda hub: control.ask_all(hub, {"node": True, "snapshot": {"of": "process"}}),
        '{"is":"ask","nonce":"00","node":true,"snapshot":{"of":"process"}}',
    ),
    (
        lambda hub: asking.ask(hub, "connections", limit=50, search="ann"),
        '{"is":"ask","nonce":"00","snapshot":{"of":"connections","limit":50,"search":"ann"}}',
    ),
]


@pytest.mark.parametrize(("ask", "payload"), QUESTIONS)
async def test_a_question_of_the_console_has_the_bytes_that_it_always_had(
    monkeypatch, ask, payload
):
    monkeypatch.setattr(control.secrets, "token_hex", lambda size: "00")
    monkeypatch.setattr(control, "wait_for", lambda answers: until(lambda: answers))
    async with connect([]):
        hub = get_hub()
        batches = []
        monkeypatch.setattr(hub, "_link", Link(hub._link, batches))
        await ask(hub)
        question, answer = (json.loads(batch.items[0].payload) for batch in batches)
        assert batches[0].items[0].payload.decode() == payload
        assert (answer["is"], answer["nonce"], answer["tokens"]) == ("count", "00", {})
        assert question.keys() & answer.keys() >= {"snapshot"} or answer["node"]["inside"]
        # An earlier version answers what it knows.
        monkeypatch.setattr(registry, "asked", {})
        hub.grants._handle(question)
        await hub.settled()
        old = json.loads(batches[2].items[0].payload)
        assert old.keys() == {"is", "nonce", "tokens", *(["node"] if "node" in question else [])}
        assert "inside" not in old.get("node", {})
        monkeypatch.undo()


class Link:
    """Stands before a hub's link and keeps its batches."""

    def __init__(self, link, batches):
        self._link = link
        self._batches = batches

    def __getattr__(self, name):
        return getattr(self._link, name)

    def post(self, batch, on_sent):
        self._batches.append(batch)
        self._link.post(batch, on_sent)
