"""Authenticators, and the delays of bad credentials."""

import asyncio
import json
import logging
import sys
import types

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import Client as HttpClient
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.views.debug import ExceptionReporter

from filtered_websocket import Close, WebSocketConnectFilter
from filtered_websocket.auth import authenticators, sessions, throttle
from filtered_websocket.auth.keys import digest_of, new_key
from filtered_websocket.auth.tickets import issue
from filtered_websocket.conf import conf
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import personal
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect
from filtered_websocket.threads import database
from filtered_websocket.types import Identity

from ..handshaking import shake_hands

pytestmark = pytest.mark.django_db(transaction=True)

QUERY = "filtered_websocket.auth.QueryAuthenticator"


@pytest.fixture(autouse=True)
def fresh(monkeypatch, settings):
    """Forgets the bad credentials of other tests."""
    monkeypatch.setattr(authenticators, "_throttle", authenticators.Throttle())
    monkeypatch.setattr(authenticators, "_lookups", authenticators.KeyLookups())
    settings.FILTERED_WEBSOCKET = {}


@pytest.fixture
def user():
    return User.objects.create_user("ann", password="secret")


@pytest.fixture
def session(user):
    http = HttpClient()
    http.force_login(user)
    return http.session


@pytest.fixture
def token(user):
    """A token and its key."""
    return Token.objects.create_key(name="ann's", user=user)


class Remember(WebSocketConnectFilter):
    """What a connect filter sees."""

    seen = []

    @classmethod
    def filter(cls, web_socket_instance, handshake):
        cls.seen[:] = [web_socket_instance, handshake, repr(vars(handshake))]


@pytest.fixture
def app():
    Remember.seen.clear()
    return FilteredWebSocketConsumer.as_asgi(filters=[Remember])


def by_header(key, scheme="Token"):
    return {"headers": [("authorization", f"{scheme} {key}".encode())]}


def by_subprotocol(key):
    return {
        "subprotocols": ["fws", f"fws.token.{key}"],
        "headers": [("sec-websocket-protocol", f"fws, fws.token.{key}".encode())],
    }


def by_query(key):
    return {"query": f"a=1&token={key}&b=2"}


def cookie(session):
    return {"headers": [("cookie", f"sessionid={session.session_key}".encode())]}


# Good ones


@pytest.mark.parametrize(
    "offer",
    [
        by_header,
        lambda key: by_header(key, "Bearer"),
        lambda key: by_header(key, "bEARER"),
        lambda key: {"headers": [("authorization", f"  Token   {key}  ".encode())]},
        by_subprotocol,
        by_query,
    ],
)
async def test_a_token_lets_its_user_in_and_filters_do_not_see_its_key(
    app, token, user, offer, settings
):
    settings.FILTERED_WEBSOCKET = {
        "AUTHENTICATORS": [
            "filtered_websocket.auth.HeaderAuthenticator",
            "filtered_websocket.auth.SubprotocolAuthenticator",
            QUERY,
        ]
    }
    record, key = token
    client = await shake_hands(app, **offer(key))
    assert client.accepted
    connection, handshake, shown = Remember.seen
    assert connection.user == user and connection.scope["user"] == user
    assert connection.token == record and connection.identity.token == record
    assert key[4:] not in shown + repr(connection.scope) + repr(connection)
    assert handshake.subprotocol == client.subprotocol
    assert client.subprotocol == ("fws" if offer is by_subprotocol else None)
    assert handshake.query_string in ("", "a=1&b=2")
    await client.close()


async def test_a_token_costs_one_indexed_query_and_a_message_none(app, token):
    async def visit():
        client = await shake_hands(app, **by_header(token[1]))
        for message in ("one", "two"):
            await client.send(message)
        await client.settle()
        await client.close()
        assert client.accepted

    async def visit_later():
        async with connect([]):
            # The first of a process are re-checked once.
            get_hub().grants._confirm()
            await visit()

    asked = await queries_of(visit_later())
    selects = [sql for sql in asked if sql.startswith("SELECT")]
    assert len(selects) == 1 and f"\"digest\" = '{token[0].digest}'" in selects[0]
    # Beside it, in the background, once a minute: when it was used.
    others = [
        sql for sql in asked if sql not in selects and not sql.startswith(("BEGIN", "COMMIT"))
    ]
    assert [sql.split('"last_used"')[0] for sql in others] == [
        'UPDATE "filtered_websocket_token" SET '
    ]

    def plan():
        with connections["default"].cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {selects[0]}")
            return [row[3] for row in cursor.fetchall()]

    for step in await sync_to_async(plan)():
        assert "USING INDEX" in step or "USING INTEGER PRIMARY KEY" in step, step


