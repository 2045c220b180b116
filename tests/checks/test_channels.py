"""Checks of how the channel layer is written, and of groups that are those of Channels, too."""

import pytest

from filtered_websocket.apps import CHECKS
from filtered_websocket.checks.channels import check_channels, check_written_layer
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


PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
ADDRESS = "redis://:secret@127.0.0.1:6379/0"


def written(settings, layers):
    settings.CHANNEL_LAYERS = layers
    assert {one.id for one in check_written_layer()} <= {"filtered_websocket.E037"}
    return [(one.msg, one.hint) for one in check_written_layer()]


@pytest.mark.parametrize(
    ("layer", "words", "cure"),
    [
        ({"BACKEND": PUBSUB + "s"}, "no attribute 'RedisPubSubChannelLayers'", "spelling"),
        (
            {"BACKEND": "channels_redis.pubsub"},
            "'channels_redis.pubsub', which is no class",
            PUBSUB,
        ),
        ({"BACKEND": "nowhere.Layer"}, "there is no module 'nowhere'", "spelling"),
        ({}, "its BACKEND is '', which is no class", PUBSUB),
        ({"BACKEND": PUBSUB, "hosts": [ADDRESS]}, "has 'hosts', which nothing", '"CONFIG": {...}'),
        ({"BACKEND": PUBSUB, "LOCATION": ADDRESS}, "has 'LOCATION', which", '"CONFIG": {...}'),
        ({"BACKEND": PUBSUB, "CONFIG": {"hosts": ADDRESS}}, "are a str, not a list", '[{"address"'),
        ({"BACKEND": PUBSUB, "CONFIG": {"hosts": {"address": ADDRESS}}}, "a dict", '[{"address"'),
        ({"BACKEND": PUBSUB, "CONFIG": {"hosts": ["secret:1"]}}, "begins with none", "redis://"),
        (
            {"BACKEND": PUBSUB, "CONFIG": {"hosts": [{"address": "secret:1"}]}},
            "an address begins with none of redis://, rediss://, unix://",
            "redis://",
        ),
    ],
)
def test_e037_a_layer_that_cannot_be_made_or_reached(settings, layer, words, cure):
    [(message, hint)] = written(settings, {"default": layer})
    assert message.startswith("CHANNEL_LAYERS['default']") and words in message and cure in hint
    assert "secret" not in message + hint and check_written_layer in CHECKS


def test_e037_a_layer_without_a_name(settings):
    [(message, hint)] = written(settings, {"BACKEND": PUBSUB, "CONFIG": {"hosts": [ADDRESS]}})
    assert message.endswith("no name for that layer.") and hint.startswith('Write {"default": {')


@pytest.mark.parametrize(
    "layers",
    [
        {},
        {"default": {"BACKEND": PUBSUB}},
        {"default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [ADDRESS, ("localhost", 6379)]}}},
        {"default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [{"sentinels": [], "host": "x"}]}}},
        {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "TEST_CONFIG": {}}},
    ],
)
def test_what_channels_takes_is_no_mistake(settings, layers):
    assert written(settings, layers) == []
