"""What is kept of a group: history.base."""

import pytest

from filtered_websocket.history.base import Position, Publication, find_range, new_epoch
from filtered_websocket.layer.envelope import EVENT, Item
from filtered_websocket.publishing.items import new_item


def test_a_publication_has_what_is_needed_to_send_it_again():
    item = new_item({"a": 1}, sender="ann", exclude=["bob"])
    publication = Publication(7, item)
    assert (publication.kind, publication.data) == ("j", b'{"a":1}')
    assert (publication.sender, publication.exclude, publication.event) == ("ann", ["bob"], "")
    named = Publication(8, Item(1, "t", "", b"", {EVENT: "news"}))
    assert (named.event, named.exclude) == ("news", [])


def test_no_epoch_comes_twice():
    epochs = {new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000 and {len(epoch) for epoch in epochs} == {16}


@pytest.mark.parametrize(
    ("since", "limit", "reverse", "offsets"),
    [
        (None, None, False, [6, 7, 8]),
        (None, 2, False, [6, 7]),
        (None, 2, True, [7, 8]),
        (None, 0, False, []),
        (None, 0, True, []),
        (Position("e", 8), None, False, []),
        (Position("e", 5), None, False, [6, 7, 8]),
        (Position("", 5), 1, False, [6]),
        (Position("e", 4), None, False, None),
        (Position("", 4), None, False, None),
        (Position("f", 8), None, False, None),
        (Position("e", 9), None, False, None),
        (Position("e", -1), None, False, None),
        (Position("e", 8), 1, True, [7]),
        (Position("e", 7), None, True, [6]),
        (Position("e", 6), None, True, None),
        (Position("e", 1), None, True, []),
    ],
    ids=str,
)
def test_a_page_of_the_publications_6_to_8_is_whole_or_nothing(since, limit, reverse, offsets):
    found = find_range(Position("e", 8), 3, since, limit, reverse)
    assert (found if found is None else list(found)) == offsets
