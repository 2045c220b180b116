"""Frames of the Centrifuge client protocol, in both formats."""

import base64
import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtered_websocket.codecs import centrifuge, protobuf
from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF, BadFrame, Publication
from filtered_websocket.codecs.data import PARSER, Data, as_json, data_of, from_bytes
from filtered_websocket.codecs.frames import dump_json
from filtered_websocket.codecs.schema import protobuf_class

from ..costs import ends, is_linear

codecs = pytest.importorskip("centrifuge.codecs")

COMMANDS = [
    {"id": 1, "connect": {"token": "t", "subs": {"a": {"recover": True, "offset": 3}}}},
    {"id": 2, "subscribe": {"channel": "news", "flag": 1}},
    {"id": 3, "history": {"channel": "news", "limit": -1, "since": {"offset": 1, "epoch": "e"}}},
    {},
]


def decoded(form, frame, text):
    return list(form.decode(frame, text))


def test_commands_are_read_in_both_formats():
    lines = "\n".join(map(json.dumps, COMMANDS)).encode()
    assert decoded(JSON, lines, True) == COMMANDS
    assert decoded(PROTOBUF, codecs._ProtobufCodec.encode_commands(COMMANDS), False) == COMMANDS


def test_empty_lines_are_no_commands():
    assert decoded(JSON, b'\n{"id":1}\r\n \n{"id":2}\n', True) == [{"id": 1}, {"id": 2}]


def test_lines_are_read_one_by_one():
    frame = b"{}\n" * 1_000_000  # beside which what other threads keep is little
    tracemalloc.start()
    try:
        assert next(JSON.decode(frame, True)) == {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # As text, and the first one.
    assert peak < 2 * len(frame)


def test_data_is_passed_through():
    [command] = decoded(
        JSON, b'{"id": 1, "publish": {"channel": "a", "data": {"x": "\xc3\xa9"}}}', True
    )
    assert command["publish"]["data"] == Data('{"x":"é"}'.encode())
    data = base64.b64encode(b'{"x": 1}').decode()
    sent = codecs._ProtobufCodec.encode_commands(
        [{"id": 1, "publish": {"channel": "a", "data": data}}]
    )
    assert decoded(PROTOBUF, sent, False)[0]["publish"]["data"] == Data(b'{"x": 1}')
    headers = codecs._ProtobufCodec.encode_commands([{"id": 1, "connect": {"headers": {"a": "b"}}}])
    assert decoded(PROTOBUF, headers, False)[0]["connect"] == {"headers": {"a": "b"}}


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\n",
        b"nonsense",
        b"[]",
        b'{"id":1}\n{',
        b'{"id":"1"}',
        b'{"id":1,"rpc":{"data":1e999}}',
        b'{"id":1,"rpc":{"data":' + b"[" * 100_000,
        b'{"id":1,"id":2}',
    ],
)
def test_a_malformed_json_frame_is_a_bad_request(frame):
    with pytest.raises(BadFrame):
        decoded(JSON, frame, True)


