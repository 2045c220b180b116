"""System checks of the ASGI application, one test per id."""

import functools
import gc
import sys
import types

import pytest
from channels.routing import ProtocolTypeRouter, URLRouter
from django import urls
from django.core import management
from django.utils.functional import SimpleLazyObject

from filtered_websocket import views
from filtered_websocket.apps import CHECKS
from filtered_websocket.checks import application as checks
from filtered_websocket.checks.application import can_reach, check_application, load_application
from filtered_websocket.checks.channels import check_written_layer
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.layer.health import LayerError
from filtered_websocket.pipelines import route as routes
from filtered_websocket.routing import with_websockets


def ids():
    return [message.id.removeprefix("filtered_websocket.") for message in check_application()]


@pytest.fixture(autouse=True)
def example():
    """The example's application, which is registered and makes no mistake."""
    load_application()
    assert ids() == [] and check_application in CHECKS


@pytest.fixture
def serve(settings, monkeypatch):
    """Serve an application of a test, and no other route."""
    module = types.ModuleType("asgi_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(routes, "_routes", set())
    settings.ASGI_APPLICATION = "asgi_of_a_test.application"

    def use(application):
        module.application = application

    return use


async def http(scope, receive, send):
    raise NotImplementedError


def offered():
    """As ``routing`` has one, which a site may use or not."""
    return urls.path("", FilteredWebSocketConsumer.as_asgi(build=False))


class Middleware:
    def __init__(self, inner):
        self.inner = inner


def test_w015_an_application_without_websockets(serve):
    route = offered()
    serve(http)
    assert ids() == ["W015"]
    serve(Middleware(ProtocolTypeRouter({"http": http})))
    assert ids() == ["W015"]
    for application in (
        ProtocolTypeRouter({"http": http, "websocket": Middleware(URLRouter([route]))}),
        functools.wraps(http)(lambda *args: URLRouter([route])),
    ):
        serve(application)
        assert ids() == []


def test_an_application_of_too_many_objects_gets_no_warning(monkeypatch):
    assert not can_reach([object(), object()], {1})
    monkeypatch.setattr(checks, "MAX_OBJECTS", 2)
    assert can_reach([object(), object()], {1})


def test_objects_that_cannot_be_looked_into_are_passed_over():
    class Proxy:
        @property
        def __dict__(self):
            raise RuntimeError("no current object")

    def unset():
        return later

    assert not can_reach([Proxy(), unset, {"a": {1}}, SimpleLazyObject(lambda: 1 / 0)], {1})
    later = None


def test_an_application_that_with_websockets_wraps_is_no_mistake(settings, serve):
    settings.ROOT_URLCONF = page(urls.path("", views.demo))
    serve(with_websockets(http, [offered()]))
    assert ids() == []


def test_a_route_that_a_site_makes_is_served_by_its_own_router(serve):
    own = FilteredWebSocketConsumer.as_asgi(filters=[])
    serve(http)
    assert ids() == []
    del own


def test_a_mistake_in_the_channel_layer_is_told_once(settings, tmp_path, monkeypatch):
    application = (
        "from filtered_websocket.routing import *\napplication = with_websockets(None, [])"
    )
    (tmp_path / "asgi_with_a_layer.py").write_text(application)
    monkeypatch.syspath_prepend(tmp_path)
    settings.ASGI_APPLICATION = "asgi_with_a_layer.application"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "nowhere.Layer"}}
    with pytest.raises(LayerError, match=r"^CHANNEL_LAYERS\['default'\]: its BACKEND"):
        load_application()
    assert ids() == []
    assert [one.id for one in check_written_layer()] == ["filtered_websocket.E037"]


@pytest.mark.parametrize("app", ["django.core", "django.contrib.staticfiles"])
def test_w016_a_runserver_without_websockets(settings, monkeypatch, app):
    monkeypatch.setattr(checks, "get_commands", lambda: {"runserver": app})
    assert ids() == []
    settings.DEBUG = True
    assert ids() == ["W016"]
    settings.ASGI_APPLICATION = None
    assert ids() == []


def test_the_example_has_a_runserver_with_websockets(settings):
    settings.DEBUG = True
    assert management.get_commands()["runserver"] == "daphne" and ids() == []


def page(*patterns):
    return type("Urls", (), {"urlpatterns": list(patterns)})


@pytest.mark.repeats
@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (urls.path("chat/", views.demo), "/chat/"),
        (urls.path("chat/", urls.include("filtered_websocket.urls")), "/chat/"),
        (urls.path("a/", urls.include([urls.path("b/<slug:name>/", views.demo)])), "/a/b/<slug:"),
        (urls.path("", views.demo), None),
        (urls.path("rooms/<name>/", views.demo), None),
        (urls.re_path("^chat/$", views.demo), None),
        (urls.path("live/", views.live), None),
    ],
)
def test_w017_a_demo_page_without_a_route_for_it(settings, pattern, path):
    gc.collect()  # routes of earlier tests, which are known until then
    settings.ROOT_URLCONF = page(pattern)
    assert ids() == ["W017"] * (path is not None)
    if path is not None:
        [message] = check_application()
        assert f"The demo page at '{path}" in message.msg and "/rooms/<str:name>/" in message.hint


def test_a_room_connects_to_the_route_of_its_protocol_wherever_that_is(settings):
    chat = FilteredWebSocketConsumer.as_asgi(filters=[], protocol="centrifuge", group_rules=[])
    settings.ROOT_URLCONF = page(urls.path("chat/", views.demo, {"websocket": chat}))
    assert ids() == []
    settings.ROOT_URLCONF = page(urls.path("chat/", views.demo, {"websocket": None}))
    assert ids() == ["W017"]


def test_routes_that_are_regexes_are_not_compared_with_pages(settings, serve):
    settings.ROOT_URLCONF = page(urls.path("chat/", views.demo))
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    serve(with_websockets(http, [urls.re_path(r"^talk/$", app)]))
    assert ids() == []
    settings.ROOT_URLCONF = None
    serve(with_websockets(http, [urls.path("talk/", FilteredWebSocketConsumer.as_asgi())]))
    assert ids() == []
