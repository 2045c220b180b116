"""Publishes that are read in one pass: those that are, and that it changes nothing of them."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtered_websocket.codecs import centrifuge
from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF, BadFrame, _data_of
from filtered_websocket.codecs.commands import REQUESTS
from filtered_websocket.codecs.data import PARSER, Data
from filtered_websocket.codecs.protobuf import varint
from filtered_websocket.codecs.publishes import read_publish
from filtered_websocket.codecs.schema import read

codecs = pytest.importorskip("centrifuge.codecs")


def in_steps(line):
    """As any command is read."""
    return read("Command", PARSER.parse(line), _data_of)


#: As our own client, centrifuge-js and centrifuge-python write it.
LIBRARIES = {
    "ours": '{"id":7,"publish":{"channel":"room","data":%s}}',
    "js": '{"publish":{"channel":"room","data":%s},"id":7}',
    "python": '{"id": 7, "publish": {"channel": "room", "data": %s}}',
}
DATA = ["1", "-0.5e3", '"hi"', '"{\\"}}\\n"', "null", "[]", '{"a":[1,{"b":"}}"}]}', '{"é":"ü"}']


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("data", DATA)
def test_what_libraries_write_is_read_at_once_and_data_stays_as_it_is(library, data):
    line = LIBRARIES[library] % data
    publish = read_publish(line)
    assert publish == (7, "room", Data(data.encode()))
    assert JSON.publish(line.encode(), True) == publish
    assert list(JSON.decode(line.encode(), True)) == [publish.command]
    known = in_steps(line)
    assert publish.data.value == known["publish"].pop("data").value
    assert known == {"id": 7, "publish": {"channel": "room"}}


def test_its_data_is_not_written_anew(monkeypatch):
    written = []
    monkeypatch.setattr(centrifuge, "dump_json", written.append)
    lines = "\n".join(form % '{"a":[1,2]}' for form in LIBRARIES.values())
    assert len(list(JSON.decode(lines.encode(), True))) == 3
    assert written == []


def test_spaces_between_are_left_out():
    assert read_publish(LIBRARIES["python"] % '{"a": [1, 2]}').data.payload == b'{"a":[1,2]}'
    assert read_publish(LIBRARIES["python"] % '"a, b: c"').data.payload == b'"a, b: c"'


FORMS, SEPARATORS = st.sampled_from([*LIBRARIES.values()]), st.sampled_from([None, (",", ":")])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.repeats
@given(
    FORMS,
    VALUES,
    st.booleans(),
    SEPARATORS,
)
def test_any_data_is_what_it_is_in_steps(form, value, is_ascii, separators):
    try:
        line = form % json.dumps(value, ensure_ascii=is_ascii, separators=separators)
        known = in_steps(line)
    except ValueError:
        return
    publish = read_publish(line)
    if publish is None:
        assert "\\u" in line
        return
    assert publish.data.value == known["publish"]["data"].value
    assert publish.command == {**known, "publish": {**known["publish"], "data": publish.data}}


PIECES = st.sampled_from(
    [*'",1{}[]\\\t ', '{"id":1,', '"id":2', '"publish":{"channel":"a",', '"data":', '"x":', "}}",
     "NaN", "1e999", '{"a":1,"a":2}', '"publish":{"channel":"a","data":', "null", '"send":{}',
     '{"id":1,"publish":{"channel":"a","data":', '},"id":3}'],
)  # fmt: skip


@given(st.lists(PIECES, max_size=8).map("".join))
def test_what_is_read_at_once_is_nothing_else_in_steps(line):
    publish = read_publish(line)
    if publish is not None:
        known = in_steps(line)
        assert publish.data.value == known["publish"]["data"].value
        assert publish.command == {**known, "publish": {**known["publish"], "data": publish.data}}


WRAPPED = LIBRARIES["ours"]
#: What is looked at more closely, and is fine.
OTHER = [
    '{"id":7,"publish":{"data":1,"channel":"room"}}',
    '{"id":7,"publish":{"channel":"room"}}',
    '{"id":7,"publish":{"channel":"r\\"m","data":1}}',
    '{"id":7,"publish":{"channel":"room","data":1},"other":2}',
    '{"publish":{"channel":"room","data":1}}',
    '{"id":7777777777,"publish":{"channel":"room","data":1}}'.replace("7777777777", "4000000000"),
    '{"id":7,"send":{"data":1}}',
    WRAPPED % '"\\u00e9"',
    WRAPPED % ("[" * 31 + "]" * 31).replace("[]", '["[]"]'),
    WRAPPED % json.dumps(["a:b"] * 1001),
]
#: What is refused.
BAD = [
    WRAPPED % data
    for data in (
        "", "NaN", "1e999", "01", '"', '"\t"', "[", "[1,]", '{"a":1,"a":2}', "1}", '1,"data":2',
        '"\\ud800"', "[" * 40 + "]" * 40, json.dumps(dict.fromkeys(map(str, range(1000)), 1)),
        "1" * 5000,
    )
] + [
    '{"id":7,"publish":{"channel":"room","data":1},"id":8}',
    '{"id":-7,"publish":{"channel":"room","data":1}}',
    '{"id":7,"publish":{"channel":"ro\tom","data":1}}',
    '{"id":7,"publish":{"channel":"room","data":1}',
    '{"publish":{"channel":"room","data":1},"id":7}}',
]  # fmt: skip


@pytest.mark.parametrize("line", OTHER)
def test_what_is_written_in_another_way_is_read_in_steps(line):
    assert read_publish(line) is None and JSON.publish(line.encode(), True) is None
    [command] = JSON.decode(line.encode(), True)
    assert len([name for name in REQUESTS if name in command]) == 1


@pytest.mark.parametrize("line", BAD)
def test_what_is_wrong_is_refused(line):
    assert read_publish(line) is None
    with pytest.raises(BadFrame):
        list(JSON.decode(line.encode(), True))


def test_a_binary_frame_and_bytes_that_are_no_text_are_no_publish():
    line = (WRAPPED % "1").encode()
    assert JSON.publish(line, False) is None
    assert JSON.publish(line.replace(b"room", b"\xff"), True) is None


# Protobuf


def in_protobuf(**publish):
    data = base64.b64encode(publish.pop("data", b"")).decode()
    return codecs._ProtobufCodec.encode_commands([{"id": 7, "publish": {**publish, "data": data}}])


@pytest.mark.parametrize(
    "data", [b"1", b'{"a": [1]}', b"\xff", b"x" * 300, b'"' + b"x" * 200 + b'"']
)
def test_what_libraries_write_in_protobuf_is_read_at_once(data):
    frame = in_protobuf(channel="röom", data=data)
    publish = PROTOBUF.publish(frame, False)
    assert (publish.number, publish.channel, publish.data.payload) == (7, "röom", data)
    assert [publish.command] == list(PROTOBUF.decode(frame, False))
    assert PROTOBUF.publish(frame, True) is None


def test_whatever_byte_of_it_is_changed_it_is_what_it_is_in_steps():
    frame, read_so = in_protobuf(channel="room", data=b"12"), 0
    for at in range(len(frame)):
        assert PROTOBUF.publish(frame[:at], False) is None
        assert PROTOBUF.publish(frame + frame[:at], False) is None or not at
        for byte in range(256):
            changed = frame[:at] + bytes([byte]) + frame[at + 1 :]
            publish = PROTOBUF.publish(changed, False)
            if publish is not None:
                read_so += 1
                assert [publish.command] == list(PROTOBUF.decode(changed, False))
    assert read_so > 1000


@pytest.mark.parametrize("number", [0, 2**32 - 1, 2**32])
def test_only_a_number_of_32_bits_is_one(number):
    rest = b"\x3a\x07\x0a\x02ab\x12\x011"
    body = b"\x08" + varint(number) + rest
    publish = PROTOBUF.publish(varint(len(body)) + body, False)
    assert (publish is not None) == (number == 2**32 - 1)


def test_a_publish_without_data_or_with_other_fields_is_read_in_steps():
    frames = [
        in_protobuf(channel="room"),
        codecs._ProtobufCodec.encode_commands([{"id": 7, "send": {"data": ""}}]),
        codecs._ProtobufCodec.encode_commands([{"id": 7, "publish": {"data": "MQ=="}}]),
        b"\x06\x08\x07\x3a\x02\x0a\x00",
        b"\x09\x08\x07\x3a\x05\x0a\x00\x12\x00\x00",
    ]
    assert [PROTOBUF.publish(frame, False) for frame in frames] == [None] * 5
