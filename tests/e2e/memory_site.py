"""The routes of the tests of memory: each has a queue that a client can fill, and the protocol."""

from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402

from .memory_filters import Enqueue, SlowConsumer, SlowGroup  # noqa: E402


class RoomConsumer(FilteredWebSocketConsumer):
    """What waits for clients that have left must not reach those of the next test."""

    def get_groups(self):
        return [self.scope["path"]]


def route(name, *filters):
    return path(f"{name}/<int:room>/", RoomConsumer.as_asgi(filters=list(filters)))


application = with_websockets(
    http,
    [
        route("publish", BroadcastMessagesFilter),
        route("group", BroadcastMessagesFilter, SlowGroup),
        route("events", Enqueue, SlowConsumer),
    ],
    protocols=True,
)
