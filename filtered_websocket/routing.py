"""
From a site's ``asgi.py`` to consumers: one line that wraps its HTTP application.

::

    application = with_websockets(get_asgi_application())

    http      -> the site's own application
    websocket -> origin check -> cookies, session, user -> routes -> consumer
    lifespan  -> answered
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.sessions import SessionMiddlewareStack
from django.apps import apps
from django.conf import settings
from django.http.request import validate_host
from django.urls import path, re_path

from .consumers import FilteredWebSocketConsumer, logger, refuse
from .filters.base import printable
from .filters.pipeline import Route
from .types import ASGIApplication, Receive, Scope, Send

#: The site's pipeline, ``INSTALLED_FILTERS``, at the root. Built when it is served, not
#: here: a mistake in settings should reach ``manage.py check``, which may import this.
websocket_urlpatterns: list[Any] = [
    path("", FilteredWebSocketConsumer.as_asgi(build=False)),  # type: ignore[arg-type]
]

#: Who may connect where ``DEBUG`` is on and ``ALLOWED_HOSTS`` empty, as for HTTP.
DEBUG_HOSTS = [".localhost", "127.0.0.1", "[::1]"]


def origin_is_allowed(scope: Scope) -> bool:
    """
    Whether the handshake's Origin (RFC 6455 section 4.1) names a host of ALLOWED_HOSTS.

    No Origin header is no browser, so nobody's cookies are abused: allowed.
    """
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    if not origins:
        return True
    if len(origins) > 1:
        return False
    try:
        parts = urlsplit(origins[0].decode("ascii"))
        host = parts.hostname
        # A port that is no number raises here, as bad brackets do above.
        _ = parts.port
    except ValueError:
        return False
    if host is None or parts.scheme not in ("http", "https") or parts.username is not None:
        return False
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = DEBUG_HOSTS
    return validate_host(f"[{host}]" if ":" in host else host, allowed)


class OriginCheck:
    """Refuses handshakes from pages of other sites, before anything reads a session."""

    def __init__(self, inner: ASGIApplication) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if origin_is_allowed(scope):
            await self.inner(scope, receive, send)
            return
        await receive()
        origin = dict(scope["headers"]).get(b"origin", b"")
        logger.info("refused origin %s", printable(origin)[:256])
        await send({"type": "websocket.close"})


class Router:
    """Django paths to consumers; a path that none matches is refused politely."""

    def __init__(self, routes: Sequence[Any]) -> None:
        _note_paths(routes, "/")
        self._router = URLRouter([*routes, re_path(r"", refuse)])  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # URLRouter raises where a path is outside of root_path: no route of ours.
        inside = scope["path"].startswith(scope.get("root_path", ""))
        await (self._router if inside else refuse)(scope, receive, send)


def _note_paths(routes: Sequence[Any], prefix: str) -> None:
    """Tell routes their paths, and raise now for what cannot be built."""
    for entry in routes:
        where = prefix + str(entry.pattern)
        if isinstance(entry.callback, URLRouter):
            _note_paths(entry.callback.routes, where)
        route = getattr(entry.callback, "route", None)
        if isinstance(route, Route):
            route.paths = [*dict.fromkeys([*route.paths, where])]
            if apps.ready:
                route.pipeline  # noqa: B018 - built, or raises


def websocket_application(routes: Sequence[Any] | None = None) -> ASGIApplication:
    """
    ``routes`` (Django paths; the site's pipeline at ``/`` without) behind the origin
    check, and sessions and users where the site has installed those apps.
    """
    application: Any = Router(websocket_urlpatterns if routes is None else routes)
    if apps.is_installed("django.contrib.auth") and apps.is_installed("django.contrib.sessions"):
        application = AuthMiddlewareStack(application)
    elif apps.is_installed("django.contrib.sessions"):
        application = SessionMiddlewareStack(application)
    return OriginCheck(application)


def with_websockets(http: ASGIApplication, routes: Sequence[Any] | None = None) -> ASGIApplication:
    """
    A site's ASGI application: ``http`` as it was, and WebSockets.

    Call it after ``get_asgi_application()``: it needs Django's apps, and raises
    ImproperlyConfigured for a pipeline that cannot be built.
    """
    websocket = websocket_application(routes)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await http(scope, receive, send)

    return application


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start or stop; uvicorn asks all the same, and logs those who raise."""
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return
