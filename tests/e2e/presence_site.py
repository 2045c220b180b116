"""The site of presence_settings: who connects with ``?user=7`` is user 7."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.presence_settings")
http = get_asgi_application()

from django.contrib.auth import get_user_model  # noqa: E402

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402

route = FilteredWebSocketConsumer.as_asgi()


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        key = scope["query_string"].decode().partition("user=")[2]
        scope = {**scope, "user": get_user_model()(pk=int(key)) if key else None}
        await route(scope, receive, send)
    else:
        await http(scope, receive, send)
