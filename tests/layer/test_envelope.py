"""The format of messages on the channel layer."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtered_websocket.layer.envelope import (
    CONTROL,
    EVENT,
    ID_SIZE,
    INFO,
    MAX_HOLES,
    BadEnvelope,
    Batch,
    Item,
    Sequence,
    Stamper,
    check_group,
    group_key,
    open_item,
    seal,
    unseal,
)
from filtered_websocket.publishing.items import new_item
from filtered_websocket.threads.budget import OVERHEAD


def items(count=1):
    return [Item(n, "t", "", b"x", {}) for n in range(count)]


def test_an_envelope_opens_as_it_was_sealed():
    batch = Batch("origin", "key", 7, [Item(1, "b", "me", b"\xff", {"x": ["you"]})])
    assert unseal(seal(batch)) == batch
    assert batch.items[0].packed == ("b", b"\xff")


def test_a_batch_of_a_history_opens_as_it_was_sealed():
    batch = Batch("origin", "key", 7, [Item(1, "b", "me", b"\xff", {EVENT: "news"})], "epoch")
    assert unseal(seal(batch)) == batch
    assert unseal(seal(batch._replace(epoch=""))) == batch._replace(epoch="")


GOOD = seal(Batch("o", "k", 0, items()))
KEPT = seal(Batch("o", "k", 1, items(), "epoch"))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        3,
        [],
        {},
        {**GOOD, "v": 2},
        {**GOOD, "o": 3},
        {**GOOD, "g": None},
        {**GOOD, "s": "0"},
        {**GOOD, "m": 3},
        {**GOOD, "m": [3]},
        {**GOOD, "m": [[1, 2]]},
        {**GOOD, "m": [["1", "t", "", b"", {}]]},
        {**GOOD, "m": [[1, "q", "", b"", {}]]},
        {**GOOD, "m": [[1, [], "", b"", {}]]},
        {**GOOD, "m": [[1, "t", None, b"", {}]]},
        {**GOOD, "m": [[1, "t", "", "text", {}]]},
        {**GOOD, "m": [[1, "t", "", b"\xff", {}]]},
        {**GOOD, "m": [[1, "j", "", b"\xed\xa0\x80", {}]]},
        {**GOOD, "m": [[1, "t", "", b"", []]]},
        {**GOOD, "m": [[1, "t", "", b"", {"x": "abc"}]]},
        {**GOOD, "m": [[1, "t", "", b"", {"x": [["a"]]}]]},
        {**GOOD, "m": [[1, "t", "", b"", {"e": 1}]]},
        {**GOOD, "m": [[1, "t", "", b"", {"i": 1}]]},
        {**GOOD, "m": [[1, "t", "", b"", {"i": b"{}"}]]},
        {**GOOD, "m": [[1, "t", "", b"", {"i": 1, "e": "left"}]]},
        {**GOOD, "v": 3},
        {**KEPT, "e": ""},
        {**KEPT, "e": None},
        {**KEPT, "e": "e" * 65},
        {**KEPT, "s": 0},
        {**KEPT, "s": "1"},
        {**KEPT, "s": 1.5},
        {"type": "chat.message", "text": "hello"},
    ],
)
def test_anything_else_is_a_bad_envelope(bad):
    with pytest.raises(BadEnvelope):
        unseal(bad)


@given(st.text(min_size=1, max_size=1024))
def test_any_name_makes_a_key_that_every_layer_takes(name):
    assert re.fullmatch(r"[a-zA-Z0-9._-]{1,99}", group_key(name), re.ASCII)


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_names_have_two_keys(one, other):
    assert (group_key(one) == group_key(other)) == (one == other)


def test_a_key_begins_with_the_namespace(settings):
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": "site-a"}
    assert group_key("\ud800").startswith("site-a.g.")


def test_sites_on_two_databases_of_one_redis_have_different_keys(settings):
    keys = set()
    for number in (0, 1):
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "x.Layer", "CONFIG": {"hosts": [f"redis://localhost/{number}"]}}
        }
        keys |= {group_key("news"), group_key(CONTROL)}
    assert {key.partition(".")[0] for key in keys} == {"fws", "fws-1"} and len(keys) == 4


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), ("x" * 1025, ValueError), (3, TypeError)]
)
def test_a_bad_group_name_is_an_error(name, error):
    with pytest.raises(error, match="a group name"):
        check_group(name)


def test_numbers_run_per_group():
    stamper = Stamper()
    assert stamper.stamp("a", items(3)).first == 0
    assert stamper.stamp("b", items(1)).first == 0
    assert stamper.stamp("a", items(1)).first == 3


def test_a_forgotten_group_begins_again_under_another_origin():
    stamper = Stamper(max_groups=2)
    first = stamper.stamp("a", items())
    stamper.stamp("b", items())
    later = stamper.stamp("c", items())
    assert later.origin != first.origin
    assert stamper.stamp("a", items()).first == 0


def batch(first, count=1, origin="o"):
    return Batch(origin, "k", first, items(count))


def test_what_was_sent_before_a_receiver_subscribed_was_not_missed():
    assert Sequence().record(batch(500)) == 0


def test_a_hole_is_counted_and_a_repetition_recognised():
    sequence = Sequence()
    assert sequence.record(batch(0, 3)) == 0
    assert sequence.record(batch(3, 2)) == 0
    assert sequence.record(batch(3, 2)) is None
    assert sequence.record(batch(9)) == 4
    assert sequence.record(batch(10)) == 0


def test_a_late_batch_is_delivered():
    sequence = Sequence()
    assert sequence.record(batch(0)) == 0
    assert sequence.record(batch(2)) == 1
    assert sequence.record(batch(1)) == 0
    assert sequence.record(batch(1)) is None
    assert sequence.record(batch(3)) == 0


def test_origins_are_apart_and_bounded():
    sequence = Sequence(max_origins=2)
    for origin in "abc":
        assert sequence.record(batch(0, origin=origin)) == 0
    assert sequence.record(batch(0, origin="c")) is None
    assert sequence.record(batch(0, origin="a")) == 0


def test_a_repetition_is_recognised_however_old_it_is():
    sequence = Sequence()
    for first in range(1000):
        assert sequence.record(batch(first)) == 0
    assert sequence.record(batch(0)) is None
    assert sequence.record(batch(999)) is None


def test_parts_of_a_hole_are_filled_once_each():
    sequence = Sequence()
    assert sequence.record(batch(0)) == 0
    assert sequence.record(batch(10)) == 9
    assert [sequence.record(batch(4, 2)), sequence.record(batch(4, 2))] == [0, None]
    assert [sequence.record(batch(1, 3)), sequence.record(batch(6, 4))] == [0, 0]
    assert [sequence.record(batch(1, 3)), sequence.record(batch(6, 4))] == [None, None]
    assert sequence.record(batch(11)) == 0


def test_what_was_sent_before_the_first_batch_is_no_repetition():
    sequence = Sequence()
    assert sequence.record(batch(5)) == 0
    assert [sequence.record(batch(4)), sequence.record(batch(4))] == [0, None]


def test_holes_are_bounded():
    """What fills a hole that is forgotten counts as a repetition: it is never delivered twice."""
    sequence = Sequence()
    for first in range(0, 2 * MAX_HOLES + 4, 2):
        sequence.record(batch(first))
    assert sequence.record(batch(1)) is None
    assert sequence.record(batch(3)) == 0


def test_a_message_takes_memory_for_whom_it_leaves_out_too():
    assert new_item("x" * 10).size == OVERHEAD + 10
    assert new_item("x", exclude=["a", "b"]).size == OVERHEAD + 1 + 2 * ID_SIZE
    # What other processes may send in later versions.
    assert new_item("x")._replace(meta={"other": 1}).size == OVERHEAD + 1


@pytest.mark.parametrize("more", [{}, {"x": ["a"]}])
def test_who_published_is_told_as_text(more):
    raw = [1, "j", "", b"1", {INFO: "{}", **more}]
    assert open_item(raw) == tuple(raw)
    with pytest.raises(BadEnvelope):
        open_item([*raw[:4], {INFO: 7, **more}])
