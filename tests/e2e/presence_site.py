"""The site of presence_settings: who connects with ``?user=7`` is user 7."""

import math
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.presence_settings")
http = get_asgi_application()

from django.contrib.auth import get_user_model  # noqa: E402

from filtered_websocket.connections.handshake import LATEST_EVENT  # noqa: E402
from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402


def as_its_user(route):
    """``route`` with the user that the query names."""

    async def application(scope, receive, send):
        key = scope["query_string"].decode().partition("user=")[2]
        user = get_user_model()(pk=int(key)) if key else None
        # Such a user is nowhere in the database, or another one is.
        await route({**scope, "user": user, LATEST_EVENT: math.inf}, receive, send)

    return application


presence = as_its_user(FilteredWebSocketConsumer.as_asgi())


async def application(scope, receive, send):
    served = presence if scope["type"] == "websocket" else http
    await served(scope, receive, send)
