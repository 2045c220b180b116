"""One route with group rules, on which users have their own group."""

from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.json_codec import JSONCodec  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402

from .groups_filters import Commands  # noqa: E402

route = FilteredWebSocketConsumer.as_asgi(filters=[Commands], codec=JSONCodec(), personal=True)
application = with_websockets(http, [path("", route)])
