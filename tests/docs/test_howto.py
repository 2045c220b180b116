"""The pages that say how to do something run as they are written, in this process."""

import json
import os
import subprocess
import sys
import tomllib
import types
import unittest

import celery
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.core.asgi import get_asgi_application
from django.db.models.signals import post_save
from django.urls import path

from filtered_websocket.checks.settings import check_access, check_settings
from filtered_websocket.exceptions import NoSuchMethod
from filtered_websocket.groups import group
from filtered_websocket.history import history
from filtered_websocket.testing import allows, connect

from ..javascript.test_client import node
from ..protocols.clients import app as speaking
from ..protocols.clients import speak
from ..snippets import named

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def plain(settings):
    settings.FILTERED_WEBSOCKET = {}


def run_tests(module):
    """As ``manage.py test`` finds tests in a module, and runs them."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert result.wasSuccessful(), (result.errors, result.failures)
    return result.testsRun


# Tests


@pytest.fixture
def tested(site, settings):
    """The filter and the view that the examples test."""
    site.run("README.md", "mysite/filters.py", "mysite.filters")
    [views] = site("docs/users.md", "views.py")
    urls = sys.modules["mysite.urls"] = types.ModuleType("mysite.urls")
    urls.urlpatterns = [path("greet/<int:pk>/", views.greet)]
    settings.ROOT_URLCONF = "mysite.urls"


def test_tests_of_django(site, tested):
    [tests] = site("docs/testing.md", "tests.py")
    assert run_tests(tests) == 2


async def test_tests_of_pytest(site, tested):
    page = site.run("docs/testing.md", "test_shout.py", pytest=pytest)
    # Of these, manage.py test would run none.
    assert await sync_to_async(run_tests)(page) == 0
    await page.test_what_is_said_is_shouted()
    await page.test_strangers_are_refused()
    await page.test_each_device_gets_it()


def test_pytest_is_told_how_to_run_them():
    options = tomllib.loads(named("docs/testing.md")["pyproject.toml"])["tool"]["pytest"]
    assert set(options["ini_options"]) == {"DJANGO_SETTINGS_MODULE", "asyncio_mode"}


# Front ends


def test_a_site_serves_front_ends(site):
    page = site.run("docs/frontend.md", "end of asgi.py", application=get_asgi_application())
    assert callable(page.application)


def test_a_development_server_passes_sockets_on(tmp_path):
    script = tmp_path / "vite.config.mjs"
    script.write_text(named("docs/frontend.md")["vite.config.js"])
    code = "import(process.argv[1]).then((made) => console.log(JSON.stringify(made.default)))"
    said = subprocess.check_output([node(), "-e", code, script.as_uri()])
    [(path, rule)] = json.loads(said)["server"]["proxy"].items()
    assert path == "/connection/websocket" and rule["ws"]


# Calls


class Articles:
    async def aget(self, pk):
        return types.SimpleNamespace(name="kettle", stock=3)

    def take_one(self, pk):
        return 2


async def test_calls(site):
    models = types.ModuleType("mysite.models")
    models.Article = types.SimpleNamespace(objects=Articles())
    sys.modules["mysite.models"] = models
    filters, tests = site("docs/calls.md", "filters.py", "test_calls.py")
    await tests.test_stock()
    async with connect([filters.Stock, filters.Order], user=User(pk=1)) as client:
        assert await client.call("order", 17) == {"left": 2}
        with pytest.raises(NoSuchMethod):
            await client.call("nothing")


# A dashboard


def test_a_task_publishes_and_signals_start_it(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups"}
    site("docs/dashboard.md", "groups.py")
    # No broker and no worker: a task runs where it is started.
    celery.Celery("mysite", set_as_current=True, task_always_eager=True)
    _, signals = site("docs/dashboard.md", "tasks.py", "signals.py")
    try:
        User.objects.create(username="ann")
        User.objects.create(username="bob", is_active=False)
    finally:
        post_save.disconnect(signals.user_saved, sender=User)
        celery.current_app.close()
    [latest] = history("dashboard:users").publications
    assert json.loads(latest.data) == {"users": 2, "active": 1}


async def test_only_who_has_the_permission_sees_it(site, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups"}
    site("docs/dashboard.md", "groups.py")
    admin = await User.objects.acreate(username="admin", is_superuser=True)
    assert await allows("mysite.groups", "join", "dashboard:users", admin)
    assert not await allows("mysite.groups", "join", "dashboard:users", User(pk=5))
    assert not await allows("mysite.groups", "publish", "dashboard:users", admin)


# JSON Web Tokens


def test_a_view_signs_tokens_and_they_open_connections(site, settings, monkeypatch, rf):
    monkeypatch.setenv("JWT_KEY", "of this test alone, and long enough for it")
    page = site.run("docs/spa.md", "settings.py", os=os)
    settings.FILTERED_WEBSOCKET = page.FILTERED_WEBSOCKET | {"GROUPS": None}
    [live] = site("docs/spa.md", "live.py")
    assert check_settings() == [] and check_access() == []
    ann = User.objects.create(username="ann")
    request = rf.post("/live/token/")
    request.user = AnonymousUser()
    assert live.token(request).status_code == 401
    request.user = ann
    token = json.loads(live.token(request).content)["token"]

    async def use():
        app = speaking(rules=[group("room")])
        async with speak(connects=False, application=app) as client:
            assert "connect" in await client.ask(connect={"token": token})
            assert client.client.connection.user == ann
            await sync_to_async(site.run)("docs/spa.md", "logout", user=ann)
            return await client.closed()

    assert async_to_sync(use)() == 3500
