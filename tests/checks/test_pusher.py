"""System checks of the apps of the Pusher protocol."""

import subprocess
import sys
import weakref

import pytest
from django.urls import path

from filtered_websocket.checks.pusher import check_pusher
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group
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


def test_nobody_pays_for_it_who_has_no_app():
    """What is imported with the package, in a process of its own."""
    code = (
        "import django, sys; from django.conf import settings;"
        "apps = 'django.contrib.contenttypes django.contrib.auth filtered_websocket';"
        "settings.configure(INSTALLED_APPS=apps.split()); django.setup();"
        "import filtered_websocket.routing, filtered_websocket.checks.pusher;"
        "filtered_websocket.checks.pusher.check_pusher();"
        "print([name for name in sys.modules if 'pusher' in name and 'checks' not in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