async def test_when_a_token_was_used_is_written_once_a_minute(app, token):
    record, key = token
    for used in (True, False):
        before = await Token.objects.values_list("last_used", flat=True).aget(pk=record.pk)
        client = await shake_hands(app, **by_header(key))
        await client.close()
        after = await Token.objects.values_list("last_used", flat=True).aget(pk=record.pk)
        assert (after != before) is used


async def test_a_token_without_a_user_is_anonymous_also_beside_a_session(token, session):
    _, key = await sync_to_async(Token.objects.create_key)(name="machine")
    headers = [*cookie(session)["headers"], *by_header(key)["headers"]]
    inner = FilteredWebSocketConsumer.as_asgi(filters=[Remember])
    client = await shake_hands(websocket_app(inner), headers=headers)
    assert client.accepted and Remember.seen[0].user == AnonymousUser()
    await client.close()


@pytest.mark.parametrize("refuse_with", ["403", "close"])
async def test_a_session_that_cannot_be_looked_up_lets_nobody_in(
    app, session, settings, monkeypatch, caplog, refuse_with
):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": refuse_with}

    def away(*args):
        raise OSError("the database is away")

    monkeypatch.setattr(sessions, "_user_of", away)
    application = websocket_app(app)
    for _ in range(2):
        client = await shake_hands(application, **cookie(session))
        if client.accepted:
            await client.closed()
        assert client.close_code == 4500 and not Remember.seen
        assert client.accepted is (refuse_with == "close")
        await client.close()
    assert [r.levelname for r in caplog.records] == ["ERROR"], "said once, not in a flood"


def websocket_app(inner):
    from django.urls import path

    return websocket_application([path("", inner)])


async def test_a_session_lets_its_user_in(app, session, user):
    client = await shake_hands(websocket_app(app), **cookie(session))
    assert client.accepted
    held = Remember.seen[0]
    assert held.user == user and held.identity.session_key == session.session_key
    assert held.session["_auth_user_id"] == str(user.pk)
    assert session.session_key not in repr(held.identity)
    await client.close()


async def test_a_session_is_read_and_never_written(app, session):
    from django.contrib.sessions.models import Session

    before = await Session.objects.aget(pk=session.session_key)
    client = await shake_hands(websocket_app(app), **cookie(session))
    Remember.seen[0].session["written"] = True
    await client.close()
    after = await Session.objects.aget(pk=session.session_key)
    assert (before.session_data, before.expire_date) == (after.session_data, after.expire_date)


async def test_after_a_change_of_the_secret_key_sessions_live_on_through_its_fallbacks(
    app, session, user, settings
):
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    client = await shake_hands(websocket_app(app), **cookie(session))
    assert client.accepted and Remember.seen[0].user == user
    await client.close()


@pytest.mark.parametrize("end", ["password", "deactivated", "backend", "no hash", "no such key"])
async def test_a_session_that_ended_is_anonymous(app, session, user, end, settings):
    if end == "password":
        user.set_password("other")
        await user.asave()
    elif end == "deactivated":
        user.is_active = False
        await user.asave()
    elif end == "backend":
        settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]
    elif end == "no hash":
        await sync_to_async(session.pop)("_auth_user_hash")
        await session.asave()
    else:
        session._session_key = "x" * 32
    client = await shake_hands(websocket_app(app), **cookie(session))
    assert client.accepted and Remember.seen[0].user == AnonymousUser()
    assert Remember.seen[0].identity is None
    await client.close()


async def test_a_ticket_lets_its_user_in_once(app, session, user, caplog):
    ticket = await sync_to_async(issue)(user, session)
    client = await shake_hands(app, query=f"ticket={ticket}")
    assert client.accepted and Remember.seen[0].user == user
    assert Remember.seen[0].identity.session_key == session.session_key
    await client.close()
    again = await shake_hands(app, query=f"ticket={ticket}")
    assert again.close_code == 4401
    await again.close()
    assert ticket not in caplog.text


