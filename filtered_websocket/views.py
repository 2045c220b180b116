"""
Pages: the demo chat, which shows its pipeline; tickets for logged-in users; and of the process
its health and its metrics.
"""

from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from .api.listener import is_reachable
from .auth.tickets import LIFETIME, issue
from .hub.drain import ending
from .hub.registry import active_hub
from .metrics.access import load_prometheus, may_see
from .routing import websocket_urlpatterns

#: No inline script or style, and nothing from other origins.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def demo(
    request: HttpRequest, name: str = "", websocket: Any = None, tee: Any = None
) -> HttpResponse:
    """
    The demo page, which connects to the WebSocket at its own path.

    ``websocket`` is what ``as_asgi`` returned for that path (default: the site's
    pipeline); the page shows its filters. Where that route speaks the Centrifuge protocol,
    the page is a room: it connects to the route, wherever that is, and subscribes to the
    groups ``room:<name>`` and ``typing:<name>``.

    ``tee`` is what ``as_asgi`` returned for a path that sends the records of a tee, as
    ``fws_project.tee`` of the example: the page then shows the way of a message through the
    pipe. They show what everybody says: give it with DEBUG only.
    """
    served = websocket_urlpatterns[0].callback if websocket is None else websocket
    route = served.route
    pipeline = route.pipeline
    is_room = route.protocol is not None and bool(route.paths)
    context = {
        "name": name,
        "pipes": pipeline.lines(),
        # Then the page shows what comes back, not what was typed.
        "to_self": any(getattr(cls, "to_self", False) for cls in pipeline.message.filters),
        # Not request.path: behind a proxy that strips the prefix it lacks that.
        "websocket_path": request.META["SCRIPT_NAME"]
        + (route.paths[0] if is_room else request.path_info),
        "group": f"room:{name}",
        "tee_path": _tee_path(request, route, tee),
        "lobby_url": _demo_url(),
        "room_url": _demo_url(name="-"),
    }
    page = "room.html" if is_room else "demo.html"
    response = render(request, f"filtered_websocket/{page}", context)
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def _tee_path(request: HttpRequest, route: Any, tee: Any) -> str:
    """Where the page gets the records of a tee on its ``route``; empty: nowhere."""
    if tee is None or not tee.route.paths or not route.paths:
        return ""
    prefix: str = request.META["SCRIPT_NAME"]
    return f"{prefix}{tee.route.paths[0]}?{urlencode({'route': route.paths[0]})}"


def _demo_url(**arguments: str) -> str:
    """The URL of the demo page with these arguments, by its view: its name is up to the site."""
    try:
        return reverse(demo, kwargs=arguments)
    except NoReverseMatch:
        return ""


@never_cache
@require_POST
@sensitive_variables("secret")
def ticket(request: HttpRequest) -> HttpResponse:
    """
    A ticket for a logged-in user, as JSON: ``{"ticket": ..., "expires_in": seconds}``.

    A page posts here (with its CSRF token) and connects to ``/?ticket=...`` at once. 403
    for a user who is not logged in.
    """
    if not request.user.is_authenticated:
        return JsonResponse({"error": "log in first"}, status=403)
    secret = issue(request.user, request.session)
    return JsonResponse({"ticket": secret, "expires_in": LIFETIME})


@require_safe
@cache_control(no_store=True)
def live(request: HttpRequest) -> HttpResponse:
    """Liveness: the process answers 200, ``{"status": "live"}``."""
    return JsonResponse({"status": "live"})


@require_safe
@cache_control(no_store=True)
async def ready(request: HttpRequest) -> HttpResponse:
    """
    Readiness: 200, or 503 while the process drains (``draining``) or cannot reach its
    channel layer (``layer_lost``).

    While nobody is connected to this process (``idle``), the layer is asked, at most once a
    second and for at most ``LAYER_TIMEOUT``.
    """
    hub = active_hub()
    word = "ready"
    if ending.is_set():
        word = "draining"
    elif hub is None:
        word = "idle" if await is_reachable() else "layer_lost"
    elif hub.layer_is_lost:
        word = "layer_lost"
    elif hub.tasks.failing:
        word = "task_failed"
    status = 503 if word in ("draining", "layer_lost", "task_failed") else 200
    return JsonResponse({"status": word}, status=status)


@require_safe
@cache_control(no_store=True)
def metrics(request: HttpRequest) -> HttpResponse:
    """
    The metrics of this process for Prometheus; with ``PROMETHEUS_MULTIPROC_DIR`` those of all.

    404 but for the networks of ``METRICS_ALLOWED``, and for staff with the permission
    ``view_console``.
    """
    prometheus = load_prometheus() if may_see(request) else None
    if prometheus is None:
        raise Http404
    content, content_type = prometheus.expose(request.headers.get("Accept", ""))
    return HttpResponse(content, content_type=content_type)
