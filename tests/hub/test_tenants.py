"""
Tenants: a router chooses the database by a context variable, which a middleware sets.

Two databases, with the same primary keys in both.
"""

import asyncio
import contextlib
import itertools
from contextvars import ContextVar

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import OperationalError, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone

from filtered_websocket import (
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.auth import authenticators, sessions, throttle
from filtered_websocket.auth.keys import new_key
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub import rechecks
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application

from ..handshaking import shake_hands
from ..waiting import until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

#: The alias of the tenant's database; and what differs from one handshake to the next.
tenant = ContextVar("tenant", default="default")
trace = ContextVar("trace", default=0)
#: What filters and rules saw.
seen = []


class Router:
    def db_for_read(self, model, **hints):
        return tenant.get()

    db_for_write = db_for_read

    def allow_relation(self, *objects, **hints):
        return True


class Host:
    """Middleware: the tenant that a header names."""

    traces = itertools.count()

    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        name = dict(scope["headers"])[b"x-tenant"].decode()
        tokens = tenant.set(name), trace.set(next(self.traces))
        try:
            await self.inner(scope, receive, send)
        finally:
            tenant.reset(tokens[0])
            trace.reset(tokens[1])


@contextlib.contextmanager
def acting_for(name):
    token = tenant.set(name)
    try:
        yield
    finally:
        tenant.reset(token)


@pytest.fixture(scope="module", autouse=True)
def other_database(tmp_path_factory, django_db_setup, django_db_blocker):
    """A second database beside ``default``."""
    name = tmp_path_factory.mktemp("tenants") / "other.sqlite3"
    connections.databases["other"] = {
        **connections.databases["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(name),
        "OPTIONS": {},
    }
    with django_db_blocker.unblock():
        call_command("migrate", database="other", verbosity=0)
        connections["other"].close()
    yield
    del connections["other"]
    del connections.databases["other"]


@pytest.fixture
def two(settings, transactional_db):
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600}
    seen.clear()


class Site:
    """A user and a token, with the same keys in both databases, and their cookies."""

    def __init__(self):
        self.cookies, self.keys = {}, {}
        for name in ("default", "other"):
            with acting_for(name):
                user = User(pk=7, username=f"ann of {name}")
                user.set_unusable_password()
                user.save(force_insert=True)
                browser = Client()
                browser.force_login(user)
                self.cookies[name] = browser.session.session_key
                _, self.keys[name] = Token.objects.create_key(name=name, user=user, pk=5)

    async def by_session(self, app, name):
        cookie = f"sessionid={self.cookies[name]}".encode()
        return await self._enter(app, name, ("cookie", cookie))

    async def by_token(self, app, name, key=None):
        value = f"Token {key or self.keys[name]}".encode()
        return await self._enter(app, name, ("authorization", value))

    async def _enter(self, app, name, header):
        return await shake_hands(app, headers=[header, ("x-tenant", name.encode())])


@pytest.fixture
def site(two):
    return Site()


@pytest.fixture
def app(two):
    return application()


def application(*filters, **options):
    consumer = FilteredWebSocketConsumer.as_asgi(filters=list(filters), **options)
    return Host(websocket_application([path("", consumer)]))


@pytest.fixture
def batches(monkeypatch):
    """Each re-check: the tenant, how many identities, how many queries."""
    made = []
    original = rechecks.find_invalid

    def find_invalid(identities):
        with CaptureQueriesContext(connections[tenant.get()]) as queries:
            answers = original(identities)
        made.append((tenant.get(), len(identities), len(queries)))
        return answers

    monkeypatch.setattr(rechecks, "find_invalid", find_invalid)
    return made


#: Re-checks in progress.
running = []


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    original = rechecks.Rechecks._check

    async def check(self):
        running.append(self)
        try:
            return await original(self)
        finally:
            running.remove(self)

    monkeypatch.setattr(rechecks.Rechecks, "_check", check)


async def rechecked():
    """Re-check everybody, and return when that is done."""
    grants = get_hub().grants
    grants.recheck_all()
    await until(lambda: not (running or grants._rechecks._pending), 0)


async def entered(site, app, each=2):
    """Connections of both tenants, all of which the database knows."""
    clients = [
        await site.by_session(app, name) for name in ("default", "other") for _ in range(each)
    ]
    assert [str(one.user) for one in get_hub().connections.values()] == [
        *["ann of default"] * each,
        *["ann of other"] * each,
    ]
    await until(lambda: get_hub().grants._unconfirmed is None, 0)
    await rechecked()
    return clients


async def leave(clients):
    for client in clients:
        await client.close()


@pytest.mark.repeats
async def test_each_tenant_costs_one_recheck_in_its_own_database(site, app, batches):
    clients = await entered(site, app, each=3)
    batches.clear()
    await rechecked()
    # One query for the users, one for the sessions.
    assert sorted(batches) == [("default", 3, 2), ("other", 3, 2)]
    assert [client.close_code for client in clients] == [None] * 6
    await leave(clients)


@pytest.fixture
def lookups(monkeypatch):
    """The users that handshakes looked up: the tenant, how many sessions, how many queries."""
    made = []
    original = sessions._batches._answer

    def find_users(questions):
        with CaptureQueriesContext(connections[tenant.get()]) as queries:
            answers = original(questions)
        made.append((tenant.get(), len(questions), len(queries)))
        return answers

    monkeypatch.setattr(sessions._batches, "_answer", find_users)
    return made


@pytest.mark.parametrize("is_chosen_by", ["the routers", "TENANT"])
async def test_handshakes_of_one_moment_share_queries_within_their_tenant(
    site, app, lookups, settings, is_chosen_by
):
    if is_chosen_by == "TENANT":
        settings.FILTERED_WEBSOCKET = {"RECHECK": 3600, "TENANT": tenant.get}
    names = ["default", "other"] * 3
    clients = await asyncio.gather(*(site.by_session(app, name) for name in names))
    assert sorted(lookups) == [("default", 3, 2), ("other", 3, 2)]
    users = sorted(str(one.user) for one in get_hub().connections.values())
    assert users == ["ann of default"] * 3 + ["ann of other"] * 3
    await leave(clients)


async def test_a_session_of_another_tenant_lets_nobody_in(site, app):
    """Although it arrives together with that tenant's own handshakes."""
    clients = await asyncio.gather(
        site.by_session(app, "other"),
        site._enter(app, "default", ("cookie", f"sessionid={site.cookies['other']}".encode())),
        site.by_session(app, "default"),
    )
    users = sorted(str(one.user) for one in get_hub().connections.values())
    assert users == ["AnonymousUser", "ann of default", "ann of other"]
    await leave(clients)


async def test_handshakes_that_read_different_replicas_share_no_query(site, app, lookups, settings):
    class Replicas(Router):
        def db_for_read(self, model, **hints):
            return "default" if trace.get() % 2 else "other"

        def db_for_write(self, model, **hints):
            return "default"

    Host.traces = itertools.count()
    settings.DATABASE_ROUTERS = [Replicas()]
    clients = await asyncio.gather(*(site.by_session(app, "default") for _ in range(4)))
    assert [count for _, count, _ in lookups] == [2, 2]
    users = sorted(str(one.user) for one in get_hub().connections.values())
    assert users == ["AnonymousUser"] * 2 + ["ann of default"] * 2
    await leave(clients)


async def test_what_ends_in_one_tenant_ends_there_alone(site, app):
    one, other = await entered(site, app, each=1)
    with acting_for("other"):
        await sync_to_async(User.objects.filter(pk=7).update)(is_active=False)
    get_hub().grants.handle({"is": "changed", "kind": "user", "id": "7"})
    assert await other.closed() == 4401
    assert other.close_reason == "user deactivated"
    assert await one.received_nothing() and one.close_code is None
    await leave([one, other])


async def test_a_database_that_is_away_keeps_the_other_tenant_served(
    site, app, monkeypatch, caplog
):
    one, other = await entered(site, app, each=1)
    original = rechecks.find_invalid
    asked = []

    def find_invalid(identities):
        asked.append(tenant.get())
        if tenant.get() == "other":
            raise OperationalError("the database is away")
        return original(identities)

    monkeypatch.setattr(rechecks, "find_invalid", find_invalid)
    monkeypatch.setattr(rechecks, "ASK_AGAIN", 0.01)
    await sync_to_async(User.objects.filter(pk=7).update)(is_active=False)
    get_hub().grants.recheck_all()
    assert await one.closed() == 4401
    await until(lambda: asked.count("other") > 2, 0)
    assert other.close_code is None
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "cannot ask the database which connections may stay open"
    ]
    monkeypatch.setattr(rechecks, "find_invalid", original)
    await leave([one, other])


