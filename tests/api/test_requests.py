"""Fields of requests, the groups that they name, and what is wrong with them."""

import pytest
from django.contrib.auth.models import User

from filtered_websocket.testing import published

from .calling import SITE, error, result

WRONG = [
    ("publish", {"channel": 3, "data": 1}, "'channel' is a text, not 3"),
    ("publish", {"data": 1}, "'channel' is missing"),
    ("publish", {"channel": "", "data": 1}, "'channel' is missing"),
    ("publish", {"channel": "news"}, "'data' is missing"),
    ("publish", {"channel": "news", "data": 1, "skip_history": 1}, "is true or false, not 1"),
    ("publish", {"channel": "news", "data": 1, "tags": ["a"]}, "'tags' is an object of texts"),
    ("publish", {"channel": "news", "data": 1, "tags": {"a": 1}}, "'a' is 1"),
    ("publish", {"channel": "news", "b64data": "%"}, "'b64data' is not base64"),
    ("publish", {"channel": "news", "b64data": "\u00e9"}, "'b64data' is not base64"),
    ("broadcast", {"data": 1}, "'channels' is missing"),
    ("broadcast", {"data": 1, "channels": "news"}, "'channels' is a list, not 'news'"),
    ("broadcast", {"data": 1, "channels": ["news", 3]}, "is a list of texts: 3 is none"),
    ("history", {"channel": "kept:a", "limit": "1"}, "'limit' is a whole number, not '1'"),
    ("history", {"channel": "kept:a", "limit": True}, "'limit' is a whole number, not True"),
    ("history", {"channel": "kept:a", "since": 5}, "'since' is a JSON object, not 5"),
    ("history", {"channel": "kept:a", "since": {"epoch": 5}}, "'epoch' is a text, not 5"),
    ("disconnect", {}, "'user' is missing"),
    ("disconnect", {"user": "1", "code": 1006}, "close code 1006"),
    ("disconnect", {"user": "1", "code": 4000, "reason": "x" * 124}, "over 123 bytes"),
    ("disconnect", {"user": "1", "disconnect": []}, "'disconnect' is a JSON object"),
    ("disconnect", {"user": "1", "whitelist": [1]}, "is a list of texts"),
    ("refresh", {"user": "1", "expire_at": -1}, "'expire_at' is a Unix time in seconds, not -1"),
    ("refresh", {"user": "1", "expire_at": 10**12}, "'expire_at' is a Unix time"),
    ("subscribe", {"channel": "news"}, "'user' is missing"),
    ("subscribe", {"user": "1"}, "'channel' is missing"),
    ("batch", {}, "'commands' is missing"),
    ("batch", {"commands": {}}, "'commands' is a list, not {}"),
]


@pytest.mark.parametrize(("method", "fields", "words"), WRONG)
def test_what_is_wrong_with_a_field_is_said(method, fields, words):
    code, message = error(method, **fields)
    assert code == 107 and message.startswith("bad request: ") and words in message


UNSERVED = [
    ("publish", {"channel": "news", "data": 1}, ["version", "version_epoch"]),
    ("disconnect", {"user": "1"}, ["session"]),
    ("unsubscribe", {"user": "1", "channel": "news"}, ["session"]),
    ("refresh", {"user": "1"}, ["session", "info"]),
    (
        "subscribe",
        {"user": "1", "channel": "news"},
        [
            *("info", "b64info", "data", "b64data", "recover_since", "override", "session"),
            "expire_at",
        ],
    ),
]


@pytest.mark.parametrize(
    ("method", "fields", "name"),
    [(method, fields, name) for method, fields, names in UNSERVED for name in names],
)
def test_a_field_that_would_have_no_effect_is_refused(method, fields, name):
    code, message = error(method, **fields, **{name: "something"})
    assert code == 108 and repr(name) in message
    assert result(method, **fields, **{name: None}) == {}


# Groups


def names(*channels):
    """The groups that were published to."""
    with published() as found:
        for channel in channels:
            assert set(result("publish", channel=channel, data="x")) <= {"offset", "epoch"}
    return [one.group for one in found]


def test_groups_are_named_as_in_python_and_those_of_users_as_on_the_wire():
    assert names("news", "room:7", "token:3", "#5") == ["news", "room:7", "token:3", "user:5"]


def test_a_name_that_no_rule_declares_is_error_102():
    code, message = error("publish", channel="room:x", data=1)
    assert code == 102 and "GROUPS 'tests.api.calling'" in message and "'room:x'" in message
    for method in ("presence", "presence_stats", "history", "history_remove"):
        assert error(method, channel="room:x")[0] == 102
    for method in ("subscribe", "unsubscribe"):
        assert error(method, user="1", channel="room:x")[0] == 102


def test_without_rules_every_name_is_a_group(site):
    site.FILTERED_WEBSOCKET = SITE | {"GROUPS": None}
    assert names("anything") == ["anything"]
    assert error("presence", channel="anything")[0] == 108


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ("#", "'#' is followed by the primary key of a user"),
        ("user:5", "is called '#5' here"),
        ("x" * 1025, "1 to 1024 characters, not 1025"),
    ],
)
def test_what_is_no_name_is_error_107(channel, words):
    code, message = error("publish", channel=channel, data=1)
    assert code == 107 and words in message


@pytest.mark.parametrize("channel", ["#5", "token:5"])
def test_reserved_groups_are_joined_by_nobody_else(channel):
    code, message = error("subscribe", user="1", channel=channel)
    assert code == 103 and "names that begin with" in message


def test_what_a_rule_does_not_keep_is_error_108():
    for channel, methods in {
        "news": ["presence", "presence_stats", "history", "history_remove"],
        "room:1": ["history"],
        "#5": ["presence"],
        "token:5": ["history"],
    }.items():
        for method in methods:
            code, message = error(method, channel=channel)
            assert code == 108 and repr(channel) in message


@pytest.mark.django_db
def test_the_own_group_of_a_user_is_that_of_the_tenant_of_the_request(site):
    user = User.objects.create(username="ann")
    site.FILTERED_WEBSOCKET = SITE | {"TENANT": lambda: "acme"}
    assert names(f"#{user.pk}") == [f"user:{user.pk}\0acme"]
