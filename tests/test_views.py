"""Health of a process: views."""

import asyncio
import importlib.util

import pytest
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.urls import reverse

from filtered_websocket import views
from filtered_websocket.hub import drain
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import active_hub
from filtered_websocket.testing import connect

from .waiting import until

pytestmark = pytest.mark.urls("filtered_websocket.urls")


@pytest.fixture
def ask():
    async def get(what):
        answer = await AsyncClient().get(f"/health/{what}")
        assert answer["Cache-Control"] == "no-store"
        assert list(answer.json()) == ["status"]
        return answer.status_code, answer.json()["status"]

    return get


async def test_a_process_is_live_whatever_it_is_doing(ask):
    assert await ask("live") == (200, "live")
    drain.ending.set()
    try:
        assert await ask("live") == (200, "live")
    finally:
        drain.ending.clear()


async def test_where_nobody_is_connected_the_layer_is_asked(ask, monkeypatch):
    assert await ask("ready") == (200, "idle")
    asked = []

    async def is_reachable():
        asked.append(active_hub())
        return False

    monkeypatch.setattr(views, "is_reachable", is_reachable)
    assert await ask("ready") == (503, "layer_lost")
    async with connect([]):
        assert await ask("ready") == (200, "ready")
    assert asked == [None]


def test_a_wsgi_server_may_ask_too():
    assert Client().get("/health/ready").json() == {"status": "idle"}


async def test_a_process_is_not_ready_while_its_layer_is_away(ask):
    async with connect([]):
        assert await ask("ready") == (200, "ready")
        hub = get_hub()
        hub._layer_lost(OSError("gone"))
        assert await ask("ready") == (503, "layer_lost")
        hub._layer_back(1.0)
        assert await ask("ready") == (200, "ready")


async def test_a_process_is_not_ready_while_a_task_of_it_fails(ask):
    async def fail():
        raise ValueError

    async with connect([]):
        hub = get_hub()
        task = hub.tasks.start(fail, "fws-test")
        await until(lambda: hub.counts["task_failed"], 0)
        assert await ask("ready") == (503, "task_failed")
        task.cancel()
        await asyncio.wait([task])
        assert await ask("ready") == (200, "ready")


async def test_a_process_is_not_ready_while_it_ends(ask):
    async with connect([]):
        drain.ending.set()
        try:
            assert await ask("ready") == (503, "draining")
        finally:
            drain.ending.clear()


@pytest.mark.parametrize("what", ["live", "ready"])
def test_they_are_only_read(what):
    assert reverse(f"{what}", urlconf="filtered_websocket.urls") == f"/health/{what}"
    assert Client().post(f"/health/{what}").status_code == 405
    assert Client().head(f"/health/{what}").status_code == 200


@pytest.mark.parametrize("asked", ["/", "/app/"])
def test_below_a_prefix_the_demo_asks_for_the_path_that_the_browser_sees(settings, asked):
    settings.FORCE_SCRIPT_NAME = "/app"
    request = AsyncRequestFactory().get(asked)
    assert 'data-websocket-path="/app/"' in views.demo(request).content.decode()


@pytest.mark.parametrize("prefix", [None, "/app"])
def test_a_room_asks_for_the_path_of_its_route(settings, prefix):
    from fws_project.asgi import application  # noqa: F401 - it says where routes are
    from fws_project.routing import chat

    settings.FORCE_SCRIPT_NAME = prefix
    request = AsyncRequestFactory().get("/rooms/a&b/")
    page = views.demo(request, name="a&b", websocket=chat).content.decode()
    assert f'data-websocket-path="{prefix or ""}/connection/websocket"' in page
    assert 'data-group="room:a&amp;b"' in page


@pytest.mark.parametrize("debug", [True, False])
def test_without_debug_there_is_neither_route_nor_control(settings, debug):
    # A second time, as another module.
    spec = importlib.util.find_spec("fws_project.routing")
    routing = importlib.util.module_from_spec(spec)
    settings.DEBUG = debug
    spec.loader.exec_module(routing)
    paths = [str(route.pattern) for route in routing.websocket_urlpatterns]
    assert ("debug/tee/" in paths) is debug
    assert (routing.tee is not None) is debug
    for name, path in (("tee", "/debug/tee/"), ("rooms", "/rooms/")):
        if application := getattr(routing, name):
            application.route.paths.append(path)
    request = RequestFactory().get("/rooms/")
    page = views.demo(request, websocket=routing.rooms, tee=routing.tee).content.decode()
    assert ("pipe.js" in page and "/debug/tee/?route=%2Frooms%2F" in page) is debug
    assert ('id="tee"' in page) is debug and ('id="way"' in page) is debug