async def test_tokens_are_read_and_their_use_is_written_where_they_are(site, app):
    clients = [await site.by_token(app, name) for name in ("default", "other")]
    assert all(client.accepted for client in clients)
    assert not (await site.by_token(app, "other", site.keys["default"])).accepted
    await leave(clients)
    for name in ("default", "other"):
        with acting_for(name):
            assert (await Token.objects.aget(pk=5)).last_used is not None


async def test_keys_of_an_address_over_the_limit_are_looked_up_where_they_are(
    site, app, settings, monkeypatch
):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600, "GUESS_LIMIT": 1}
    monkeypatch.setattr(authenticators, "_throttle", throttle.Throttle())
    monkeypatch.setattr(authenticators, "_lookups", throttle.KeyLookups())
    monkeypatch.setattr(throttle, "LOOKUP_EVERY", 0.01)
    monkeypatch.setattr(throttle, "MAX_DELAY", 0.0)
    assert not (await site.by_token(app, "default", new_key())).accepted
    clients = await asyncio.gather(
        *(site.by_token(app, name) for name in ("default", "other", "default", "other"))
    )
    assert all(client.accepted for client in clients)
    await leave(clients)


class Notes:
    """Every kind of filter that is called for one connection; each notes its tenant."""

    class Enter(WebSocketConnectFilter):
        blocking = True

        @classmethod
        def filter(cls, web_socket_instance, data):
            seen.append(("connect", tenant.get()))

    class Ask(WebSocketMessageFilter):
        blocking = True

        @classmethod
        def filter(cls, web_socket_instance, data):
            seen.append(("message", tenant.get()))

    class Leave(WebSocketDisconnectFilter):
        blocking = True

        @classmethod
        def filter(cls, web_socket_instance):
            seen.append(("disconnect", tenant.get()))

    class Elsewhere(WebSocketConsumerFilter):
        """Acts for connections, outside of their contexts."""

        @classmethod
        async def filter(cls, web_socket_instance, event):
            assert tenant.get() == "default"
            for connection in web_socket_instance.users.values():
                await connection.join(event)
                token = await connection.use_token(connection.state["key"])
                seen.append(("token", token.name))


