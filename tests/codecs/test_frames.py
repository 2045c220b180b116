"""Messages to frames: codecs."""

import datetime

import pytest
from websockets.frames import Frame as Reference
from websockets.frames import Opcode

from filtered_websocket.codecs.frames import Bundle, Frame, is_utf8, pack, to_frame, unpack


@pytest.mark.parametrize(
    ("message", "text", "payload", "is_text"),
    [
        ("grün", None, "grün".encode(), True),
        (b"abc", None, b"abc", False),
        (b"abc", True, b"abc", True),
        (b"abc", False, b"abc", False),
        (bytearray(b"\xff"), True, b"\xff", False),
        ("grün".encode(), True, "grün".encode(), True),
        (memoryview(b"abc"), None, b"abc", False),
        ({"a": 1}, None, b'{"a":1}', True),
        (["ü"], False, '["ü"]'.encode(), True),
        ([datetime.date(2026, 1, 2)], None, b'["2026-01-02"]', True),
        ("", None, b"", True),
    ],
)
def test_what_a_message_becomes_on_the_wire(message, text, payload, is_text):
    frame = to_frame(message, text=text)
    assert (frame.payload, frame.text, len(frame)) == (payload, is_text, len(payload))


@pytest.mark.parametrize("message", ["\ud800", [float("nan")], {1, 2}, None, 3, [object()]])
def test_what_cannot_be_sent_is_an_error(message):
    with pytest.raises((TypeError, ValueError)):
        to_frame(message)


def test_a_frame_makes_its_event_once():
    text, binary = Frame(b"a", True), Frame(b"a", False)
    assert text.event() == {"type": "websocket.send", "text": "a"}
    assert binary.event() == {"type": "websocket.send", "bytes": b"a"}
    assert text.event() is text.event()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("is_text", [True, False])
def test_a_frame_on_the_wire_is_what_rfc_6455_says(size, is_text):
    payload = b"x" * size
    frame = Frame(payload, is_text)
    assert frame.wire is None
    opcode = Opcode.TEXT if is_text else Opcode.BINARY
    expected = Reference(opcode, payload).serialize(mask=False)
    assert frame.encode() == expected and frame.wire == expected


def test_a_bundle_is_its_frames_in_a_row_encoded_once():
    contents = [(b"a", True), (b"bcd", False), (b"x" * 126, True), (b"y" * 65_536, False)]
    frames = [Frame(*content) for content in contents]
    bundle = Bundle(contents)
    assert bundle.wire is None
    assert bundle.encode() == b"".join(frame.encode() for frame in frames) == bundle.wire
    assert bundle.longest == 65_536
    assert [(part.payload, part.text) for part in bundle.parts] == contents
    # Many who cannot take them together share them.
    assert bundle.parts is bundle.parts
    assert frames[0].parts == (frames[0],)


def test_is_utf8():
    assert is_utf8(b"abc") and is_utf8("ü".encode()) and not is_utf8(b"\xff")


class Codec:
    def decode(self, frame, text):
        raise AssertionError("not used here")

    def encode(self, message, meta):
        return repr((message, dict(meta))).encode() if isinstance(message, bytes) else str(message)


def test_a_codec_decides_text_by_what_it_returns():
    assert to_frame({"a": 1}, Codec(), text=False).text
    assert not to_frame(b"a", Codec(), {"x": 1}, text=True).text


@pytest.mark.parametrize(
    ("message", "codec", "expected"),
    [
        ("a", None, (bytearray(b"a"), True)),
        (b"a", None, (bytearray(b"a"), False)),
        ({"a": 1}, None, (bytearray(b'{"a":1}'), True)),
        ("a", Codec(), ("a", True)),
        (b"a", Codec(), (bytearray(b"a"), False)),
        ({"a": 1}, Codec(), ({"a": 1}, True)),
    ],
)
def test_what_a_group_chain_gets(message, codec, expected):
    assert unpack(pack(message, None), codec) == expected
