"""The routes of the tests of memory: each has a queue that a client can fill."""

from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402

from .memory_filters import Enqueue, SlowConsumer, SlowGroup  # noqa: E402


def route(name, *filters):
    consumer = FilteredWebSocketConsumer.as_asgi(filters=list(filters), groups=[name])
    return path(f"{name}/", consumer)


application = with_websockets(
    http,
    [
        route("publish", BroadcastMessagesFilter),
        route("group", BroadcastMessagesFilter, SlowGroup),
        route("events", Enqueue, SlowConsumer),
    ],
)
