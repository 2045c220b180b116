"""Rules, users, histories and presence in one process without Redis: a route for each."""

from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402

from . import groups_site  # noqa: E402
from .presence_site import as_its_user  # noqa: E402


def route_of(name):
    """With the filters and rules of another site of tests."""
    module = f"tests.e2e.{name}_filters"
    return FilteredWebSocketConsumer.as_asgi(
        filters=[module], group_rules=f"{module}.grouppatterns"
    )


presence = as_its_user(route_of("presence"))
others = with_websockets(
    http, [path("groups/", groups_site.route), path("history/", route_of("history"))]
)


async def application(scope, receive, send):
    is_presence = scope["type"] == "websocket" and scope["path"] == "/presence/"
    await (presence if is_presence else others)(scope, receive, send)
