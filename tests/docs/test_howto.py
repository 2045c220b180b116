"""The pages that say how to do something run as they are written, in this process."""

import contextlib
import json
import os
import subprocess
import sys
import tomllib
import types
import unittest
from functools import partial

import celery
import jwt
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.testing import WebsocketCommunicator
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, User
from django.core.asgi import get_asgi_application
from django.db import connection
from django.db.models.signals import post_delete, post_save
from django.http import Http404
from django.urls import path

from filtered_websocket.checks.pusher import check_pusher
from filtered_websocket.checks.settings import check_access, check_settings
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.exceptions import NoSuchMethod
from filtered_websocket.groups import group
from filtered_websocket.history import history
from filtered_websocket.models import Token
from filtered_websocket.protocols.tokens import InvalidToken, read_token
from filtered_websocket.pusher.apps import app_of_key
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import allows, connect, published

from ..handshaking import shake_hands
from ..javascript.test_client import node
from ..protocols.clients import app as speaking
from ..protocols.clients import speak
from ..snippets import named
from ..waiting import LIMIT

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
    proxy = json.loads(said)["server"]["proxy"]
    assert list(proxy) == ["/connection/websocket", "/app"]
    assert all(rule["ws"] for rule in proxy.values())


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


@pytest.mark.repeats
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


def test_a_token_for_an_audience_is_refused(settings):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": "of this test alone, and long enough for it"}
    token = jwt.encode({"sub": "1", "aud": "x"}, settings.FILTERED_WEBSOCKET["JWT_KEY"], "HS256")
    with pytest.raises(InvalidToken):
        read_token(token)


# Coming from Channels


CHAT = "docs/coming-from-channels.md"


class Conversation:
    """Ann and Bob, in a room of the consumer or of its route; each may come by another path."""

    def __init__(self, routes, *paths):
        self.application = URLRouter(routes)
        self.paths = paths

    async def hold(self, *texts):
        """What each of them hears, with what the site says."""
        names = ("ann", "bob")
        # In the database, as a user whom a middleware has set is looked for there.
        people = [(await User.objects.aget_or_create(username=name))[0] for name in names]
        async with contextlib.AsyncExitStack() as stack:
            ann, bob = [
                await self.enter(stack, user, way)
                for user, way in zip(people, self.paths, strict=True)
            ]
            for way in set(self.paths):
                assert await self.enter(stack, AnonymousUser(), way) is None
            for text in ("  hi ", "   "):
                await ann.send_to(text_data=json.dumps({"text": text}))
            assert await heard(ann, bob) == [{"from": "ann", "text": "hi"}] * 2
            await bob.send_to(text_data=json.dumps({"text": "all"}))
            assert await heard(ann, bob) == [{"from": "bob", "text": "all"}] * 2
            for say in texts:
                await say()
                assert await heard(ann, bob) == [{"from": "the site", "text": "hello"}] * 2
            assert await ann.receive_nothing() and await bob.receive_nothing()

    async def enter(self, stack, user, way):
        client = WebsocketCommunicator(self.application, way)
        client.scope["user"] = user
        accepted, _ = await client.connect(timeout=LIMIT)
        if accepted:
            stack.push_async_callback(client.disconnect)
        return client if accepted else None


async def heard(*clients):
    return [json.loads(await client.receive_from(LIMIT)) for client in clients]


async def test_a_chat_moves_from_a_consumer_to_a_route_and_each_step_runs(site, settings):
    site(CHAT, "consumers.py")
    before = site.run(CHAT, "asgi.py, before")
    assert isinstance(before.application, ProtocolTypeRouter)
    group_send, publish = (
        partial(sync_to_async(site.run), CHAT, label) for label in ("group_send", "publish")
    )
    await Conversation(before.routes, "/chat/1/", "/chat/1/").hold(group_send)
    site(CHAT, "filters.py", "routes.py")
    [chosen] = site(CHAT, "settings.py")
    settings.FILTERED_WEBSOCKET = chosen.FILTERED_WEBSOCKET
    both = site.run(CHAT, "asgi.py, both")
    assert isinstance(both.application, ProtocolTypeRouter)
    for ways in (("/chat/1/", "/live/1/"), ("/live/1/", "/chat/1/"), ("/live/1/", "/live/1/")):
        await Conversation(both.routes, *ways).hold(group_send, publish)
    # With the setting the new code alone works as well, and without it.
    after = site.run(CHAT, "asgi.py, after")
    assert callable(after.application)
    await Conversation(after.routes, "/live/1/", "/live/1/").hold(group_send, publish)
    settings.FILTERED_WEBSOCKET = {}
    await Conversation(after.routes, "/live/1/", "/live/1/").hold(publish)
    both_paths = site.run(CHAT, "both paths", Chat=sys.modules["mysite.routes"].Chat, path=path)
    await Conversation(both_paths.routes, "/chat/1/", "/live/1/").hold(publish)


