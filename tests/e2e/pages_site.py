"""What pages of the documentation on front ends talk to, made of their own blocks."""

import os
import types

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import include, path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.pages_settings")
http = ASGIStaticFilesHandler(get_asgi_application())

from django.contrib.auth import login  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402

from filtered_websocket.groups import History, group  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402
from tests.docs.modules import make_module, make_package  # noqa: E402

grouppatterns = [
    group(
        "room:<str:name>",
        publish=True,
        presence=True,
        join_leave=True,
        history=History(size=100, ttl=300),
    ),
    # Here anybody may see it, and clients play the task.
    group("presence-room-<int:room>", publish=True, presence=True),
    group("dashboard:<slug:name>", publish=True, history=History(size=1, ttl=3600), latest=True),
]


class Articles:
    """What calls of clients ask for: one kettle of three."""

    left = 3

    async def aget(self, pk):
        assert pk == 17
        return types.SimpleNamespace(name="kettle", stock=self.left)

    def take_one(self, pk):
        self.left -= 1
        return self.left


models = make_package("of_calls") and types.ModuleType("of_calls.models")
models.Article = types.SimpleNamespace(objects=Articles())
__import__("sys").modules["of_calls.models"] = models
make_module("docs/calls.md", "filters.py", "of_calls.filters", "of_calls")
make_package("of_htmx")
make_module("docs/htmx.md", "filters.py", "of_htmx.filters", "of_htmx")
routes = make_module("docs/htmx.md", "routes.py", "of_htmx.routes", "of_htmx").routes


def page(request):
    return HttpResponse("<!doctype html><title>A page</title>")


def log_in(request):
    """As somebody, with the token that forms need."""
    login(request, User.objects.get_or_create(username="ann")[0])
    get_token(request)
    return page(request)


urlpatterns = [
    path("", page),
    path("log-in/", log_in),
    path("pusher/", include("filtered_websocket.pusher.views")),
]
application = with_websockets(http, routes, protocols=True)