@pytest.mark.parametrize(
    "frame", [b"", b"\x05", b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\x02\xff\xff", b"\x00\x80"]
)
def test_a_malformed_protobuf_frame_is_a_bad_request(frame):
    with pytest.raises(BadFrame):
        decoded(PROTOBUF, frame, False)


def comes_back(form, field, count, value):
    """The frame of a connect command with so many entries in a field."""
    command = {"id": 1, "connect": {field: {f"name {n}": value for n in range(count)}}}
    if form is JSON:
        return json.dumps(command).encode()
    return codecs._ProtobufCodec.encode_commands([command])


#: The names of the fields ``id``, ``connect`` and the one that is long.
NAMED = 3
MOST = PARSER.max_keys


@pytest.mark.parametrize("form", [JSON, PROTOBUF], ids=["json", "protobuf"])
@pytest.mark.parametrize(
    ("field", "value", "most"),
    [
        ("subs", {}, MOST - NAMED),
        # Each has three names of fields besides its own.
        ("subs", {"recover": True, "offset": 3, "epoch": "e"}, (MOST - NAMED) // 4),
        ("headers", "value", MOST - NAMED),
    ],
)
def test_a_command_has_as_many_names_in_both_formats(form, field, value, most):
    [command] = decoded(form, comes_back(form, field, most, value), form is JSON)
    assert len(command["connect"][field]) == most
    with pytest.raises(BadFrame):
        decoded(form, comes_back(form, field, most + 1, value), form is JSON)


def test_of_a_map_that_is_too_long_nothing_becomes_an_object(monkeypatch):
    made = []
    as_dict = protobuf._as_dict
    monkeypatch.setattr(protobuf, "_as_dict", lambda one: made.append(one) or as_dict(one))
    with pytest.raises(BadFrame):
        decoded(PROTOBUF, comes_back(PROTOBUF, "subs", 20_000, {}), False)
    assert len(made) == 2  # the command, and what is in ``connect``


#: Frames of about so many bytes that are the most work.
LARGEST = {
    "pongs": (JSON, lambda size: b"{}\n" * (size // 3)),
    "lines": (JSON, lambda size: b"\n" * size + b"{}"),
    "pings": (JSON, lambda size: b'{"id":1,"ping":{}}\n' * (size // 18)),
    "brackets": (JSON, lambda size: b"[" * size),
    "data": (JSON, lambda size: b'{"id":1,"rpc":{"data":[' + b"[]," * (size // 3) + b"0]}}"),
    "short": (PROTOBUF, lambda size: b"\0" * size),
    "numbered": (PROTOBUF, lambda size: b"\2\x08\1" * (size // 3)),
    "lengths": (PROTOBUF, lambda size: b"\x80" * size),
    "groups": (PROTOBUF, lambda size: b"\x5b" * size),
}


@pytest.mark.repeats
@pytest.mark.parametrize("name", LARGEST)
def test_a_frame_costs_twice_as_much_as_one_of_half_of_it(name):
    form, make = LARGEST[name]

    def decode(frame):
        with contextlib.suppress(BadFrame):
            for _ in form.decode(frame, form is JSON):
                pass

    assert is_linear(decode, make, 9_000)
    with ends():
        decode(make(262_144))


def test_a_frame_of_the_other_kind_is_a_bad_request():
    with pytest.raises(BadFrame):
        decoded(JSON, b"{}", False)
    with pytest.raises(BadFrame):
        decoded(PROTOBUF, b"\0", True)


REPLY = {
    "id": 7,
    "connect": {
        "client": "c",
        "subs": {"a": {"offset": 2, "publications": [{"data": Data(b"[1]"), "offset": 2}]}},
    },
}


def test_a_reply_is_written_in_both_formats():
    frame = JSON.reply(REPLY)
    assert frame.text
    read = json.loads(frame.payload)
    assert read["connect"]["subs"]["a"]["publications"] == [{"data": [1], "offset": 2}]
    frame = PROTOBUF.reply(REPLY)
    assert not frame.text
    [read] = codecs._ProtobufCodec.decode_replies(frame.payload)
    assert read["connect"]["subs"]["a"]["publications"] == [{"data": "WzFd", "offset": "2"}]
    assert codecs._ProtobufCodec.decode_replies(PROTOBUF.reply({"id": 1, "ping": {}}).payload) == [
        {"id": 1, "ping": {}}
    ]


def test_a_long_reply_has_a_long_length():
    frame = PROTOBUF.reply({"id": 1, "rpc": {"data": Data(b"x" * 300, "b")}})
    [read] = codecs._ProtobufCodec.decode_replies(frame.payload)
    assert len(read["rpc"]["data"]) == 400


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize("offset", [0, 9])
@pytest.mark.parametrize("info", ["", '{"client":"c","user":"42","conn_info":{"a":1}}'])
@pytest.mark.parametrize("tags", [{}, {"kind": "é"}])
def test_a_publication_is_the_same_push_in_both_formats(number, offset, info, tags):
    told = Publication(Data('{"text":"é"}'.encode()), offset, info, tags)
    push = json.loads(JSON.publication(JSON.head('a"b', number), told).payload)["push"]
    frame = PROTOBUF.publication(PROTOBUF.head('a"b', number), told)
    [other] = codecs._ProtobufCodec.decode_replies(frame.payload)
    assert centrifuge.info_of('{"client":"c","other":1}') == {"client": "c"}
    assert push.get("id", 0) == int(other["push"].get("id", 0)) == number
    assert push.get("channel") == other["push"].get("channel") == (None if number else 'a"b')
    assert push["pub"]["data"] == {"text": "é"}
    assert push["pub"].get("offset", 0) == int(other["push"]["pub"].get("offset", 0)) == offset
    assert ("info" in push["pub"]) == ("info" in other["push"]["pub"]) == bool(info)
    assert push["pub"].get("tags", {}) == other["push"]["pub"].get("tags", {}) == tags


@pytest.mark.parametrize("number", [1, 127, 128, 300, 2**32 - 1])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_what_is_sent_most_in_protobuf_is_what_googles_runtime_writes(number, size, monkeypatch):
    info = '{"client":"c"}'
    made = protobuf_class("Reply")()
    pub, made.push.channel = made.push.pub, "room"
    pub.data, pub.offset, pub.info.client = b"x" * size, number, "c"
    known = PROTOBUF.reply({"id": number, "publish": {}}).payload
    told = Publication(Data(b"x" * size, "b"), number, info)
    head = PROTOBUF.head("room", 0)
    PROTOBUF.publication(head, told)  # the info is kept
    monkeypatch.delattr(centrifuge, "protobuf_class")
    assert PROTOBUF.published(number).payload == known
    sent = PROTOBUF.publication(head, told).payload
    length, start = protobuf.length(sent, 0)
    assert len(sent) == start + length
    assert type(made).FromString(sent[start:]) == made


def test_a_reply_in_json_has_data_as_it_is(monkeypatch):
    told = [
        Publication(Data(b'{"a":"\xc3\xa9"}'), 9, '{"client":"c"}', {"kind": "\u00e9"}),
        Publication(Data(b'say "hi"', "t")),
    ]
    known = JSON.reply({"publications": [one.fields for one in told]})
    parsed = []
    monkeypatch.setattr(centrifuge.json, "loads", parsed.append)
    fields = [JSON.fields(one) for one in told]
    reply = {"id": 1, "subscribe": {"recovered": True, "epoch": 'e"', "publications": fields}}
    made = JSON.reply(reply).payload
    monkeypatch.undo()
    assert parsed == []
    read = json.loads(made)
    assert read["subscribe"].pop("publications") == json.loads(known.payload)["publications"]
    assert read == {"id": 1, "subscribe": {"recovered": True, "epoch": 'e"'}}
    assert PROTOBUF.fields(told[0]) == told[0].fields
    with pytest.raises(ValueError):
        JSON.reply({"id": 1, "rpc": {"data": Data(b"nonsense", "b")}})


def test_data_is_json_text_or_bytes():
    assert as_json(Data(b'say "hi"', "t")) == b'"say \\"hi\\""'
    assert as_json(Data(b'{"a":\n1}')) == b'{"a":1}'
    with pytest.raises(ValueError, match="bytes that are not JSON"):
        as_json(Data(b'1,"a":2', "b"))
    assert from_bytes(b"\xff") == Data(b"\xff", "b")
    assert from_bytes(b"nonsense") == Data(b"nonsense", "b")
    assert Data(b"\xff", "b").value == bytearray(b"\xff")
    assert Data(b"hi", "t").value == "hi"
    assert data_of(Data(b"1")) == data_of(1) == data_of(b"1") == Data(b"1")
    assert JSON.can_say(Data(b"1")) and not JSON.can_say(Data(b"\xff", "b"))
    assert PROTOBUF.can_say(Data(b"\xff", "b"))


def test_the_format_is_what_the_client_asks_for(monkeypatch):
    assert centrifuge.choose(["centrifuge-json", "x"]) == (JSON, "centrifuge-json")
    assert centrifuge.choose([]) == (JSON, None)
    assert centrifuge.choose(["centrifuge-protobuf"]) == (PROTOBUF, "centrifuge-protobuf")
    monkeypatch.setattr(centrifuge, "has_protobuf", lambda: False)
    assert centrifuge.choose(["centrifuge-protobuf"]) == (JSON, None)


@pytest.mark.repeats
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_reply_is_the_json_that_the_encoder_makes(value):
    assert JSON.reply({"id": 1, "rpc": value}).payload.decode() == dump_json(
        {"id": 1, "rpc": value}
    )