@pytest.fixture
def speaking():
    """A route of the Centrifuge protocol; everybody is told of their own group."""
    inner = FilteredWebSocketConsumer.as_asgi(
        filters=[], protocol="centrifuge", group_rules=[personal()]
    )
    return websocket_app(inner)


@pytest.mark.parametrize("way", ["session", "key", "ticket"])
async def test_who_speaks_the_centrifuge_protocol_needs_no_json_web_token(
    speaking, session, token, user, way
):
    ticket = await sync_to_async(issue)(user, session)
    ways = {"session": cookie(session), "key": by_header(token[1])}
    client = await shake_hands(speaking, **ways.get(way, {"query": f"ticket={ticket}"}))
    await client.send('{"id": 1, "connect": {}}')
    told = json.loads(await client.receive())
    assert told["connect"]["subs"] == {f"#{user.pk}": {}}
    await client.close()


async def test_a_wrong_key_is_told_by_a_code_of_the_centrifuge_protocol(speaking):
    client = await shake_hands(speaking, **by_header("nosuch"))
    assert client.accepted and await client.closed() == 3500
    await client.close()


async def test_who_a_site_puts_in_the_scope_is_found_without_a_session(app, user):
    client = await shake_hands(app, user=user)
    assert client.accepted and Remember.seen[0].identity == Identity(user=user)
    await client.close()


async def test_without_authenticators_nothing_is_looked_at(app, settings, token):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": []}
    client = await shake_hands(app, **by_header("anything"))
    connection, handshake, _ = Remember.seen
    assert client.accepted and connection.identity is None
    assert handshake.headers["authorization"] == "Token anything"
    await client.close()


class Curious(authenticators.HeaderAuthenticator):
    """A site's own, which knows somebody who offers nothing."""

    asked = 0

    async def authenticate(self, scope):
        type(self).asked += 1
        return await super().authenticate(scope)


async def test_an_anonymous_client_costs_no_timer_and_asks_no_authenticator_of_keys(
    app, settings, monkeypatch
):
    paths = [*conf.AUTHENTICATORS, QUERY, f"{__name__}.Curious"]
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": paths}
    asked = []
    monkeypatch.setattr(authenticators, "credentials", lambda scope: asked.append(scope) or [])
    monkeypatch.setattr(database, "QueryTimer", None)
    client = await shake_hands(websocket_app(app))
    assert client.accepted and Remember.seen[0].user == AnonymousUser()
    await client.close()
    # By authenticate() itself, and by the site's own.
    assert len(asked) == 2 and Curious.asked == 1


# Bad ones: each row gets a good key and what else there is, and makes of it what must be refused.

LONG = "A" * 65_536


def flip(key):
    return key[:-1] + ("A" if key[-1] != "A" else "B")


BAD_KEYS = {
    "empty": lambda key: "",
    "a space": lambda key: " ",
    "upper case": lambda key: key.upper(),
    "lower case": lambda key: key.lower() + ("x" if key == key.lower() else ""),
    "swapped case": lambda key: key.swapcase(),
    "truncated by one": lambda key: key[:-1],
    "truncated to its prefix": lambda key: key[:12],
    "its first character gone": lambda key: key[1:],
    "without its beginning": lambda key: key.removeprefix("fws_"),
    "its beginning twice": lambda key: "fws_" + key,
    "an extra byte": lambda key: key + "A",
    "a newline behind": lambda key: key + "\n",
    "a blank inside": lambda key: key[:20] + " " + key[20:],
    "padded as base64": lambda key: key + "=",
    "one bit off": flip,
    "NUL behind": lambda key: key + "\0",
    "NUL inside": lambda key: key[:20] + "\0" + key[20:],
    "NUL alone": lambda key: "\0",
    "unicode": lambda key: key[:-1] + "é",
    "a look-alike letter": lambda key: "\uff46" + key[1:],
    "an Arabic digit": lambda key: key[:-1] + "٣",
    "a right-to-left mark": lambda key: key + "\u200f",
    "64 KB": lambda key: LONG,
    "64 KB behind the key": lambda key: key + LONG,
    "SQL": lambda key: "' OR '1'='1",
    "SQL with a key": lambda key: key + "' --",
    "SQL, two statements": lambda key: "'; DROP TABLE filtered_websocket_token; --",
    "LIKE": lambda key: "fws_" + "_" * 43,
    "LIKE of everything": lambda key: "%",
    "a format string": lambda key: "%s%s%n%x",
    "braces": lambda key: "{0.__class__}",
    "a template": lambda key: "{{ settings.SECRET_KEY }}",
    "markup": lambda key: "<script>alert(1)</script>",
    "a path": lambda key: "../../../../etc/passwd",
    "its digest": digest_of,
    "quoted": lambda key: f'"{key}"',
    "another site's key": lambda key: new_key(),
    "None": lambda key: "None",
    "JSON": lambda key: '{"key": "' + key + '"}',
}

