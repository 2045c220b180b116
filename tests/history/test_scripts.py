"""The names and bytes of histories in Redis: history.scripts. Old processes know them, too."""

import hashlib

import msgpack
import pytest

from filtered_websocket.history.base import Position, Retention
from filtered_websocket.history.scripts import (
    MAX_RENEWALS,
    Renewals,
    append_all,
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
    keys, arguments = append_arguments(BATCH, [b"item"], Retention(9, 60), "", "order \ud800")
    assert keys == keys_of(BATCH.key)
    assert arguments[0].endswith(b"18a604034ada5a1f53f720354c0b067e")


def spec_of(count, size, most, ttl, renews, origin=b"0123456789abcdef"):
    numbers = ((7, 8), (count, 2), (size, 4), (most, 4), (ttl, 8), (renews, 1))
    return origin + b"".join(number.to_bytes(width, "big") for number, width in numbers)


def test_the_time_is_renewed_before_it_can_be_too_short():
    renewals, retention = Renewals(), Retention(9, 80)
    assert renewals.is_due("a", retention, 7)
    renewals.note("a", 7)
    assert not renewals.is_due("a", retention, 17) and renewals.is_due("a", retention, 17.1)
    assert renewals.is_due("b", retention, 7)
    for number in range(MAX_RENEWALS):
        renewals.note(str(number), 8)
    assert renewals.is_due("a", retention, 8) and not renewals.is_due(str(number), retention, 8)


def test_a_batch_says_how_long_it_is_kept_in_ms():
    keys, arguments = append_arguments(BATCH, [b"item"], Retention(9, 0.0001), "channel", "")
    head = head_of(BATCH.origin, BATCH.key, 1)
    assert arguments == (spec_of(1, 9, 10, 1, 1), "channel", head, b"item")
    batch = BATCH._replace(origin="o")
    _, others = append_arguments(batch, [b"item"] * 2, Retention(7, 1.5), "", "", False)
    digest = hashlib.sha256(b"o").hexdigest()[:16].encode()
    assert others == (spec_of(2, 7, 7, 1500, 0, digest), "", b"", b"item", b"item")
    all_keys, (epoch, *all_arguments) = append_all([(keys, arguments), (keys, others)])
    assert all_keys == (*keys, *keys) and all_arguments == [*arguments, *others]
    assert len(epoch) == 16


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
