"""System checks of the apps of the Pusher protocol."""

import subprocess
import sys
import weakref

import pytest
from django.db import DatabaseError
from django.db.models import QuerySet
from django.urls import path

from filtered_websocket.checks.pusher import check_pusher, check_pusher_rows
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group
from filtered_websocket.models import PusherApp
from filtered_websocket.pipelines import route as route_module
from filtered_websocket.routing import Router

grouppatterns = [
    group("open", join=True),
    group("closed", join=False),
]
APP = {"ID": "1", "KEY": "app-key", "SECRET": "s" * 32}


@pytest.fixture(autouse=True)
def no_other_routes(monkeypatch):
    monkeypatch.setattr(route_module, "_routes", weakref.WeakSet())


def found():
    return [(message.id.partition(".")[2], message.msg) for message in check_pusher()]


def served(*names, **options):
    application = FilteredWebSocketConsumer.as_asgi(filters=[], groups=names or None, **options)
    Router([path("live", application)])
    return application


def test_without_apps_nothing_is_found_but_a_route_that_refuses_all(settings):
    settings.FILTERED_WEBSOCKET = {}
    kept = served("news")
    assert found() == []
    kept = kept, served(protocol="pusher")
    assert found() == [
        (
            "W025",
            "Clients of the route at /live speak 'pusher', and there is no app: all are refused"
            " with 4001.",
        )
    ]


def test_a_mistake_in_an_app(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [{"KEY": "a"}]}
    [(identifier, message)] = found()
    assert identifier == "E031" and "has no ID" in message


def test_a_short_secret(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [{**APP, "SECRET": "short"}]}
    [(identifier, message)] = found()
    assert identifier == "W026" and "'1' has 5 characters" in message and "short:" not in message


def test_groups_of_plain_routes_that_anybody_may_listen_to(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP], "GROUPS": "tests.checks.test_pusher"}
    kept = [
        served("news", "closed", "open", "private-a", "room:1"),
        served("other", protocol="pusher"),
        FilteredWebSocketConsumer.as_asgi(filters=[], groups=["unserved"]),
    ]
    assert kept and [(one, text.split("'")[1]) for one, text in found()] == [
        ("W027", "news"),
        ("W027", "open"),
    ]
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP]}
    assert "closed" in [text.split("'")[1] for _, text in found()]


def test_rules_and_routes_that_cannot_be_loaded_are_others_to_report(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP], "GROUPS": "tests.nothing"}
    assert found() == []
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP]}
    kept = served("news")
    kept.route.forget()
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP], "PROTOCOL": "nonsense"}
    assert found() == []
    settings.FILTERED_WEBSOCKET = {"PROTOCOL": "nonsense"}
    assert found() == []


@pytest.mark.repeats
def test_nobody_pays_for_it_who_has_no_app():
    """What is imported with the package, in a process of its own."""
    code = (
        "import django, sys; from django.conf import settings;"
        "apps = 'django.contrib.contenttypes django.contrib.auth filtered_websocket';"
        "settings.configure(INSTALLED_APPS=apps.split()); django.setup();"
        "import filtered_websocket.routing, filtered_websocket.checks.pusher;"
        "filtered_websocket.checks.pusher.check_pusher();"
        "print([name for name in sys.modules if 'websocket.pusher' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Apps of the admin


def found_in_rows(**fields):
    PusherApp.objects.create_app(name="shop", app_id="77", key="shop-key")
    PusherApp.objects.create_app(name="other")
    PusherApp.objects.filter(app_id="77").update(**fields)
    warnings = check_pusher_rows(databases=["default"])
    return [(warning.id.partition(".")[2], warning.msg) for warning in warnings]


@pytest.fixture
def in_admin(settings, db):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP], "PUSHER_APPS_IN_ADMIN": True}


def test_apps_of_the_admin_that_can_be_served(in_admin):
    assert found_in_rows(enabled=False) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"app_id": "1"}, "an app of PUSHER_APPS has the same id or key"),
        ({"key": "app-key"}, "an app of PUSHER_APPS has the same id or key"),
        ({"encrypted_secret": "lost"}, "make a new secret in the admin"),
        ({"activity_timeout": 0}, "it has ACTIVITY_TIMEOUT 0"),
    ],
)
def test_apps_of_the_admin_that_are_refused(in_admin, fields, words):
    [(identifier, message)] = found_in_rows(**fields)
    assert identifier == "W030" and "'shop (" in message and words in message


def test_a_secret_that_a_fallback_decrypts(in_admin, settings):
    PusherApp.objects.create_app(name="old")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    [(identifier, message)] = found_in_rows()
    assert identifier == "W031" and "'old (" in message


def test_apps_of_the_admin_are_looked_at_only_where_checks_may_use_the_database(
    in_admin, settings, django_assert_num_queries
):
    with django_assert_num_queries(0):
        assert check_pusher_rows() == check_pusher_rows(databases=["other"]) == []
        settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": [APP]}
        assert check_pusher_rows(databases=["default"]) == []


def test_before_its_migration_nothing_is_found(in_admin, monkeypatch):
    def no_table(self):
        raise DatabaseError("no such table")

    monkeypatch.setattr(QuerySet, "__iter__", no_table)
    assert check_pusher_rows(databases=["default"]) == []


def test_apps_of_the_admin_alone_are_apps(settings):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS_IN_ADMIN": True}
    kept = served(protocol="pusher")
    assert kept and found() == []
