"""The JSON codec, which reads input of untrusted clients."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtered_websocket import Close
from filtered_websocket.codecs.json import JSONCodec
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.testing import connect, published

from ..connections.test_connection import message_filter
from ..costs import ends, is_linear

codec = JSONCodec()
LIMIT = 262_144
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def refusal(document, text=True):
    """The reason with which a frame closes its connection."""
    with pytest.raises(Close) as caught:
        codec.decode(bytearray(document.encode("utf-8", "surrogatepass")), text)
    assert caught.value.code == 4400
    return caught.value.reason


@pytest.mark.repeats
@given(DOCUMENTS)
def test_a_document_comes_out_as_it_went_in(document):
    frame = codec.encode(document, {})
    assert codec.decode(bytearray(frame.encode()), True) == document


@pytest.mark.repeats
@given(st.text() | DOCUMENTS.map(json.dumps))
def test_anything_else_closes_and_what_is_taken_can_be_sent_on(text):
    try:
        document = codec.decode(bytearray(text.encode("utf-8", "surrogatepass")), True)
    except Close as close:
        assert close.code == 4400
    else:
        assert json.loads(codec.encode(document, {}).encode()) == document == json.loads(text)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("'a'", "not JSON"),
        ("\ufeff[]", "not JSON"),
        ("\ud800", "not JSON"),
        ("1" * 5000, "not JSON"),
        ("NaN", "NaN and Infinity are no JSON"),
        ("[-Infinity]", "NaN and Infinity are no JSON"),
        ("1e999", "a number is too large"),
        ("[" * 33 + "]" * 33, "a document has at most 32 levels"),
        ('{"a":' * 33 + "1" + "}" * 33, "a document has at most 32 levels"),
        ('{"a": 1, "a": 1}', "a key comes twice in one object"),
        ('[{"a": 1, "b": {"a": 1, "\\u0061": 2}}]', "a key comes twice in one object"),
        (json.dumps({str(n): n for n in range(1001)}), "a document has at most 1000 keys"),
        (json.dumps([{"a": 1}] * 1001), "a document has at most 1000 keys"),
        (r'"\ud800"', "half a surrogate pair is no character"),
        (r'{"\udfff": 1}', "half a surrogate pair is no character"),
    ],
)
def test_what_is_no_json_to_take_closes_with_its_reason(document, reason):
    assert refusal(document) == reason


def test_binary_is_no_json():
    assert refusal("[]", text=False) == "JSON is text, not binary"


@pytest.mark.parametrize(
    "document",
    [
        "[" * 32 + "]" * 32,
        '{"a":' * 32 + "1" + "}" * 32,
        "[" + ",".join(["[]"] * 1000) + "]",
        json.dumps({str(n): n for n in range(1000)}),
        json.dumps("[" * 100),
        r'"\ud83d\ude00\u0000"',
        '[{"a": 1}, {"a": 1}]',
        "1" * 4000,
        "1e308",
    ],
)
def test_what_is_within_the_bounds_is_taken(document):
    assert codec.decode(bytearray(document.encode()), True) == json.loads(document)


LARGEST = [
    lambda size: "[" * size,
    lambda size: '{"a":' * (size // 5),
    lambda size: "[" + "[]," * (size // 3 - 1) + "0]",
    lambda size: "[" + "1e9," * (size // 4 - 1) + "0]",
    lambda size: "[" + ("1" * 4000 + ",") * (size // 4001 - 1) + "0]",
    lambda size: "[" + ("1" * 5000 + ",") * (size // 5001 - 1) + "0]",
    lambda size: "0." + "1" * (size - 2),
    lambda size: "{" + ",".join(f'"{n}":0' for n in range(size // 9)) + "}",
    lambda size: '"' + "\\u00e9" * (size // 6 - 1) + '"',
    lambda size: '"' + "\\" * (size - 2) + '"',
    lambda size: "[" * 32 + '"' + '\\"[' * (size // 3 - 60) + '"' + "]" * 32,
    lambda size: '["' + '\\"[' * (size // 3 - 60),
    lambda size: " " * size,
]


@pytest.mark.repeats
@pytest.mark.parametrize("make", LARGEST, ids=lambda make: make(20)[:8] or "keys")
def test_a_message_of_the_greatest_size_costs_twice_as_much_as_one_of_half_of_it(make):
    def decode(document):
        with contextlib.suppress(Close):
            codec.decode(bytearray(document.encode()), True)

    assert is_linear(decode, make, LIMIT // 2)
    with ends():
        decode(make(16 * LIMIT))


def test_bytes_are_sent_as_they_are():
    assert codec.encode(bytearray(b"\xff"), {}) == b"\xff"
    assert codec.encode("a", {}) == '"a"'


def test_a_site_may_set_other_bounds():
    class Narrow(JSONCodec):
        max_depth = 1
        max_keys = 1

    narrow = Narrow()
    assert narrow.decode(bytearray(b'{"a": 1}'), True) == {"a": 1}
    for document in (b"[[]]", b'{"a": 1, "b": 2}'):
        with pytest.raises(Close):
            narrow.decode(bytearray(document), True)


async def test_filters_see_documents_and_a_bad_one_ends_its_connection_alone():
    def publish(web_socket_instance, message):
        web_socket_instance.publish({"heard": message["say"]})

    app = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(publish)], codec="filtered_websocket.json_codec.JSONCodec"
    )
    with published() as seen:
        async with connect(app) as ann, connect(app) as bob, connect(app) as cy:
            await ann.send("[" * 100_000)
            assert (await ann.closed(), ann.close_reason) == (4400, "not JSON")
            await bob.send('{"say": "hi"}')
            assert await cy.receive() == '{"heard":"hi"}'
    assert len(seen) == 1
