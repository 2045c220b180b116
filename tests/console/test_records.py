"""What a tee shows of payloads and errors."""

import pytest

from filtered_websocket import Close, Drop, NotAllowed
from filtered_websocket.codecs.data import Data
from filtered_websocket.codecs.frames import Encoded, text_event
from filtered_websocket.connections.handshake import Handshake
from filtered_websocket.connections.subscription import Subscription
from filtered_websocket.console.records import SHORT, Shown, secrets_of, shortened
from filtered_websocket.exceptions import FilterError
from filtered_websocket.types import Call

SHOWN, HIDDEN = Shown(16, True), Shown(16, False)


class Odd:
    """Of a site."""

    def __init__(self, words="odd"):
        self._words = words

    def __repr__(self):
        if not self._words:
            raise RuntimeError
        return self._words


HANDSHAKE = Handshake(
    {"path": "/a", "query_string": b"token=x&b=1", "subprotocols": ["fws", "fws.token.KEY"]}
)
SUBSCRIPTION = Subscription("room", {"n": 1}, None, {"a": 1})


@pytest.mark.parametrize(
    ("data", "kind", "size", "text"),
    [
        (None, "none", 0, None),
        (bytearray("é".encode()), "text", 2, "é"),
        (memoryview(b"ab"), "text", 2, "ab"),
        (b"\xff\x00", "binary", 2, "\\xff\\x00"),
        ("line\n\ttab\x1b[m", "text", 12, "line\n\ttab\\x1b[m"),
        ("\ud800", "text", 3, "\\ud800"),
        ({"a": [1]}, "json", 9, '{"a":[1]}'),
        (3, "json", 1, "3"),
        (Encoded("b", b"ab"), "binary", 2, "ab"),
        (Encoded("t", b"ab"), "text", 2, "ab"),
        (Data(b'{"a":1}'), "json", 7, '{"a":1}'),
        (Odd(), "object", None, "odd"),
        (Odd(""), "object", None, "<Odd>"),
        ({"a": Odd()}, "object", None, "{'a': odd}"),
    ],
)
def test_a_payload_has_its_kind_its_size_and_its_text(data, kind, size, text):
    shown = {"kind": kind, "size": size}
    assert SHOWN.payload(data) == shown | ({} if text is None else {"text": text})


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (HANDSHAKE, "handshake", "/a?token=***&b=1  subprotocols: fws, fws.token.***"),
        (Call("add", [1]), "json", '{"method":"add","data":[1]}'),
        (
            SUBSCRIPTION,
            "json",
            '{"group":"room","captured":{"n":1},"data":{"a":1},"info":null,"reply":null}',
        ),
    ],
)
def test_what_is_no_message_is_shown_by_what_it_is_about(data, kind, text):
    shown = Shown(100, True).payload(data)
    assert (shown["kind"], shown["text"]) == (kind, text)


def test_bytes_of_a_binary_frame_are_binary_also_where_they_are_a_text():
    token = text_event.set(False)
    try:
        assert SHOWN.payload(b"ab") == {"kind": "binary", "size": 2, "text": "ab"}
    finally:
        text_event.reset(token)


@pytest.mark.parametrize("data", [b"ab", "ab", {"a": 1}, HANDSHAKE, Odd(), None])
def test_without_payloads_there_is_no_text(data):
    assert HIDDEN.payload(data).keys() == {"kind", "size"}
    assert HIDDEN.end(ValueError("ab"))["why"] == ""


def test_a_long_payload_is_cut():
    for data in ("a b " * 1000, b"a b " * 1000, ["a b"] * 1000, Odd("a b " * 1000)):
        shown = SHOWN.payload(data)
        assert shown["cut"] is True and 10 < len(shown["text"]) <= 16
    # Between two characters, which have four bytes.
    wide = SHOWN.payload("\N{GRINNING FACE} ".encode() * 1000)
    assert wide["text"] == "\N{GRINNING FACE} " * 8 and wide["size"] == 5000


def test_of_a_secret_at_the_end_of_a_cut_text_nothing_is_left():
    for cut in range(90):
        start = "x" * cut + " "
        for secret in ("fws_" + "s" * 43, '{"token": "s s s s s s s"}', "eyJhbGciOi.sss.sss"):
            shown = Shown(64, True).payload(start + secret + " " + "y" * 5000)["text"]
            assert "ss" not in shown.replace("fws_ssssssss", "") and "s s" not in shown
        # Also where it is found only because more is looked through than is shown.
        far = Shown(8, True).payload("token=" + "s" * (1018 + cut) + " and more words")
        assert "ss" not in far["text"]


def test_what_a_connection_knows_is_hidden_in_its_payloads():
    assert SHOWN.payload("say 12345678", ["12345678"])["text"] == "say ***"
    assert secrets_of(object()) == ()


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, None),
        (Drop(), {"how": "drop", "why": ""}),
        (Drop("too loud"), {"how": "drop", "why": "too loud"}),
        (NotAllowed("no", "g"), {"how": "not allowed", "why": "no: 'g'"}),
        (Close(4000, "bye"), {"how": "close", "code": 4000, "why": "bye"}),
        (ValueError("a\nb"), {"how": "error", "class": "ValueError", "why": "a\\nb"}),
        (
            ValueError("token=abc"),
            {"how": "error", "class": "ValueError", "why": "token=***"},
        ),
        (FilterError("a.B"), {"how": "error", "class": "FilterError", "why": "a.B"}),
    ],
)
def test_an_end_says_how(error, end):
    assert SHOWN.end(error) == end


def test_the_error_of_a_filter_is_named_by_its_cause():
    try:
        raise FilterError("a.B") from KeyError("x")
    except FilterError as error:
        assert SHOWN.end(error) == {"how": "error", "class": "KeyError", "why": "'x'"}
    assert len(SHOWN.end(ValueError("x y" * 1000))["why"]) == 256


def test_a_record_that_is_too_long_is_shortened():
    long, short = {"size": 9, "text": "x" * 1000}, {"size": 1, "text": "x"}
    cut = {"size": 9, "text": "x" * SHORT, "cut": True}
    record = {"is": "chain", "in": long, "out": short, "end": {"how": "drop"}}
    assert shortened(record | {"stages": [{"in": long}]}) == {
        **record,
        "in": cut,
        "stages": [{"in": cut}],
    }