BAD_OFFERS = {
    "two headers, both good": lambda key, other: {
        "headers": [("authorization", f"Token {key}".encode())] * 2
    },
    "two headers, joined as daphne does": lambda key, other: {
        "headers": [("authorization", f"Token {key},Token {key}".encode())]
    },
    "two headers, one bad": lambda key, other: {
        "headers": [
            ("authorization", f"Token {key}".encode()),
            ("authorization", b"Bearer nonsense"),
        ]
    },
    "two subprotocol tokens": lambda key, other: {
        "subprotocols": ["fws", f"fws.token.{key}", f"fws.token.{key}"]
    },
    "two subprotocol tokens of two users": lambda key, other: {
        "subprotocols": ["fws", f"fws.token.{key}", f"fws.token.{other}"]
    },
    "header and subprotocol": lambda key, other: {
        **by_header(key),
        "subprotocols": ["fws", f"fws.token.{key}"],
    },
    "header and query": lambda key, other: {**by_header(key), "query": f"token={key}"},
    "header and ticket": lambda key, other: {**by_header(key), "query": "ticket=x"},
    "the subprotocol in upper case": lambda key, other: {
        "subprotocols": ["fws", f"FWS.TOKEN.{key}"]
    },
    "the subprotocol with nothing": lambda key, other: {"subprotocols": ["fws", "fws.token."]},
    "a scheme alone": lambda key, other: {"headers": [("authorization", b"Token")]},
    "a scheme and a tab": lambda key, other: {
        "headers": [("authorization", f"Bearer \t{key}x".encode())]
    },
    "a header of bytes that are no text": lambda key, other: {
        "headers": [("authorization", b"Token \xff\xfe\x00\x80")]
    },
    "a token in the URL": lambda key, other: {"query": f"token={key}"},
    "an empty token in the URL": lambda key, other: {"query": "token="},
    "a token in the URL, percent-encoded": lambda key, other: {
        "query": "%74oken=" + "".join(f"%{ord(letter):02x}" for letter in key)
    },
    "an empty ticket": lambda key, other: {"query": "ticket="},
    "a key as a ticket": lambda key, other: {"query": f"ticket={key}"},
    "a made-up ticket": lambda key, other: {"query": "ticket=abc.1tX.signature"},
    "a ticket of 64 KB": lambda key, other: {"query": f"ticket={LONG}"},
    "a ticket of control characters": lambda key, other: {"query": "ticket=%00%0a%ff"},
}


async def refused(app, offer, secrets, caplog):
    with caplog.at_level(logging.DEBUG):
        client = await shake_hands(app, **offer)
        await client.close()
    # Of a close before accept, a server makes HTTP 403.
    assert not client.accepted
    assert client.close_code == 4401 and client.close_reason == "unauthorized"
    assert not Remember.seen, "a connect filter ran"
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    for secret in secrets:
        assert secret not in caplog.text


@pytest.fixture
def unlimited(settings):
    settings.FILTERED_WEBSOCKET = {"GUESS_LIMIT": None}


@pytest.mark.repeats
@pytest.mark.parametrize("offer", [by_header, by_subprotocol], ids=["header", "subprotocol"])
@pytest.mark.parametrize("name", BAD_KEYS)
async def test_a_bad_key_is_refused(app, token, name, offer, unlimited, caplog):
    key = BAD_KEYS[name](token[1])
    if offer is by_header:
        offered = {"headers": [("authorization", b"Token " + key.encode())]}
        if name == "a newline behind":
            # Behind a header it is white space, which HTTP lets anybody add.
            offered = {"headers": [("authorization", b"Token " + key.encode() + b"x")]}
    else:
        offered = {"subprotocols": ["fws", f"fws.token.{key}"]}
    await refused(app, offered, [token[1], *([key] if len(key) > 8 else [])], caplog)


