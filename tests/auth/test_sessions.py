"""The users of sessions: those of handshakes that arrive together in two queries."""

import asyncio
import contextvars
import datetime
import logging
from importlib import import_module

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, User, UserManager
from django.contrib.sessions.models import Session
from django.db import DataError, OperationalError, connections
from django.db.models.query import QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from filtered_websocket.auth import sessions
from filtered_websocket.auth.sessions import session_of, session_user
from filtered_websocket.threads import blocking, database
from filtered_websocket.threads.blocking import in_the_thread_sensitive_thread
from filtered_websocket.threads.database import run_query

from ..waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

MODEL = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def in_one_thread():
    with in_the_thread_sensitive_thread():
        yield


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(sessions, "_throttle", sessions.LogThrottle())


class Visitor:
    """A user and a session of theirs."""

    def __init__(self, name):
        self.user = User.objects.create_user(name, password="secret")
        browser = Client()
        browser.force_login(self.user)
        self.session = browser.session
        self.data = dict(self.session.items())

    @property
    def key(self):
        return self.session.session_key

    def change(self, **values):
        self.session.update(values)
        self.session.save()


@pytest.fixture
def visitors():
    return [Visitor(f"user {number}") for number in range(50)]


@pytest.fixture
def ann():
    return Visitor("ann")


@pytest.fixture
def bob():
    return Visitor("bob")


async def enter(*keys):
    """What handshakes with these keys find when they arrive together."""
    scopes = [{"session": session_of({"sessionid": key})} for key in keys]
    found = await asyncio.gather(*map(session_user, scopes), return_exceptions=True)
    return found, [scope["session"] for scope in scopes]


async def names(*keys):
    found, _ = await enter(*keys)
    return [str(user) if not isinstance(user, Exception) else user for user in found]


async def queries_of(steps):
    capture = await sync_to_async(lambda: CaptureQueriesContext(connections["default"]))()
    await sync_to_async(capture.__enter__)()
    try:
        result = await steps
    finally:
        await sync_to_async(capture.__exit__)(None, None, None)
    return result, [query["sql"] for query in capture.captured_queries]


# Costs


@pytest.mark.repeats
@pytest.mark.parametrize("count", [1, 2, 50])
async def test_handshakes_that_arrive_together_cost_two_queries(visitors, count, monkeypatch):
    hops, start = [], sessions._batches._answer

    def hop(questions):
        hops.append(len(questions))
        return start(questions)

    monkeypatch.setattr(sessions._batches, "_answer", hop)
    keys = [visitor.key for visitor in visitors[:count]]
    (found, loaded), asked = await queries_of(enter(*keys))
    assert found == [visitor.user for visitor in visitors[:count]]
    assert [session[SESSION_KEY] for session in loaded] == [str(user.pk) for user in found]
    assert len(asked) == 2 and hops == [count]
    assert ['"django_session"' in sql for sql in asked] == [True, False]


@pytest.mark.repeats
async def test_who_has_no_session_costs_no_query(visitors):
    for key in (None, "", "short"):
        (found, _), asked = await queries_of(enter(key))
        assert found == [AnonymousUser()] and not asked


async def test_keys_that_no_session_has_cost_the_query_of_the_others(ann):
    keys = [ann.key, "x" * 32, "y" * 32]
    (found, loaded), asked = await queries_of(enter(*keys))
    assert found == [ann.user, AnonymousUser(), AnonymousUser()] and len(asked) == 2
    # As Django does: nobody can choose the key of a session.
    assert [session.session_key for session in loaded] == [ann.key, None, None]
    assert dict(loaded[1].items()) == {}


# Each has its own


async def test_two_connections_of_one_session_share_no_object(ann):
    found, loaded = await enter(ann.key, ann.key, ann.key)
    assert found == [ann.user] * 3
    one, two, three = found
    one.color, loaded[0]["color"] = "red", "red"
    one._state.db = "nowhere"
    for user, session in ((two, loaded[1]), (three, loaded[2])):
        assert not hasattr(user, "color") and user._state.db == "default"
        assert "color" not in session and session.session_key == ann.key
    assert len({id(user) for user in found}) == 3


