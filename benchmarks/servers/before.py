"""
This package, whole: origin check, sessions and users, hub, bundled filters. What is here is
served as it was at an earlier commit, too; :mod:`.ours` adds what there is today.
"""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.servers.site_settings")
http = get_asgi_application()

from django.urls import path  # noqa: E402

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402

BROADCAST = "filtered_websocket.filters.broadcast_messages"
TO_ALL = {"NAME": BROADCAST, "OPTIONS": {"to_self": True}}
HERE = "benchmarks.servers.filters"


class GroupConsumer(FilteredWebSocketConsumer):
    """The group of a connection is in its path."""

    def get_groups(self) -> list[str]:
        return [self.scope["url_route"]["kwargs"]["group"]]


class SelfConsumer(GroupConsumer):
    """Messages reach their sender too."""

    filters = (TO_ALL,)


def echo_after(*filters: str):
    return FilteredWebSocketConsumer.as_asgi(filters=[*filters, f"{HERE}.Echo"])


ROUTES = [
    path("fan/<str:group>/", GroupConsumer.as_asgi()),
    path("self/<str:group>/", SelfConsumer.as_asgi()),
    path("echo/", echo_after()),
    path("echo-def/", echo_after(*[f"{HERE}.NoOp"] * 10)),
    path("echo-async/", echo_after(*[f"{HERE}.AsyncNoOp"] * 10)),
]
application = with_websockets(http, ROUTES)