ALL = (Notes.Enter, Notes.Ask, Notes.Leave, Notes.Elsewhere)


async def decide_later(connection, group):
    seen.append((f"may join {group}", tenant.get()))
    return True


def decide(connection, group):
    seen.append((f"may join {group}", tenant.get()))
    return True


@pytest.mark.parametrize("rule", [decide, decide_later])
async def test_filters_and_rules_of_a_connection_run_in_its_context(site, rule):
    class Consumer(FilteredWebSocketConsumer):
        filters = list(ALL)
        groups = ("room",)
        may_join = staticmethod(rule)

    app = Host(websocket_application([path("", Consumer.as_asgi())]))
    client = await site.by_session(app, "other")
    [connection] = get_hub().connections.values()
    connection.state["key"] = site.keys["other"]
    await client.send("hi")
    await client.settle()
    connection.queue.put("news")
    await until(lambda: ("token", "other") in seen, 0)
    await client.close()
    assert seen == [
        ("connect", "other"),
        ("may join room", "other"),
        ("message", "other"),
        ("may join news", "other"),
        ("may join token:5", "other"),
        ("token", "other"),
        ("disconnect", "other"),
    ]


async def test_limits_for_a_user_are_those_of_one_tenant(site, app, settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600, "MAX_CONNECTIONS_PER_USER": 1}
    clients = [await site.by_session(app, name) for name in ("default", "other", "other")]
    assert [client.accepted for client in clients] == [True, True, False]
    await leave(clients)


# TENANT


def by_tenant():
    """Not the trace: that would be one query for each connection."""
    return tenant.get()


def by_trace():
    return trace.get()


def fail():
    raise LookupError("no such tenant")


@pytest.mark.repeats
@pytest.mark.parametrize(
    ("chosen", "count"),
    [(f"{__name__}.by_tenant", 2), (by_tenant, 2), (None, 2), (by_trace, 4)],
)
async def test_connections_of_one_answer_are_rechecked_together(
    site, app, settings, batches, chosen, count
):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600, "TENANT": chosen}
    clients = [await site.by_session(app, name) for name in ("default", "other") for _ in "ab"]
    await until(lambda: get_hub().grants._unconfirmed is None, 0)
    await rechecked()
    batches.clear()
    await rechecked()
    assert len(batches) == count and sum(number for _, number, _ in batches) == 4
    await leave(clients)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (fail, "no such tenant"),
        (list, "unhashable"),
        (f"{__name__}.nothing", "has no attribute 'nothing'"),
        (f"{__name__}.seen", "Name a function without arguments"),
    ],
)
async def test_who_has_no_tenant_is_refused(site, app, settings, caplog, chosen, words):
    settings.FILTERED_WEBSOCKET = {"TENANT": chosen, "REFUSE_WITH": "close"}
    client = await site.by_session(app, "other")
    assert await client.closed() == 4500
    assert words in caplog.text
    await client.close()


async def test_a_revocation_is_found_in_the_background_of_each_tenant(site, app, settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 0.05}
    one, other = [await site.by_token(app, name) for name in ("default", "other")]
    with acting_for("other"):
        await Token.objects.aupdate(revoked_at=timezone.now())
    assert await other.closed() == 4401
    assert one.close_code is None
    await leave([one, other])