async def test_what_one_connection_changes_in_its_user_no_other_one_sees(ann, monkeypatch):
    def from_db(cls, *args, **options):
        user = original(cls, *args, **options)
        # As a JSONField, and as what watches the fields of its own instance.
        user.choices, user.me = {}, user
        return user

    original = User.from_db.__func__
    monkeypatch.setattr(User, "from_db", classmethod(from_db))
    (one, two), _ = await enter(ann.key, ann.key)
    one.choices["color"] = "red"
    assert one == two and two.choices == {}
    assert one.me is one and two.me is two


async def test_what_a_middleware_of_the_site_has_put_in_a_session_stays_there(ann, bob):
    scopes = [{"session": session_of({"sessionid": one.key})} for one in (ann, bob, ann)]
    await sync_to_async(scopes[0]["session"].update)({"color": "red"})
    found = await asyncio.gather(*map(session_user, scopes))
    assert found == [ann.user, bob.user, ann.user]
    assert [scope["session"].get("color") for scope in scopes] == ["red", None, None]


# Whatever is wrong with one


def expire(visitor):
    past = timezone.now() - datetime.timedelta(seconds=1)
    Session.objects.filter(pk=visitor.key).update(expire_date=past)


def corrupt(visitor):
    Session.objects.filter(pk=visitor.key).update(session_data="no:signature")


def change_password(visitor):
    visitor.user.set_password("other")
    visitor.user.save()


def deactivate(visitor):
    User.objects.filter(pk=visitor.user.pk).update(is_active=False)


def delete(visitor):
    User.objects.filter(pk=visitor.user.pk).delete()


