"""The names and bytes of histories in Redis: history.scripts. Old processes know them, too."""

import msgpack
import pytest

from filtered_websocket.history.base import Position, Retention
from filtered_websocket.history.scripts import (
    append_arguments,
    head_of,
    keys_of,
    read_arguments,
)
from filtered_websocket.layer.envelope import Batch, Item, group_key, seal

BATCH = Batch("0123456789abcdef", group_key("default"), 7, [Item(1, "t", "", b"a", {})])
BASE = "fws:{37a8eec1ce19687d132fe29051dca629}:"


def test_a_group_has_the_keys_that_it_always_had():
    assert keys_of(group_key("default")) == (BASE + "m", BASE + "h")
    keys, _ = append_arguments(BATCH, [b"item"], Retention(9, 60), "", "order \ud800")
    assert keys[:3] == (BASE + "m", BASE + "h", BASE + "p:0123456789abcdef")
    assert keys[3] == BASE + "k:18a604034ada5a1f53f720354c0b067e"


def test_publications_and_position_have_their_time_in_ms():
    _, arguments = append_arguments(BATCH, [b"item"], Retention(9, 0.0001), "channel", "")
    assert arguments[1:6] == ("7", "9", "1", "604800001", "channel")
    _, arguments = append_arguments(BATCH, [b"item"], Retention(9, 1.5), "", "")
    assert arguments[3:5] == ("1500", "604801500") and arguments[-2:] == (b"", b"item")


@pytest.mark.parametrize("count", [1, 15, 16, 256])
def test_an_envelope_is_put_together_as_it_would_be_sealed(count):
    batch = BATCH._replace(items=BATCH.items * count, epoch="fedcba9876543210")
    items = [msgpack.packb(item) for item in batch.items]
    tail = b"\xa1e\xb0fedcba9876543210\xa1s\x07"
    assert head_of(batch.origin, batch.key, count) + b"".join(items) + tail == msgpack.packb(
        seal(batch)
    )


@pytest.mark.parametrize(
    ("offset", "text"), [(-(10**30), "-1"), (0, "0"), (7, "7"), (10**30, str(2**53))]
)
def test_any_offset_is_one_that_lua_counts(offset, text):
    _, arguments = read_arguments("fws.g.x", Position("e", offset), None, True)
    assert arguments[2:] == ("e", text, "-1", "1")
