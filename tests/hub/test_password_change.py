"""A user who changes their own password keeps the session: so do its connections."""

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client
from django.urls import path

from filtered_websocket.auth.validity import password_hash
from filtered_websocket.close_codes import SESSION_RENEWED
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub import rechecks
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application

from ..handshaking import shake_hands
from ..waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ann(settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600}
    return User.objects.create_superuser("ann", password="secret")


@pytest.fixture
def browser(ann):
    made = Client()
    made.force_login(ann)
    return made


@pytest.fixture
def app():
    consumer = FilteredWebSocketConsumer.as_asgi(filters=[])
    return websocket_application([path("", consumer)])


async def enter(app, browser):
    cookie = f"sessionid={browser.cookies['sessionid'].value}".encode()
    client = await shake_hands(app, headers=[("cookie", cookie)])
    assert client.accepted
    return client


def closing():
    return get_hub().grants._rechecks._closing_at


@sync_to_async
def save_password(user):
    """The first half of the view: the session has the old hash."""
    user.set_password("another")
    user.save()


@sync_to_async
def save_session(key, user):
    """The second half of the view, in a site that leaves the key as it was."""
    session = SessionStore(key)
    session[HASH_SESSION_KEY] = password_hash(user)
    session.save()


async def test_after_djangos_view_the_own_page_comes_back_and_others_are_closed(
    app, ann, browser, monkeypatch
):
    monkeypatch.setattr(rechecks, "PASSWORD_GRACE", 0.01)
    stolen = Client()
    await sync_to_async(stolen.force_login)(ann)
    own, other = await enter(app, browser), await enter(app, stolen)
    fields = {"old_password": "secret", "new_password1": "c7Jt2!x", "new_password2": "c7Jt2!x"}
    answer = await sync_to_async(browser.post)("/admin/password_change/", fields)
    assert answer.status_code == 302
    assert await own.closed() == SESSION_RENEWED
    assert await other.closed() == 4401
    assert other.close_reason == "password changed"
    again = await enter(app, browser)
    assert [str(one.user) for one in get_hub().connections.values() if not one.closing] == ["ann"]
    for client in (own, other, again):
        await client.close()


async def test_between_the_user_and_the_session_nobody_is_closed(app, ann, browser, monkeypatch):
    monkeypatch.setattr(rechecks, "PASSWORD_GRACE", 3600)
    client = await enter(app, browser)
    await save_password(ann)
    await until(closing, 0)
    [connection] = closing()
    # However often it is asked meanwhile.
    get_hub().grants.recheck_all()
    assert await client.received_nothing() and client.close_code is None
    await save_session(browser.cookies["sessionid"].value, ann)
    get_hub().grants._rechecks._check_again(connection)
    await until(lambda: not closing(), 0)
    held = get_hub().grants._held[connection]["handshake"]
    assert held.session_hash == password_hash(ann)
    assert await client.received_nothing() and client.close_code is None
    await client.close()


async def test_what_ends_meanwhile_is_forgotten(app, ann, browser, monkeypatch):
    monkeypatch.setattr(rechecks, "PASSWORD_GRACE", 3600)
    kept, client = await enter(app, browser), await enter(app, browser)
    await save_password(ann)
    await until(lambda: len(closing()) == 2, 0)
    connection = list(get_hub().connections.values())[-1]
    await client.close()
    get_hub().grants._rechecks._check_again(connection)
    assert len(closing()) == 1
    await kept.close()


async def test_a_token_that_is_used_besides_does_not_keep_a_connection_open(
    app, ann, browser, monkeypatch
):
    monkeypatch.setattr(rechecks, "PASSWORD_GRACE", 0.01)
    _, key = await sync_to_async(Token.objects.create_key)(name="lamp")
    client = await enter(app, browser)
    [connection] = get_hub().connections.values()
    assert await connection.use_token(key)
    await save_password(ann)
    assert await client.closed() == 4401
    await client.close()
