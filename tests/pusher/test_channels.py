"""Names of channels: what they are, and which groups."""

import pytest

from filtered_websocket.groups import History, group, personal
from filtered_websocket.pipelines.rules import make_rules
from filtered_websocket.pusher.apps import make_app
from filtered_websocket.pusher.channels import (
    KINDS,
    ChannelRules,
    channel_of,
    group_of,
    is_channel,
    kind_of,
)

from .clients import APP, OTHER

FIRST, SECOND = make_app(APP, 0), make_app(OTHER, 1)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("news", ""),
        ("private", ""),
        ("privateer", ""),
        ("my-private-a", ""),
        ("private-", "private-"),
        ("private-cache-a", "private-cache-"),
        ("private-encrypted-a", "private-encrypted-"),
        ("private-encrypted-cache-a", "private-encrypted-cache-"),
        ("presence-a", "presence-"),
        ("presence-cache-a", "presence-cache-"),
        ("cache-a", "cache-"),
    ],
)
def test_the_longest_beginning_decides(name, prefix):
    assert kind_of(name).prefix == prefix


def test_no_kind_hides_another():
    for kind in KINDS:
        assert kind_of(kind.prefix + "a") == kind


def test_groups_of_apps_never_meet():
    for name in ("news", "private-a"):
        assert channel_of(FIRST, group_of(FIRST, name)) == name
        assert channel_of(SECOND, group_of(SECOND, name)) == name
        assert channel_of(FIRST, group_of(SECOND, name)) is None
        assert channel_of(SECOND, group_of(FIRST, name)) is None
    assert channel_of(FIRST, "room:1") is None and channel_of(SECOND, "2:room:1") is None
    assert not is_channel(7)


def test_rules_of_the_site_and_of_kinds():
    listed = [
        group("presence-room-<room>", publish=True, history=History(5, 5)),
        group("presence-full", presence=True, join_leave=True),
        group("2:presence-own", see=True),
        group("news", history=History(5, 5)),
        group("board:<room>"),
        personal(see=True),
    ]
    rules = ChannelRules(make_rules(listed, "the rules"))
    room = rules.find("presence-room-7")
    assert room.captured == {"room": "7"} and room.rule.history == History(5, 5)
    assert room.rule.presence and room.rule.join_leave and room.rule.publish is True
    assert rules.find("presence-room-8").rule is room.rule
    assert rules.find("presence-full").rule is listed[1]
    own = rules.find("2:presence-own").rule
    assert own.see is True and own.presence
    assert rules.find("news").rule is listed[3] and rules.keeps
    assert rules.find("board:1").rule is listed[4] and rules.find("room:1") is None
    assert rules.find("user:5").rule is listed[5]
    assert rules.find("private-a").rule.publish is True
    assert rules.find("2:private-a").rule.publish is True
    assert rules.find("private-encrypted-a").rule.publish is False
    assert rules.find("other").rule.publish is False
    assert any(rule.presence for rule in ChannelRules(None))


def test_who_may_send_client_events():
    rules = ChannelRules(make_rules([group("private-silent", publish=False)], "the rules"))
    for channel, allowed in (
        ("private-a", True),
        ("presence-a", True),
        ("private-silent", False),
        ("news", None),
        ("private-encrypted-a", None),
        ("#server-to-user-5", None),
        ("private-no:channel", None),
    ):
        assert rules.who_publishes(channel, channel) is allowed
    assert rules.who_publishes("2:private-a", "private-a") is True
