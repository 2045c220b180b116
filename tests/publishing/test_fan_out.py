"""One message, or many at once, to many members."""

import pytest

from filtered_websocket.layer.envelope import EXCLUDE, Item
from filtered_websocket.publishing.fan_out import write_items
from filtered_websocket.transports import AsgiTransport


def item(text, *exclude):
    return Item(1, "t", "", text.encode(), {EXCLUDE: list(exclude)} if exclude else {})


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize(
    "items",
    [
        [item("123456")],
        [item("1"), item("23456")],
        [item("1", "other"), item("23456"), item("7", "ann")],
        [item("1" * 40_000), item("2" * 40_000)],
    ],
)
async def test_who_has_no_room_is_closed_where_messages_are_kept(settings, items, is_kept):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    ann = AsgiTransport(None, 5, print)
    write_items({"ann": ann}, items, is_kept)
    assert ann.closing is is_kept
    ann.stop()
