"""What the page on the Pusher protocol shows runs as it is written."""

import os

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.urls import URLResolver, include, path

from filtered_websocket.checks.pusher import check_pusher
from filtered_websocket.publish import publish
from filtered_websocket.pusher.apps import app_of_id, app_of_key, make_app
from filtered_websocket.testing import allows, published

from ..pusher.clients import app, speak

PAGE = "docs/pusher.md"


async def test_a_site_for_clients_of_pusher(site, settings, monkeypatch):
    monkeypatch.setenv("PUSHER_SECRET", "a-long-one-as-secrets-makes-them")
    site(PAGE, "groups.py")
    settings.FILTERED_WEBSOCKET = site.run(PAGE, "settings.py", os=os).FILTERED_WEBSOCKET
    # The example's own route is known here, too.
    assert {one.id for one in check_pusher()} <= {"filtered_websocket.W027"}
    room = "presence-room-7"
    assert await allows("mysite.groups", "join", room, User(pk=5))
    assert not await allows("mysite.groups", "join", room, AnonymousUser())
    async with speak(application=app(rules="mysite.groups")) as ann:
        await ann.subscribe(room, "5")
        with published() as seen:
            site.run(PAGE, "publish", publish=publish)
        assert [one.group for one in seen] == [room, room]
        assert await ann.hears("message", channel=room) == '{"text":"hello"}'
        assert await ann.hears("order-shipped", channel=room) == '{"id":42}'
    assert app_of_key("app-key").client_events


def test_the_pages_that_sign_have_a_path(site):
    [pages] = site.run(PAGE, "end of urls.py, to sign", urlpatterns=[], path=path).urlpatterns
    assert isinstance(pages, URLResolver) and len(pages.url_patterns) == 2
    label = "end of urls.py, for the API"
    [api] = site.run(PAGE, label, urlpatterns=[], path=path, include=include).urlpatterns
    assert len(api.url_patterns) == 8


def test_a_backend(site, monkeypatch):
    """Its package is the real one, whose requests go nowhere."""
    monkeypatch.setenv("PUSHER_SECRET", "a-long-one-as-secrets-makes-them")
    sent = []
    monkeypatch.setattr("pusher.requests.RequestsBackend.send_request", sent.append)
    monkeypatch.setattr("pusher.requests.RequestsBackend.__init__", lambda *_, **options: None)
    site.run("docs/pusher.md", "backend", os=os)
    [request] = sent
    assert request.path == "/apps/1/events" and b"order-shipped" in request.body
    assert request.base_url == "https://example.com:443"


def test_a_webhook(site):
    hooks = site.run(PAGE, "webhooks").WEBHOOKS
    [hook] = make_app({"ID": "1", "KEY": "a", "SECRET": "b", "WEBHOOKS": hooks}, 0).webhooks
    assert hook.takes({"name": "channel_vacated", "channel": "room-7"})


@pytest.mark.django_db
def test_apps_in_the_admin(site, settings):
    settings.FILTERED_WEBSOCKET = site.run(
        PAGE, "settings.py, for apps in the admin"
    ).FILTERED_WEBSOCKET
    made = site.run(PAGE, "an app from Python")
    found = app_of_id(made.app.app_id)
    assert found.secret == made.secret and found.client_events
    assert len(made.app.app_id) in (10, 11)
