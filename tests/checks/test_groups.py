"""System checks of group rules and of the groups that routes join."""

import sys
import types

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio.connection import Connection

from filtered_websocket.checks.groups import check_groups
from filtered_websocket.checks.settings import CORE, IN_MEMORY, PUBSUB, check_filters
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group, personal


@pytest.fixture
def declare(monkeypatch, settings):
    made = types.ModuleType("site_groups")
    monkeypatch.setitem(sys.modules, "site_groups", made)

    def set_rules(*rules):
        made.grouppatterns = list(rules)
        settings.FILTERED_WEBSOCKET = {"GROUPS": "site_groups"}

    return set_rules


def found(check=check_groups):
    return [(message.id.partition(".")[2], message.msg) for message in check()]


def test_rules_without_a_mistake(declare):
    declare(
        group("news"),
        group("a", join="auth.view_user", publish="filtered_websocket.add_token", see=True),
        group("room:<int:room>", history=History(10, 60)),
        personal(history=History(10, 60)),
    )
    assert found() == [] == found(check_filters)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([group("room:<nothing:x>")], "'nothing'"),
        ([group("<str:x>"), group("a")], "group('a') is never used: group('<str:x>') comes first"),
        ([group("user:<int:x>")], "are the groups of users"),
        ([3], "entry 0 is 3"),
    ],
)
def test_rules_that_cannot_be_used_are_one_error(declare, rules, words):
    declare(*rules)
    [(number, message)] = found(check_filters)
    assert number == "E023" and message.startswith("GROUPS 'site_groups'") and words in message
    assert found() == []


def test_a_module_that_is_not_there_is_an_error(settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "nowhere.groups"}
    [(number, message)] = found(check_filters)
    assert (number, "there is no module 'nowhere.groups'" in message) == ("E023", True)
    settings.FILTERED_WEBSOCKET = {"GROUPS": 5}
    assert found() == []


@pytest.mark.parametrize("name", ["auth.view_usr", "auth", "", "nowhere.view_user", "view_user"])
def test_a_permission_that_no_model_has_is_a_warning(declare, name):
    declare(group("a", join=name), group("b", see=name))
    assert found() == [
        (
            "W018",
            f"GROUPS 'site_groups': group({rule!r}): no model of this site has the permission"
            f" {name!r} ({what}).",
        )
        for rule, what in (("a", "join"), ("b", "see"))
    ]


def test_no_database_is_asked_which_may_not_be_there_yet(declare):
    """The test has no mark for the database: a query would fail it."""
    declare(group("a", join="auth.add_permission"))
    assert found() == []


def test_rules_of_a_route_are_checked_too():
    route = FilteredWebSocketConsumer.as_asgi(
        filters=[], group_rules=[group("mine", join="auth.no_such")]
    )
    [(number, message)] = found()
    assert number == "W018" and message.startswith("group_rules: group('mine')")
    del route


def test_a_history_of_a_route_alone_keeps_nothing_that_views_publish(declare, settings):
    rules = [group("plain"), group("kept:<name>", history=History(1, 1))]
    routes = [
        FilteredWebSocketConsumer.as_asgi(filters=[], group_rules=rules),
        FilteredWebSocketConsumer.as_asgi(filters=[], group_rules=[group("plain")]),
    ]
    words = "group_rules: group('kept:<name>') has a history for what connections of its route"
    [(number, message)] = found()
    assert number == "W024" and message.startswith(f"{words} publish, and GROUPS is None:")
    declare(group("plain"))
    [(number, message)] = found()
    assert number == "W024" and message.startswith(f"{words} publish, and GROUPS is 'site_groups'")
    declare(group("plain"), group("kept:<int:number>", history=History(1, 1)))
    assert found() == []
    for wrong in ("nowhere.groups", 5):
        settings.FILTERED_WEBSOCKET = {"GROUPS": wrong}
        assert found() == []
    del routes


class OwnLayer(RedisPubSubChannelLayer):
    """May change messages."""


class OwnConnection(Connection):
    pass


OWN = f"{__name__}.OwnLayer"
FOREIGN = "channels.layers.BaseChannelLayer"


@pytest.mark.parametrize(
    ("backend", "keeps_history", "keeps_presence"),
    [
        (PUBSUB, True, True),
        (IN_MEMORY, True, True),
        (CORE, True, True),
        (OWN, True, True),
        (FOREIGN, False, False),
        (f"{__name__}.group", False, False),  # no class
    ],
)
def test_history_and_presence_need_a_layer_that_can_keep_them(
    declare, settings, backend, keeps_history, keeps_presence
):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    declare(group("a"), group("b", history=History(1, 1)))
    messages = found()
    assert [number for number, _ in messages] == ([] if keeps_history else ["E024"])
    assert all(backend in words and "group('b')" in words for _, words in messages)
    declare(group("a"), group("b", presence=True))
    assert [number for number, _ in found()] == ([] if keeps_presence else ["E026"])
    declare(group("a"))
    assert found() == []


@pytest.mark.parametrize(
    ("hosts", "can"),
    [
        (["redis://a:1", "redis://b:1"], True),
        ([{"sentinels": [("a", 1)], "master_name": "m"}], True),
        (["redis://a:1", {"host": "b", "connection_class": OwnConnection}], False),
        ("redis://a:1", True),  # channels_redis refuses a text, with its own words
    ],
)
def test_history_needs_connections_that_the_package_makes_itself(declare, settings, hosts, can):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": hosts}}}
    declare(group("b", history=History(1, 1), presence=True))
    messages = found()
    assert [number for number, _ in messages] == ([] if can else ["E024"])
    assert all("only redis-py can connect" in words for _, words in messages)


def test_a_layer_that_cannot_be_imported_is_not_told_here(declare, settings):
    declare(group("b", history=History(1, 1)))
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "nowhere.Layer"}}
    assert found() == []
    settings.CHANNEL_LAYERS = {}
    assert found() == []


def test_a_route_whose_group_looks_like_that_of_a_user_is_a_warning(settings):
    route = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["home", "user:all"])
    broken = FilteredWebSocketConsumer.as_asgi(filters=["no.such"], groups=["token:x"], build=False)
    [(number, message)] = found()
    assert number == "W019" and message.startswith("A route's group 'user:all'")
    del route, broken
