"""Checks of the groups that are those of Channels, too."""

import pytest

from filtered_websocket.checks.channels import check_channels
from filtered_websocket.checks.settings import check_settings
from filtered_websocket.groups import History, forward, group, personal

#: As GROUPS names them.
grouppatterns = [
    group("news"),
    group("chat_<slug:room>", history=History(size=5, ttl=60)),
    group("live", history=History(size=5, ttl=60)),
    personal(history=History(size=5, ttl=60)),
]


def found(settings, *entries, **more):
    settings.FILTERED_WEBSOCKET = {"CHANNELS_GROUPS": list(entries), **more}
    return [(one.id.partition(".")[2], one.msg, one.hint) for one in check_channels()]


@pytest.mark.parametrize("name", ["ch@t", "chat:1", "x" * 100, "", "or ders", 5, group("chat")])
def test_e036_a_name_that_channels_does_not_accept(settings, name):
    [(number, message, hint)] = found(settings, "chat", name, forward("chat"))
    assert number == "E036" and repr(name)[:60] in message and "orders-*" in hint


def test_what_is_no_list_is_reported_with_the_other_settings(settings):
    settings.FILTERED_WEBSOCKET = {"CHANNELS_GROUPS": "chat"}
    assert list(check_channels()) == []
    [error] = check_settings()
    assert error.id == "filtered_websocket.E002" and "forward(...)" in error.hint


def test_w034_without_a_layer_nothing_is_received(settings):
    assert found(settings, "chat", forward("chat")) == []
    settings.CHANNEL_LAYERS = {}
    assert [number for number, _, _ in found(settings, "chat")] == ["W034"]
    assert found(settings) == []


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ("chat_1", "group('chat_<slug:room>')"),
        ("ch*", "group('chat_<slug:room>')"),
        ("chat_vip_*", "group('chat_<slug:room>')"),
        ("live", "group('live')"),
        ("l*", "group('live')"),
    ],
)
def test_w035_what_channels_sends_is_in_no_history(settings, entry, rule):
    [(number, message, _)] = found(settings, entry, GROUPS=__name__)
    assert number == "W035" and rule in message and repr(entry) in message


def test_w035_is_not_raised_for_groups_without_one_nor_for_what_is_forwarded(settings):
    entries = ["news", "live2", "live-*", "chat-1", "orders-*", forward("chat_*"), forward("live")]
    assert found(settings, *entries, GROUPS=__name__) == []