@pytest.mark.repeats
@pytest.mark.parametrize("name", BAD_OFFERS)
async def test_a_bad_offer_is_refused(app, token, name, unlimited, caplog):
    _, other = await sync_to_async(Token.objects.create_key)(name="other")
    await refused(app, BAD_OFFERS[name](token[1], other), [token[1], other], caplog)


async def _expire(record):
    record.expires_at = timezone.now() - timezone.timedelta(seconds=1)
    await record.asave()


async def _revoke(record):
    await sync_to_async(record.revoke)()


async def _rotate(record):
    await sync_to_async(record.rotate)()


async def _delete(record):
    await record.adelete()


async def _deactivate(record):
    await User.objects.filter(pk=record.user_id).aupdate(is_active=False)


@pytest.mark.parametrize("end", [_expire, _revoke, _rotate, _delete, _deactivate])
async def test_a_token_that_ended_is_refused_like_one_that_never_was(
    app, token, end, unlimited, caplog
):
    record, key = token
    await end(record)
    await refused(app, by_header(key), [key], caplog)


async def test_a_ticket_of_another_user_than_the_sessions_is_refused(
    app, session, unlimited, caplog
):
    other = await sync_to_async(User.objects.create_user)("bob")

    def issue_to_bob():
        http = HttpClient()
        http.force_login(other)
        return issue(other, http.session)

    ticket = await sync_to_async(issue_to_bob)()
    await refused(
        websocket_app(app), {**cookie(session), "query": f"ticket={ticket}"}, [ticket], caplog
    )


async def test_a_reused_ticket_is_refused(app, user, session, unlimited, caplog):
    ticket = await sync_to_async(issue)(user, session)
    client = await shake_hands(app, query=f"ticket={ticket}")
    await client.close()
    assert client.accepted
    Remember.seen.clear()
    await refused(app, {"query": f"ticket={ticket}"}, [ticket], caplog)


def test_there_are_sixty_bad_credentials_and_more():
    assert 2 * len(BAD_KEYS) + len(BAD_OFFERS) + 7 >= 60


async def test_a_client_may_be_told_the_code(app, token, settings):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": "close"}
    client = await shake_hands(app, **by_header("nonsense"))
    assert client.accepted and await client.closed() == 4401
    await client.close()


async def test_a_browser_that_offers_subprotocols_is_told_the_code_too(app, settings):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": "close"}
    client = await shake_hands(app, **by_subprotocol("nonsense"))
    assert client.accepted and client.subprotocol == "fws"
    assert await client.closed() == 4401
    await client.close()


async def test_a_consumer_without_our_middleware_checks_the_handshake_itself(app, session, caplog):
    headers = [("origin", b"https://evil.example"), *cookie(session)["headers"]]
    with caplog.at_level(logging.INFO):
        client = await shake_hands(AuthMiddlewareStack(app), headers=headers)
    assert client.close_code == 4403 and not Remember.seen
    assert "the origin is not allowed" in caplog.text
    await client.close()
    headers = [("origin", b"https://testserver"), *cookie(session)["headers"]]
    client = await shake_hands(AuthMiddlewareStack(app), headers=headers)
    assert client.accepted and Remember.seen[0].user.username == "ann"
    await client.close()


async def test_a_token_is_looked_for_where_it_was_written(app, token, settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]
    client = await shake_hands(app, **by_header(token[1]))
    assert client.accepted
    await client.close()


class Replica:
    def db_for_read(self, model, **hints):
        return "nowhere"

    def db_for_write(self, model, **hints):
        return "default"


class Wordy:
    async def authenticate(self, scope):
        return Identity(user=AnonymousUser(), expires_at=1_800_000_000)


async def test_an_identity_that_cannot_be_held_lets_nobody_in(app, settings, caplog):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [f"{__name__}.Wordy"]}
    client = await shake_hands(app)
    assert client.close_code == 4500 and "has no attribute 'timestamp'" in caplog.text
    await client.close()


async def test_other_schemes_are_none_of_ours(app):
    client = await shake_hands(app, headers=[("authorization", b"Basic YTpi")])
    assert client.accepted and Remember.seen[0].identity is None
    await client.close()


# Authenticators of a site


class Mine:
    async def authenticate(self, scope):
        return Identity(user=scope["whom"], token={"scope": "all"}) if "whom" in scope else None


class Broken:
    async def authenticate(self, scope):
        raise OSError("the directory is away")


