"""The groups that requests name."""

import pytest
from django.contrib.auth.models import User

from filtered_websocket.testing import published

from .calling import SITE, error, result


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
