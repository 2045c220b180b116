"""One message on its way through the send chain: copies for each recipient, equal results."""

import contextvars
import datetime

import pytest

from filtered_websocket import WebSocketSendFilter
from filtered_websocket.chains.chain import Chain
from filtered_websocket.chains.current import About
from filtered_websocket.chains.sending import Sending
from filtered_websocket.codecs.copies import copy_of
from filtered_websocket.codecs.frames import to_frame

from ..connections.test_connection import message_filter


class Somebody:
    def __init__(self):
        self.context = contextvars.copy_context()


def sent(message, function, count=2):
    """The frames for so many recipients, and how many were encoded."""
    encoded = []

    def encode(result):
        encoded.append(result)
        return to_frame(result if isinstance(result, bytearray) else repr(result))

    chain = Chain("send", [message_filter(function, WebSocketSendFilter)])
    sending = Sending(chain, About("g", "", {}), message, True, encode)
    frames = [sending.frame(sending.run(Somebody())) for _ in range(count)]
    return [frame.payload.decode() for frame in frames], len(encoded)


class Note:
    def __init__(self):
        self.texts = ["a"]

    def __repr__(self):
        return f"Note({self.texts})"


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (bytearray(b"abc"), lambda message: message.pop()),
        ({"a": {"b": [1]}}, lambda message: message["a"]["b"].append(2)),
        ([{"a": 1}], lambda message: message[0].clear()),
        ({"note": Note()}, lambda message: message["note"].texts.append("b")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_changed_for_one_recipient_is_not_changed_for_the_next(message, change):
    def changed(web_socket_instance, data):
        seen.append(repr(data))
        change(data)

    seen = []
    sent(message, changed)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("results", "count"),
    [
        ([{"a": [1, "x", None]}, {"a": [1, "x", None]}], 1),
        (["x" * 3, "xxx"], 1),
        ([bytearray(b"x"), bytearray(b"x")], 1),
        ([{"a": 1}, {"a": True}], 2),
        ([{"a": 1}, {"a": 1.0}], 2),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], 2),
        ([{"a": "1"}, {"a": 1}], 2),
        (["x", ["x"]], 2),
        ([bytearray(b"x"), b"x"], 2),
        # What is not known to be encoded equally.
        ([{"at": datetime.date(2020, 1, 1)}, {"at": datetime.date(2020, 1, 1)}], 2),
    ],
)
def test_only_what_is_encoded_equally_is_encoded_once(results, count):
    given = iter(results)

    def choose(web_socket_instance, data):
        return next(given)

    frames, encoded = sent({}, choose)
    assert encoded == count
    assert len(set(frames)) == (1 if "date" in repr(results) else count)


def test_values_that_occur_twice_are_equal_to_those_that_are_copies():
    text = "".join(["a", "b"])
    given = iter([[text, text], [text, "".join(["a", "b"])], ["ab", "ab"]])

    def choose(web_socket_instance, data):
        return next(given)

    assert sent({}, choose, count=3)[1] == 1


def test_a_result_that_is_changed_later_is_not_taken_for_what_it_was():
    shared = {"n": 0}

    def count(web_socket_instance, data):
        shared["n"] += 1
        return shared

    assert sent({}, count) == (["{'n': 1}", "{'n': 2}"], 2)


def test_what_cannot_be_changed_is_not_copied():
    text = "x" * 100
    assert copy_of(text) is text and copy_of([text])[0] is text
