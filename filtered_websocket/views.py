"""The demo page: a chat that shows the pipeline it talks to."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .routing import websocket_urlpatterns

#: No inline script or style, nothing from elsewhere.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def demo(request: HttpRequest, name: str = "", websocket: Any = None) -> HttpResponse:
    """
    The page, which connects to the WebSocket at its own path.

    ``websocket`` is what ``as_asgi`` returned for that path, the site's pipeline by
    default: it is what the page shows.
    """
    served = websocket_urlpatterns[0].callback if websocket is None else websocket
    context = {
        "name": name,
        "pipes": served.route.pipeline.lines(),
        "websocket_path": request.path,
    }
    response = render(request, "filtered_websocket/demo.html", context)
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
