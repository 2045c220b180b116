"""Whose a session is."""

import json

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.urls import path

from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import process_uid
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import commands, sessions
from filtered_websocket.streams.sessions import is_genuine
from filtered_websocket.types import Identity, TokenUser

from ..protocols.clients import app, speak
from .clients import Request, Streamed

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site():
    return with_websockets(None, [path("connection/websocket", app())], protocols=True)


@sync_to_async
def log_in(name):
    """The headers of a page of somebody who logs in once more."""
    user, _ = User.objects.get_or_create(username=name)
    browser = Browser()
    browser.force_login(user)
    return [(b"cookie", f"sessionid={browser.cookies['sessionid'].value}".encode())]


async def test_only_who_has_the_cookie_of_a_session_sends_commands_to_it(site):
    ann, again, bob = [await log_in(name) for name in ("ann", "ann", "bob")]
    ping = {"id": 2, "ping": {}}
    async with Streamed(site, headers=ann) as client:
        assert await client.say(ping) == 204
        assert (await client.hear()) == {"id": 2, "ping": {}}
        # The same user with another session, as after a log-in in another window.
        assert await client.say(ping, headers=again) == 204
        for others in ([], bob, [(b"cookie", b"sessionid=invented")]):
            assert await client.say(ping, headers=others) == 403
    assert not sessions._streams


async def test_where_it_cannot_be_found_out_it_is_tried_again(site, monkeypatch, caplog):
    ann, again = await log_in("ann"), await log_in("ann")

    async def fails(scope):
        raise LookupError("no database")

    monkeypatch.setattr(commands, "session_user", fails)
    async with Streamed(site, headers=ann) as client:
        for _ in range(2):
            request = client.emulation({"id": 2, "ping": {}}, headers=again)
            assert await request.answer() == 503
            assert request.headers[b"retry-after"] == b"1"
    assert caplog.text.count("cannot look up the session of a command") == 1


async def test_where_nobody_is_logged_in_the_session_is_enough(site):
    """As a page may log in meanwhile."""
    async with Streamed(site, headers=[(b"cookie", b"sessionid=old")]) as client:
        assert await client.say({"id": 2, "ping": {}}, headers=await log_in("ann")) == 204


async def test_an_id_is_random_and_of_this_site(site, settings):
    async with Streamed(site) as one, Streamed(site) as other:
        session, node = (one.connected[key] for key in ("session", "node"))
        assert len(session) == 76 and session != other.connected["session"]
        assert node == process_uid() and is_genuine(session, node)
        assert not is_genuine(session, "other")
        assert not is_genuine(session.swapcase(), node) and not is_genuine("\ud800", node)
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
        assert is_genuine(session, node)
        settings.SECRET_KEY_FALLBACKS = []
        assert not is_genuine(session, node)


async def test_a_connection_that_closes_takes_no_more(site):
    async with Streamed(site) as client:
        stream = sessions.find(client.connected["session"])
        stream.connection.close(4000, "")
        assert await client.say({"id": 2, "ping": {}}) == 404


async def test_a_socket_is_told_no_session(site):
    async with speak(application=site, path="/connection/websocket") as ann:
        assert not {"session", "node"} & ann.connected["connect"].keys()
    body = json.dumps({"session": "", "node": "", "data": "{}"}).encode()
    assert await Request(site, "POST", "/emulation", body).answer() == 404


async def test_who_has_come_by_a_token_is_asked_for_no_cookie(site):
    ping = {"id": 2, "ping": {}}
    async with Streamed(site, headers=[(b"cookie", b"sessionid=basket")]) as client:
        get_hub().connections[client.id].identify(Identity(user=TokenUser("7")))
        for headers in ([], [(b"cookie", b"sessionid=rotated")]):
            assert await client.say(ping, headers=headers) == 204