# Coming from Centrifugo


async def test_namespaces_are_rules_and_tokens_are_good(site, settings, monkeypatch):
    secret = "of this test alone, and long enough for it"
    monkeypatch.setenv("SECRET", secret)
    monkeypatch.setenv("API_KEY", "a-key-that-is-long-enough")
    moving = "docs/coming-from-centrifugo.md"
    page = site.run(moving, "settings.py", os=os)
    settings.FILTERED_WEBSOCKET = page.FILTERED_WEBSOCKET
    [rules] = site(moving, "groups.py")
    assert check_settings() == [] and page.INSTALLED_FILTERS == []
    app = speaking(rules=rules.grouppatterns)

    def signed(**claims):
        return jwt.encode(claims, secret, "HS256")

    async with speak(connects=False, application=app) as client:
        await client.ask(connect={"token": signed(sub="42")})
        assert await client.error(subscribe={"channel": "news:x"}) == 103
        news = {"channel": "news:x", "token": signed(sub="42", channel="news:x")}
        assert "subscribe" in await client.ask(subscribe=news)
        await client.say({"id": 9, "subscribe": {"channel": "room:1"}})
        # The reply, and that somebody has joined.
        told = [await client.hear() for _ in "12"]
        assert [one["subscribe"]["recoverable"] for one in told if "id" in one] == [True]
    async with speak(application=app) as stranger:
        assert await stranger.error(subscribe={"channel": "room:1"}) == 103


# Tokens of REST framework


@pytest.fixture
def tokens_of_drf(monkeypatch):
    """Its app and its table, for this test."""
    installed = [*django_settings.INSTALLED_APPS, "rest_framework.authtoken"]
    # Its models ask the settings whether they are to be there.
    monkeypatch.setattr(django_settings, "INSTALLED_APPS", installed)
    registered = set(admin.site._registry)
    apps.set_installed_apps(installed)
    try:
        from rest_framework.authtoken.models import Token

        with connection.schema_editor() as editor:
            editor.create_model(Token)
        yield Token.objects
        with connection.schema_editor() as editor:
            editor.delete_model(Token)
    finally:
        # The admin has found its models.
        for model in set(admin.site._registry) - registered:
            admin.site.unregister(model)
        apps.unset_installed_apps()


@pytest.mark.repeats
def test_a_token_of_rest_framework_opens_a_connection(site, settings, rf, tokens_of_drf):
    settings.INSTALLED_FILTERS = []
    _, views = site("docs/drf.md", "auth.py", "views.py")
    settings.FILTERED_WEBSOCKET = site.run("docs/drf.md", "settings.py").FILTERED_WEBSOCKET
    assert check_settings() == [] and check_access() == []
    [signals] = site("docs/drf.md", "signals.py")
    ann = User.objects.create(username="ann")
    token = tokens_of_drf.create(user=ann)
    app = websocket_application([path("", FilteredWebSocketConsumer.as_asgi(filters=[]))])

    def come(key):
        header = ("authorization", f"Token {key}".encode())
        return shake_hands(app, headers=[("host", b"testserver"), header])

    async def use():
        bad = await come("0" * 40)
        assert not bad.accepted
        await bad.close()
        client = await come(token.key)
        assert client.connection.user == ann
        await sync_to_async(token.delete)()
        code = await client.closed()
        await client.close()
        return code

    try:
        assert async_to_sync(use)() == 4401
    finally:
        post_delete.disconnect(signals.token_deleted, sender=type(token))
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": "of this test alone, and long enough for it"}
    request = rf.post("/", HTTP_AUTHORIZATION=f"Token {tokens_of_drf.create(user=ann).key}")
    answer = views.live_token(request)
    assert read_token(answer.data["token"]).user == str(ann.pk)
    assert views.live_token(rf.post("/")).status_code == 401


def test_a_token_of_simplejwt_names_its_user(settings):
    key = "of this test alone, and long enough for it"
    settings.SIMPLE_JWT = {"USER_ID_CLAIM": "sub", "SIGNING_KEY": key}
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": key}
    from rest_framework_simplejwt.tokens import AccessToken

    claims = read_token(str(AccessToken.for_user(User(pk=5, username="ann"))))
    assert claims.user == "5" and claims.expires


# Tenants


