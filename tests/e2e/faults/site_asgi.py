"""The example, and a route whose clients use groups with a history."""

from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.routing import with_websockets  # noqa: E402
from fws_project.routing import websocket_urlpatterns  # noqa: E402

from ..history_filters import Commands, Place, TellGaps, grouppatterns  # noqa: E402

kept = FilteredWebSocketConsumer.as_asgi(
    filters=[Commands, Place, TellGaps], groups=["beside"], group_rules=grouppatterns
)
application = with_websockets(http, [path("kept/", kept), *websocket_urlpatterns])
