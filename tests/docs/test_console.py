"""What the page about the console shows runs as it is written."""

import re
import sys
import types

import pytest
from django.urls import path

from filtered_websocket.admin import ConsoleAdmin
from filtered_websocket.console.actions import ALL
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.models import Console
from filtered_websocket.testing import connect

from ..snippets import ROOT

CONSOLE = "docs/console.md"
pytestmark = pytest.mark.django_db


async def test_a_router_of_the_sites_own_serves_the_console(site, monkeypatch):
    routing = types.ModuleType("mysite.routing")
    routing.websocket_urlpatterns = [path("own/", FilteredWebSocketConsumer.as_asgi(filters=[]))]
    monkeypatch.setitem(sys.modules, "mysite.routing", routing)
    page = site.run(CONSOLE, "a router of your own")
    for where, welcome in (("/fws-console/", True), ("/own/", True), ("/other/", False)):
        client = await connect(page.websocket, where)
        assert client.accepted is welcome
        await client.close()


def test_an_admin_of_the_sites_own_has_the_page(site):
    page = site.run(CONSOLE, "an admin of your own")
    assert isinstance(page.site.get_model_admin(Console), ConsoleAdmin)


def test_the_table_of_permissions_has_them_all():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / CONSOLE).read_text(), re.MULTILINE)
    assert {f"filtered_websocket.{name}" for name in rows} == set(ALL)