async def test_a_sites_own_authenticator_may_take_any_credential(app, settings, user):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [f"{__name__}.Mine"]}
    client = await shake_hands(app, **by_header("a.jwt.of-theirs"), whom=user)
    assert client.accepted and Remember.seen[0].token == {"scope": "all"}
    await client.close()


async def test_the_first_answer_wins(app, settings, user, token):
    settings.FILTERED_WEBSOCKET = {
        "AUTHENTICATORS": [f"{__name__}.Mine", "filtered_websocket.auth.HeaderAuthenticator"]
    }
    other = await sync_to_async(User.objects.create_user)("bob")
    client = await shake_hands(app, **by_header(token[1]), whom=other)
    assert client.accepted and Remember.seen[0].user == other
    await client.close()


async def test_a_fault_of_an_authenticator_is_not_the_clients(app, settings, caplog):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [f"{__name__}.Broken"]}
    client = await shake_hands(app)
    assert client.close_code == 4500
    assert "authentication raised OSError" in caplog.text
    await client.close()


async def test_an_authenticator_that_hangs_is_given_up(app, settings, monkeypatch, caplog):
    monkeypatch.setattr("filtered_websocket.consumers.AUTH_TIMEOUT", 0.01)
    monkeypatch.setattr(Broken, "authenticate", lambda self, scope: asyncio.Event().wait())
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [f"{__name__}.Broken"]}
    client = await shake_hands(app)
    assert client.close_code == 4500
    await client.close()


class Plain:
    def authenticate(self, scope):
        """Not awaitable."""


class NeedsArguments:
    def __init__(self, argument):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.Nothing", "there is no module 'nowhere'"),
        (f"{__name__}.Nothing", "Nothing"),
        (f"{__name__}.NeedsArguments", "without arguments and raises TypeError"),
        ("builtins.dict", "has no 'async def authenticate"),
        (f"{__name__}.Plain", "has no 'async def authenticate"),
        ("tests.raising_module.Anything", "RuntimeError: not today"),
    ],
)
def test_what_is_no_authenticator_is_told(settings, path, words):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [path]}
    with pytest.raises(ImproperlyConfigured, match="AUTHENTICATORS") as told:
        authenticators.load_authenticators()
    assert words in str(told.value) and repr(path) in str(told.value)


# Guessing


class Clock:
    """Records how long each caller would sleep, and does not sleep."""

    def __init__(self, monkeypatch):
        self.waited = []
        real = asyncio.sleep

        async def sleep(seconds):
            if asyncio.current_task().get_name() == "fws-heartbeat":
                return await real(seconds)
            self.waited.append(seconds)
            await real(0)

        monkeypatch.setattr(authenticators.asyncio, "sleep", sleep)


async def guess(app, count, **scope):
    for _ in range(count):
        client = await shake_hands(app, **by_header(new_key()), **scope)
        assert client.close_code == 4401
        await client.close()


async def queries_of(steps):
    """How many queries the thread of the tests makes for ``steps``."""
    context = await sync_to_async(lambda: CaptureQueriesContext(connections["default"]))()
    await sync_to_async(context.__enter__)()
    await steps
    made = [query["sql"] for query in context.captured_queries]
    await sync_to_async(context.__exit__)(None, None, None)
    return made


async def test_guesses_are_delayed_and_then_looked_up_together(app, token, monkeypatch):
    clock = Clock(monkeypatch)
    assert len(await queries_of(guess(app, 10))) == 10
    delays = [seconds for seconds in clock.waited if seconds > 0]
    assert delays == sorted(delays) and delays[0] > 0 and delays[-1] == 1.0
    clock.waited.clear()

    async def many_at_once():
        await asyncio.gather(*(guess(app, 1) for _ in range(40)))

    # One query, and no more than one a second, for all the rest of them.
    made = await queries_of(many_at_once())
    assert len(made) == 1 and '"digest" IN' in made[0]
    assert [seconds for seconds in clock.waited if seconds > 0] == []
    # And a good key passes, from the very same address.
    client = await shake_hands(app, **by_header(token[1]))
    assert client.accepted
    [wait] = [seconds for seconds in clock.waited if seconds > 0]
    assert 0.5 < wait <= 1.0
    await client.close()


