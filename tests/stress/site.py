"""The application under stress: a room per path, with the site's pipeline; and ``/me/``."""

import gc
import os

# As the documentation says it: by default, what a flood leaves waiting for a moment counts
# for long-lived, and a full collection among 10 000 connections stops all for half a second.
gc.set_threshold(50_000, 50, 100)

from django.core.asgi import get_asgi_application  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.stress.site_settings")
http = get_asgi_application()

from django.conf import settings  # noqa: E402
from django.urls import path  # noqa: E402

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402


class RoomConsumer(FilteredWebSocketConsumer):
    filters = settings.INSTALLED_FILTERS

    def get_groups(self):
        return [f"room:{self.scope['url_route']['kwargs']['room']}"]


routes = [
    path("me/", FilteredWebSocketConsumer.as_asgi(filters=[], personal=True)),
    path("<str:room>/", RoomConsumer.as_asgi()),
]
application = with_websockets(http, routes)