async def test_tenants_hear_only_themselves(site, settings):
    [tenants] = site("docs/tenants.md", "tenants.py")
    _, _, groups = site("docs/tenants.md", "live.py", "consumers.py", "groups.py")
    page = site.run("docs/tenants.md", "settings.py")
    settings.ALLOWED_HOSTS = page.ALLOWED_HOSTS
    settings.FILTERED_WEBSOCKET = page.FILTERED_WEBSOCKET
    assert check_access() == [] and check_settings() == []
    app = site.run("docs/tenants.md", "asgi.py").application

    def come(name):
        headers = {"host": f"{name}.example.com"}
        return connect(app, "/rooms/1/", headers=headers)

    async with come("a") as one, come("a") as two, come("b") as other:
        await one.send("hi")
        assert await two.receive() == "hi"
        assert await other.received_nothing()
    tenants.tenant.set("a")
    user = User(pk=5)
    assert await allows(groups.grouppatterns, "join", "a:room:1", user)
    assert not await allows(groups.grouppatterns, "join", "b:room:1", user)
    with published() as sent:
        await sync_to_async(site.run)("docs/tenants.md", "publish")
    first, second = [one.group for one in sent]
    assert first == "a:room:1" and second.startswith("user:5") and second != "user:5"


# Mobile apps


def test_devices_have_tokens_and_those_away_are_notified(site, settings, rf):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "mysite.groups"}
    views, _ = site("docs/mobile.md", "views.py", "groups.py")
    ann, eve = [User.objects.create(username=name) for name in ("ann", "eve")]

    def post(view, user, *arguments, **data):
        request = rf.post("/", data)
        request.user = user
        return view(request, *arguments)

    made = json.loads(post(views.register_device, ann, device="phone").content)
    token = Token.objects.find(made["key"])
    assert token.user == ann and token.pk == made["id"]
    with pytest.raises(Http404):
        post(views.forget_device, eve, token.pk)
    assert post(views.forget_device, ann, token.pk).status_code == 204
    assert Token.objects.find(made["key"]).flaw
    pushed = []
    push = sys.modules["mysite.push"] = types.ModuleType("mysite.push")
    push.send_push = lambda *notification: pushed.append(notification)
    [notify] = site("docs/mobile.md", "notify.py")

    async def use():
        async with connect([], user=ann, personal=True) as device:
            await sync_to_async(notify.notify)(ann, {"n": 1})
            assert await device.receive() == '{"n":1}'
        await sync_to_async(notify.notify)(ann, {"n": 2})

    async_to_sync(use)()
    assert pushed == [(ann, {"n": 2})]
    assert [json.loads(one.data) for one in history(f"user:{ann.pk}").publications] == [
        {"n": 1},
        {"n": 2},
    ]


def test_web_views_are_let_in(site, settings):
    settings.FILTERED_WEBSOCKET = site.run("docs/mobile.md", "settings.py").FILTERED_WEBSOCKET
    assert check_access() == [] and check_settings() == []


# Coming from Pusher


def test_an_app_moves_with_its_key(site, settings, monkeypatch):
    secrets = {"ID": "7", "KEY": "the-key-of-clients", "SECRET": "a-long-one-as-secrets-makes-them"}
    for name, value in secrets.items():
        monkeypatch.setenv(f"PUSHER_APP_{name}", value)
    moving = "docs/coming-from-pusher.md"
    [rules] = site(moving, "groups.py")
    settings.FILTERED_WEBSOCKET = site.run(moving, "settings.py", os=os).FILTERED_WEBSOCKET
    assert {one.id for one in check_pusher()} <= {"filtered_websocket.W027"}
    assert check_settings() == [] and app_of_key("the-key-of-clients").client_events
    urls = site.run(moving, "end of urls.py", urlpatterns=[]).urlpatterns
    assert [len(one.url_patterns) for one in urls] == [2, 8]
    sent = []
    monkeypatch.setattr("pusher.requests.RequestsBackend.send_request", sent.append)
    monkeypatch.setattr("pusher.requests.RequestsBackend.__init__", lambda *_, **options: None)
    site.run(moving, "backend", os=os)
    assert sent[0].base_url == "https://live.example.com:443"
    assert sent[0].path == "/apps/7/events"

    class Orders:
        def filter(self, pk):
            return types.SimpleNamespace(exists=lambda: pk == 7)

    owner = types.SimpleNamespace(orders=Orders(), is_authenticated=True)
    for order in (7, 8):
        name = f"private-orders.{order}"
        allowed = async_to_sync(allows)(rules.grouppatterns, "join", name, owner)
        assert allowed is (order == 7)