async def test_of_many_guesses_at_once_no_more_are_looked_up(app, token, monkeypatch):
    Clock(monkeypatch)

    async def all_at_once():
        await asyncio.gather(*(guess(app, 1) for _ in range(50)))

    made = await queries_of(all_at_once())
    assert len([sql for sql in made if "IN (" not in sql]) <= 10
    assert len([sql for sql in made if "IN (" in sql]) <= 2


async def test_a_key_that_is_made_while_somebody_guesses_is_good_at_once(app, monkeypatch):
    """Also where no event tells of it, as without a layer."""
    Clock(monkeypatch)
    await guess(app, 12)
    record = await sync_to_async(Token)(name="new")
    key = record.set_new_key()
    await Token.objects.abulk_create([record])
    client = await shake_hands(app, **by_header(key))
    assert client.accepted
    await client.close()


async def test_more_than_fit_in_a_query_are_refused_unseen(app, token, monkeypatch):
    Clock(monkeypatch)
    monkeypatch.setattr(throttle, "MAX_WAITING", 1)
    await guess(app, 10)

    async def three_at_once():
        await asyncio.gather(*(guess(app, 1) for _ in range(3)))

    assert len(await queries_of(three_at_once())) == 1


async def test_a_database_that_is_away_is_no_bad_key(app, token, monkeypatch, caplog):
    Clock(monkeypatch)
    await guess(app, 10)

    def away():
        raise OSError("the database is away")

    monkeypatch.setattr(throttle, "token_rows", away)
    client = await shake_hands(app, **by_header(token[1]))
    assert client.close_code == 4500 and "the database is away" in caplog.text
    await client.close()


async def test_a_spoofed_forwarded_address_does_not_help(app, monkeypatch):
    Clock(monkeypatch)
    await guess(app, 10)
    spoofed = {"headers": [("x-forwarded-for", b"203.0.113.9"), *by_header(new_key())["headers"]]}

    async def again():
        client = await shake_hands(app, **spoofed)
        await client.close()

    await again()
    [made] = await queries_of(again())
    assert "IN (" in made


async def test_another_address_is_not_concerned(app, monkeypatch):
    clock = Clock(monkeypatch)
    await guess(app, 10)
    clock.waited.clear()
    await guess(app, 1, client=("198.51.100.1", 1))
    assert [seconds for seconds in clock.waited if seconds] == [0.1]


# Secrets in reports


async def test_no_key_is_in_the_report_of_an_exception(token, settings, monkeypatch, caplog):
    """What Django mails to ADMINS, and shows, of an exception while a key is handled."""
    record, key = token
    settings.DEBUG = False

    def on_fire(*args):
        raise OSError("the database is on fire")

    filters = ["filtered_websocket.filters.broadcast_messages_by_token"]
    by_token = FilteredWebSocketConsumer.as_asgi(filters=filters)
    opened = await shake_hands(by_token)
    monkeypatch.setattr("filtered_websocket.models.tokens.constant_time_compare", on_fire)
    for offer in (by_header(key), by_subprotocol(key)):
        client = await shake_hands(by_token, **offer)
        assert client.close_code == 4500
        await client.close()
    await opened.send(f"token:{key}")
    assert await opened.closed() == 4500
    await opened.close()
    reports = []
    for log in caplog.records:
        if log.exc_info:
            reporter = ExceptionReporter(None, *log.exc_info)
            reports += [reporter.get_traceback_text(), reporter.get_traceback_html()]
    assert len(reports) == 2, "of the handshakes one, once; of the message none"
    assert "the database is on fire" in caplog.text and "authenticate" in reports[0]
    for report in (*reports, caplog.text):
        assert key not in report and record.digest not in report


def test_a_refusal_says_nothing_of_its_reason():
    assert isinstance(authenticators.refusal(), Close)
    assert (authenticators.refusal().code, authenticators.refusal().reason) == (
        4401,
        "unauthorized",
    )


@pytest.mark.parametrize("where", ["module", "class"])
def test_ctrl_c_while_authenticators_are_loaded_is_not_swallowed(settings, monkeypatch, where):
    def interrupt(*args):
        raise KeyboardInterrupt

    module = types.ModuleType("interrupted")
    vars(module)["__getattr__" if where == "module" else "Mine"] = interrupt
    monkeypatch.setitem(sys.modules, "interrupted", module)
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": ["interrupted.Mine"]}
    with pytest.raises(KeyboardInterrupt):
        authenticators.load_authenticators()