ENDS = {
    "expired": expire,
    "corrupted": corrupt,
    "logged out": lambda visitor: visitor.session.flush(),
    "other password": change_password,
    "not active": deactivate,
    "deleted": delete,
    "other backend": lambda visitor: visitor.change(**{BACKEND_SESSION_KEY: "not.in.settings"}),
    "no hash": lambda visitor: visitor.change(**{HASH_SESSION_KEY: ""}),
    "nobody": lambda visitor: visitor.change(**{SESSION_KEY: ""}),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_session_that_has_ended_is_anonymous_alone_and_among_others(end, ann, bob, caplog):
    key = bob.key
    await sync_to_async(end)(bob)
    [alone] = await names(key)
    together = await names(ann.key, key, ann.key)
    assert repr(together) == repr(["ann", alone, "ann"])
    assert alone == "AnonymousUser" or "must be an integer" in str(alone)


async def test_after_a_change_of_the_secret_key_sessions_live_on_through_its_fallbacks(
    ann, bob, settings
):
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    assert await names(ann.key, bob.key) == ["ann", "bob"]
    settings.SECRET_KEY_FALLBACKS = []
    assert await names(ann.key, bob.key) == ["AnonymousUser"] * 2


class Failing(ModelBackend):
    def user_can_authenticate(self, user):
        if user.username == "bob":
            raise SystemExit("a mistake")
        return True


class Own(ModelBackend):
    """Another way to find users, and another opinion about who may enter."""

    def get_user(self, user_id):
        user = User.objects.get(pk=user_id)
        user.username += " of own"
        return user


class Lenient(ModelBackend):
    def user_can_authenticate(self, user):
        return True


async def test_a_backend_of_the_site_decides_for_its_own_users(ann, bob, settings, visitors):
    paths = [MODEL, *(f"{__name__}.{one.__name__}" for one in (Failing, Own, Lenient))]
    settings.AUTHENTICATION_BACKENDS = paths
    cy, dan = visitors[:2]
    for visitor, path in ((bob, paths[1]), (cy, paths[2]), (dan, paths[3])):
        await sync_to_async(visitor.change)(**{BACKEND_SESSION_KEY: path})
    await sync_to_async(deactivate)(dan)
    first, error, *others = await names(ann.key, bob.key, cy.key, dan.key)
    assert (first, *others) == ("ann", "user 0 of own", "user 1")
    assert repr(error) == "RuntimeError('SystemExit: a mistake')"


@pytest.mark.parametrize("engine", ["cached_db", "cache", "file", "signed_cookies"])
async def test_sessions_of_other_kinds_are_looked_up_alone(ann, engine, settings, tmp_path):
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    store = import_module(settings.SESSION_ENGINE).SessionStore()
    store.update(ann.data)
    await sync_to_async(store.save)()
    (found, loaded), asked = await queries_of(enter(store.session_key, store.session_key))
    assert found == [ann.user] * 2 and len(asked) == 2
    assert [type(session) for session in loaded] == [type(store)] * 2


async def test_a_key_that_a_database_may_not_compare_is_no_neighbour(ann):
    # PostgreSQL raises for NUL, MySQL for letters that a table has not.
    for odd in ("\0" * 32, "ä" * 32, "\ud800" * 32):
        (found, _), asked = await queries_of(enter(ann.key, odd, ann.key))
        assert found[::2] == [ann.user] * 2
        sql = [one for one in asked if '"django_session"' in one]
        assert len(sql) <= 2 and not any(" IN " in one and odd in one for one in sql)


class Odd(Exception):
    pass


@pytest.mark.parametrize("error", [DataError("bad value"), OperationalError("away"), Odd("own")])
async def test_where_the_query_of_many_fails_each_is_looked_up_alone(
    ann, bob, monkeypatch, error, caplog
):
    def fail(sessions):
        raise error

    monkeypatch.setattr(sessions, "_load_sessions", fail)
    with caplog.at_level(logging.INFO, "filtered_websocket"):
        for _ in range(2):
            (found, _), asked = await queries_of(enter(ann.key, bob.key, "x" * 32))
    assert found == [ann.user, bob.user, AnonymousUser()] and len(asked) == 5
    [line] = caplog.messages
    assert line == f"sessions are looked up one by one, as together it failed: {error!r}"
    assert ann.key not in caplog.text


@pytest.mark.parametrize("count", [1, 2])
async def test_a_connection_that_an_error_may_have_broken_is_not_used_for_the_next_query(
    count, monkeypatch
):
    def fail(*args):
        if "fail" not in seen:
            seen.append("fail")
            raise OperationalError("the server closed the connection")

    seen = []
    # Undone here: a fixture counts it, and ends before monkeypatch does.
    with monkeypatch.context() as patched:
        patched.setattr(blocking, "_thread_sensitive", 0)
        patched.setattr(database, "QUERY_THREADS", 1)
        patched.setattr(database, "close_old_connections", lambda: seen.append("close"))
        for lookup in ("_load_sessions", "_load_users", "_user_of"):
            patched.setattr(sessions, lookup, fail)
        try:
            await enter(*["x" * 32] * count)
            await run_query(seen.append, "next")
        finally:
            assert blocking.shut_down(10)
    assert seen[seen.index("fail") + 1] == "close" and seen.index("next") > seen.index("fail")


async def test_a_manager_or_queryset_with_a_get_of_its_own_is_asked_as_the_backend_asks_it(
    ann, bob, monkeypatch
):
    class OwnManager(UserManager):
        def get(self, *args, **kwargs):
            asked.append(kwargs)
            return super().get(*args, **kwargs)

    class OwnQuerySet(QuerySet):
        def get(self, *args, **kwargs):
            asked.append(kwargs)
            return super().get(*args, **kwargs)

    for manager in (OwnManager(), UserManager.from_queryset(OwnQuerySet)()):
        asked = []
        manager.model = User
        monkeypatch.setitem(vars(User._meta), "default_manager", manager)
        assert await names(ann.key, bob.key) == ["ann", "bob"]
        assert sorted(one["pk"] for one in asked) == [ann.user.pk, bob.user.pk]


mine = contextvars.ContextVar("mine")


class OwnManager(UserManager):
    def get_queryset(self):
        return super().get_queryset().filter(username=mine.get())


class OwnQuerySet(QuerySet):
    def filter(self, *args, **kwargs):
        return super().filter(*args, username=mine.get(), **kwargs)


@pytest.mark.parametrize("kind", [OwnManager, UserManager.from_queryset(OwnQuerySet)])
async def test_a_manager_that_chooses_its_rows_by_the_context_is_asked_in_that_of_each(
    ann, bob, monkeypatch, kind
):
    async def enter_as(name, key):
        mine.set(name)
        [found] = await names(key)
        return found

    manager = kind()
    manager.model = User
    monkeypatch.setitem(vars(User._meta), "default_manager", manager)
    enter = enter_as("ann", ann.key), enter_as("bob", ann.key), enter_as("ann", bob.key)
    tasks = [asyncio.create_task(steps) for steps in enter]
    assert await asyncio.gather(*tasks) == ["ann", "AnonymousUser", "AnonymousUser"]


async def test_a_queryset_that_only_adds_methods_is_asked_once_for_many(ann, bob, monkeypatch):
    class More(QuerySet):
        """With a docstring of its own."""

        def named(self, name):
            return self.filter(username=name)

    manager = UserManager.from_queryset(More)()
    manager.model = User
    monkeypatch.setitem(vars(User._meta), "default_manager", manager)
    (found, _), asked = await queries_of(enter(ann.key, bob.key))
    assert found == [ann.user, bob.user] and len(asked) == 2


class ByContext(ModelBackend):
    """Lets in the one whose name a middleware has set."""

    mine = contextvars.ContextVar("mine")

    def user_can_authenticate(self, user):
        return user.username == self.mine.get()


class OwnByContext(ByContext):
    def get_user(self, user_id):
        return User.objects.filter(pk=user_id, username=self.mine.get()).first()


@pytest.mark.parametrize("backend", [ByContext, OwnByContext])
async def test_a_backend_that_decides_by_the_context_is_asked_in_that_of_each(
    ann, bob, settings, backend
):
    async def enter_as(name, visitor):
        ByContext.mine.set(name)
        [found] = await names(visitor.key)
        return found

    path = f"{__name__}.{backend.__name__}"
    settings.AUTHENTICATION_BACKENDS = [MODEL, path]
    for visitor in (ann, bob):
        await sync_to_async(visitor.change)(**{BACKEND_SESSION_KEY: path})
    tasks = [
        asyncio.create_task(enter_as(name, visitor))
        for name, visitor in (("bob", bob), ("bob", ann), ("ann", ann), ("ann", bob))
    ]
    assert await asyncio.gather(*tasks) == ["bob", "AnonymousUser", "ann", "AnonymousUser"]
    # Also if the first, in whose context the database is asked, waits no more.
    tasks = [asyncio.create_task(enter_as(name, bob)) for name in ("bob", "ann")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await tasks[1] == "AnonymousUser"


async def test_a_manager_that_finds_a_user_twice_is_an_error_of_that_user(
    ann, bob, monkeypatch, settings
):
    settings.FILTERED_WEBSOCKET = {"TENANT": lambda: "the only one"}

    class Twice(UserManager):
        def get_queryset(self):
            users = super().get_queryset()
            return users.filter(username="ann").union(users, all=True)

        def filter(self, **kwargs):
            rows = User.objects.filter(**kwargs)
            return rows.filter(username="ann").union(rows, all=True)

    manager = Twice()
    manager.model = User
    monkeypatch.setitem(vars(User._meta), "default_manager", manager)
    alone, bobs = await names(ann.key, bob.key)
    assert bobs == "bob" and not isinstance(alone, str)


# Cancelled


async def test_a_handshake_that_is_cancelled_takes_nobody_with_it(ann, bob):
    tasks = [
        asyncio.ensure_future(session_user({"session": session_of({"sessionid": one.key})}))
        for one in (ann, bob, ann)
    ]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await asyncio.gather(*tasks[1:]) == [bob.user, ann.user]
    assert tasks[0].cancelled()


async def test_where_all_are_cancelled_nothing_is_asked(ann):
    async def leave():
        tasks = [
            asyncio.ensure_future(session_user({"session": session_of({"sessionid": ann.key})}))
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        # What they have begun to ask ends without them.
        await until(lambda: not sessions._batches._lines.get(asyncio.get_running_loop()))

    _, asked = await queries_of(leave())
    assert asked == []
