"""Frames of the Pusher protocol."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtered_websocket.codecs.data import Data
from filtered_websocket.codecs.pusher import (
    BadFrame,
    data_read,
    data_said,
    data_told,
    error_frame,
    event_frame,
    head_of,
    parse_text,
    read,
    system_frame,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.repeats
@given(VALUES, st.text(st.characters(codec="utf-8")))
def test_what_a_client_says_is_told_to_the_others_as_it_is(value, name):
    said = read(
        json.dumps({"event": f"client-{name}", "channel": "a", "data": value}).encode(), True
    )
    frame = event_frame(said.event, head_of(said.channel), data_said(said.data))
    assert frame.text
    told = json.loads(frame.payload)
    assert told == {"event": f"client-{name}", "channel": "a", "data": value}


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_what_a_server_says_is_a_text_whatever_it_is(text, name):
    frame = event_frame(name, head_of("a"), Data(text.encode(), "t"))
    assert json.loads(frame.payload)["data"] == text


def test_texts_of_a_server_that_are_json_are_json_for_others_and_stay_as_they_are():
    text = ' {"a" : [1, "ü"]}\n'
    data = data_told(text)
    assert data.kind == "j" and data.value == {"a": [1, "ü"]}
    assert json.loads(event_frame("a", head_of("c"), data).payload)["data"] == text
    for other in ("plain", "", '{"a": NaN}', "[" * 40 + "]" * 40, '"\\ud800"'):
        assert data_told(other) == Data(other.encode(), "t")


def test_bytes_that_are_no_text_cannot_be_said():
    assert event_frame("a", head_of("c"), Data(b"\xff", "b")) is None
    assert data_read(b"\xff").kind == "b" and data_read(b"{}").kind == "t"


def test_who_has_sent_it_stands_beside_the_data():
    frame = event_frame("client-a", head_of("presence-a"), Data(b"{}"), 'a "user"')
    assert json.loads(frame.payload)["user_id"] == 'a "user"'


def test_events_of_the_protocol():
    assert json.loads(system_frame("pusher:cache_miss", None, "a").payload) == {
        "event": "pusher:cache_miss",
        "channel": "a",
    }
    assert json.loads(system_frame("pusher:pong", {}).payload) == {
        "event": "pusher:pong",
        "data": "{}",
    }
    error = json.loads(error_frame(4001, "no").payload)
    assert error == {"event": "pusher:error", "data": {"code": 4001, "message": "no"}}


@pytest.mark.parametrize("text", [None, 7, "", "nonsense", "[" * 40 + "]" * 40])
def test_a_signed_text_that_is_not_json(text):
    with pytest.raises(BadFrame):
        parse_text(text)
