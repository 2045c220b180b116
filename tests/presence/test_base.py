"""What goes through the stores: presence.base."""

import json

import pytest

from filtered_websocket.layer.envelope import BadEnvelope
from filtered_websocket.presence.base import (
    MAX_ENTRY,
    Event,
    Info,
    describe,
    pack_info,
    seal_events,
    shown_of,
    unpack_info,
    unseal_events,
    user_of,
)


@pytest.mark.parametrize(
    "info",
    [
        Info(None),
        Info("", {}),
        Info("ann\n\x00é\ud800", [1, 2.5, "a\nb", None, {"é": "\udfff"}]),
    ],
)
def test_an_info_is_stored_as_two_lines_of_ascii_and_comes_back(info):
    packed = pack_info(info)
    assert packed.isascii() and packed.count("\n") == 1
    assert unpack_info(packed) == info


def test_what_a_connection_shows_everywhere_is_a_third_line():
    packed = pack_info(Info("é", {"a": 1}), '{"name":"é\\n"}')
    assert packed.isascii() and packed.count("\n") == 2
    assert unpack_info(packed) == Info("é", {"a": 1})
    assert json.loads(shown_of(packed)) == {"name": "é\n"}
    assert shown_of(pack_info(Info("a", 1))) == ""
    assert user_of(packed) == user_of(pack_info(Info("é", 5)))


def test_no_user_is_another_one_than_any_name():
    users = [None, "null", "", '"', "None"]
    assert len({user_of(pack_info(Info(user, 1))) for user in users}) == len(users)


def test_the_same_user_is_the_same_whatever_the_info():
    assert user_of(pack_info(Info("a", 1))) == user_of(pack_info(Info("a", {"b": 2})))


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("info", "error", "words"),
    [
        (Info(5), TypeError, "a str or None, not 5"),
        (Info("a", object()), TypeError, "object"),
        (Info("a", float("nan")), ValueError, "JSON"),
        (Info("a", "x" * MAX_ENTRY), ValueError, f"at most {MAX_ENTRY} are kept"),
        (Info("a", nested(100_000)), ValueError, "nested too deeply|at most"),
        (Info("x" * 1_000_000), ValueError, "1000007 characters"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_reason(info, error, words):
    with pytest.raises(error, match=words):
        pack_info(info)


EVENTS = [
    Event(7, "join", "c1", pack_info(Info("é", {"a": 1})), True),
    Event(8, "leave", "c2", pack_info(Info(None)), False),
]


def test_events_go_through_the_layer_and_come_back():
    envelope = seal_events("fws.g.x", EVENTS)
    assert unseal_events(envelope) == ("fws.g.x", EVENTS)
    assert EVENTS[0].info == Info("é", {"a": 1})


@pytest.mark.parametrize(
    "envelope",
    [
        None,
        {"v": 1, "g": "a", "p": []},
        {"v": 2, "g": b"a", "p": []},
        {"v": 2, "g": "a"},
        {"v": 2, "g": "a", "p": [[1]]},
        *(
            {"v": 2, "g": "a", "p": [raw]}
            for raw in (
                ["1", "join", "c", 'null\n""', 1],
                [1, "stay", "c", 'null\n""', 1],
                [1, ["join"], "c", 'null\n""', 1],
                [1, "join", b"c", 'null\n""', 1],
                [1, "join", "c", b"null\n1", 1],
                [1, "join", "c", "null", 1],
                [1, "join", "c", "null\n" + "[" * 100_000, 1],
            )
        ),
    ],
)
def test_anything_else_is_no_envelope_of_events(envelope):
    with pytest.raises(BadEnvelope):
        unseal_events(envelope)


def test_filters_get_joins_and_leaves_as_json():
    first = Event(1, "join", "c", pack_info(Info("ann", {"n": 1})), True)
    last = first._replace(kind="leave", is_users=False)
    event = describe("g", [first, last])
    assert (
        event
        == json.loads(json.dumps(event))
        == {
            "type": "presence",
            "data": {
                "group": "g",
                "changes": [
                    {
                        "is": "join",
                        "connection": "c",
                        "user": "ann",
                        "info": {"n": 1},
                        "first": True,
                    },
                    {
                        "is": "leave",
                        "connection": "c",
                        "user": "ann",
                        "info": {"n": 1},
                        "last": False,
                    },
                ],
            },
        }
    )
