"""What subscribers are sent, and when: the Centrifuge protocol's side of a hub's view."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from filtered_websocket.chains.current import About
from filtered_websocket.codecs.centrifuge import JSON
from filtered_websocket.groups import channel_name
from filtered_websocket.history.base import Position
from filtered_websocket.layer.envelope import EXCLUDE, TAGS
from filtered_websocket.protocols.channels import that_fit
from filtered_websocket.protocols.pushes import Pushes


class Transport:
    unsent = 0

    def __init__(self):
        self.written = []
        self.overflows = []

    def write(self, frame):
        self.written.append(frame.payload)

    def overflow(self, is_kept=False):
        self.overflows.append(is_kept)


@pytest.fixture
def pushes():
    return Pushes(Counter())


def subscriber(name):
    lost = []
    return SimpleNamespace(id=name, format=JSON, transport=Transport(), lost=lost, lose=lost.append)


def message(pushes, data, text=True, offset=None, **meta):
    about = About("news", "", meta, offset and Position("e", offset))
    return about, pushes.publication(about, data, text)


def publication(pushes, message, **meta):
    return pushes.publication(About("news", "", meta), message, True)


def test_what_comes_before_the_reply_waits_for_it(pushes):
    ann = subscriber("ann")
    pushes.begin(ann, "news")
    pushes.send(*message(pushes, [1]))
    pushes.send(*message(pushes, b"\xff", False))
    pushes.send(*message(pushes, [2], **{EXCLUDE: ["ann"]}))
    pushes.write_all((ann.transport,), publication(pushes, [3]), ())
    assert ann.transport.written == []
    pushes.stand(ann, "news", False)
    pushed = [json.loads(one)["push"]["pub"]["data"] for one in ann.transport.written]
    assert pushed == [[1], [3]]
    assert pushes._counts["not_json"] == 1


def test_bytes_that_a_chain_made_are_left_out_and_counted_for_each(pushes):
    ann, bob = subscriber("ann"), subscriber("bob")
    for one in (ann, bob):
        pushes.begin(one, "news")
        pushes.stand(one, "news", False)
    pushes.send(*message(pushes, b"\xff", False))
    pushes.send(*message(pushes, [1]))
    assert pushes._counts["not_json"] == 2
    assert len(ann.transport.written) == len(bob.transport.written) == 1


def test_tags_are_told_in_pushes_and_replies(pushes):
    ann, tags = subscriber("ann"), {"kind": "joke"}
    pushes.begin(ann, "news")
    pushes.send(*message(pushes, [1], **{TAGS: tags}))
    assert pushes.take(ann, "news")[0].value["tags"] == tags
    pushes.stand(ann, "news", False)
    pushes.send(*message(pushes, [1], **{TAGS: tags}))
    [written] = ann.transport.written
    assert json.loads(written)["push"]["pub"] == {"data": [1], "tags": tags}


def test_what_waits_for_the_reply_has_a_bound(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 2_000}
    ann = subscriber("ann")
    pushes.begin(ann, "news")
    for number in range(100):
        pushes.send(*message(pushes, [number]))
    assert len(ann.transport.overflows) > 90 and ann.lost == []
    for number in range(1, 100):
        pushes.send(*message(pushes, [number], offset=number))
    assert set(ann.lost) == {"news"} and pushes.first_offset(ann, "news") == 0
    taken = pushes.take(ann, "news")
    assert 1 < len(taken) < 10 and pushes.take(ann, "news") == []
    # There is room again.
    pushes.send(*message(pushes, [5], offset=100))
    assert pushes.first_offset(ann, "news") == 100


def test_of_a_page_there_is_one_at_least(pushes):
    page = [message(pushes, "x" * 1_000)[1] for _ in range(3)]
    assert list(that_fit(page, 10)) == page[:1]
    assert list(that_fit(page, 3_000)) == page[:2]
    assert list(that_fit(page, 30_000)) == page
    assert list(that_fit([], 10)) == []


def test_who_loses_something_while_it_is_told_what_waited_gets_no_more(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 5_000, "SLOW_READER": "drop_newest"}
    ann = subscriber("ann")
    ann.lose = lambda group: pushes.end(ann, group)
    pushes.begin(ann, "news")
    for offset in (1, 2):
        pushes.send(*message(pushes, [offset], offset=offset))
    ann.transport.unsent = 4_999
    pushes.stand(ann, "news", False)
    assert ann.transport.written == [] and not pushes._channels


def test_excluded_ones_are_left_out_where_the_newest_are_dropped(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    both = subscriber("ann"), subscriber("bob")
    for one in both:
        pushes.begin(one, "news")
        pushes.stand(one, "news", False)
    pushes.send(*message(pushes, [1], offset=1, **{EXCLUDE: ["ann"]}))
    assert [len(one.transport.written) for one in both] == [0, 1]


def test_an_excluded_one_without_room_loses_nothing(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 5_000}
    both = subscriber("ann"), subscriber("bob")
    for one in both:
        pushes.begin(one, "news")
        pushes.stand(one, "news", False)
        one.transport.unsent = 4_999
    pushes.send(*message(pushes, [1], offset=1, **{EXCLUDE: ["ann"]}))
    assert [one.lost for one in both] == [[], ["news"]]


def test_a_member_without_a_session_that_cannot_take_something_is_closed(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    stranger = SimpleNamespace(id="x", transport=Transport())
    about, _ = message(pushes, [1], offset=1)
    pushes.cannot_take(stranger, about)
    assert stranger.transport.overflows == [True]


def test_a_member_whose_send_chain_is_too_slow_loses_the_group(pushes, settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    ann = subscriber("ann")
    pushes.sessions["ann"] = ann
    pushes.cannot_take(ann, message(pushes, [1], offset=1)[0])
    assert ann.lost == ["news"] and ann.transport.overflows == []
    pushes.cannot_take(ann, message(pushes, [1])[0])
    assert ann.lost == ["news"] and ann.transport.overflows == [False]


def test_who_was_told_of_a_subscription_is_answered_by_pushes(pushes):
    ann, answered = subscriber("ann"), []
    ann.answered = answered.append
    pushes.sessions["ann"] = ann
    pushes.begin(ann, "news")
    pushes.stand(ann, "news", False)
    pushes.answered(ann, "news")
    assert answered == ["news"]


def test_a_group_that_nobody_hears_loses_nothing(pushes):
    pushes.lose("news")
    pushes.answered(SimpleNamespace(id="x"), "news")


def test_the_frame_of_a_publication_is_made_once(pushes, monkeypatch):
    made = []
    monkeypatch.setattr(JSON, "publication", lambda *args: made.append(args) or JSON.ping, False)
    for name in "abc":
        one = subscriber(name)
        pushes.begin(one, "news")
        pushes.stand(one, "news", False)
    pushes.send(*message(pushes, [1]))
    assert len(made) == 1


def test_a_group_without_subscribers_costs_nothing(pushes):
    pushes.send(*message(pushes, [1]))
    pushes.write_all((Transport(),), publication(pushes, [1]), ())
    assert pushes.end(subscriber("ann"), "news") is False


def test_only_subscribers_are_written_to(pushes):
    ann, other = subscriber("ann"), Transport()
    pushes.begin(ann, "news")
    pushes.stand(ann, "news", False)
    pushes.write_all((ann.transport, other), publication(pushes, [1]), ())
    assert len(ann.transport.written) == 1 and other.written == []
    assert pushes.end(ann, "news") is True
    assert pushes.end(ann, "news") is False


def test_connections_that_have_no_session_are_no_subscribers(pushes):
    stranger = SimpleNamespace(id="x")
    pushes.joined(stranger, "news", True)
    pushes.left(stranger, "news")
    assert pushes.sessions == {}


def test_the_own_group_of_a_user_has_a_short_name():
    assert channel_name("user:5\0tenant") == channel_name("user:5") == "#5"
    assert channel_name("news") == "news"
