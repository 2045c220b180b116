"""What the page on the Pusher protocol shows runs as it is written."""

import os

from django.contrib.auth.models import AnonymousUser, User
from django.urls import URLResolver, path

from filtered_websocket.checks.pusher import check_pusher
from filtered_websocket.publish import publish
from filtered_websocket.pusher.apps import app_of_key
from filtered_websocket.testing import allows, published

from ..pusher.clients import app, speak
from ..snippets import named

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
        assert [one.group for one in seen] == [room]
        assert await ann.hears("message", channel=room) == '{"text":"hello"}'
    assert app_of_key("app-key").client_events


def test_the_pages_that_sign_have_a_path(site):
    [pages] = site.run(PAGE, "end of urls.py, to sign", urlpatterns=[], path=path).urlpatterns
    assert isinstance(pages, URLResolver) and len(pages.url_patterns) == 2
    assert "groups.py" in named("docs/pusher.md")
