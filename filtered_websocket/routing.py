"""
From a site's ``asgi.py`` to consumers: one line that wraps its HTTP application.

::

    application = with_websockets(get_asgi_application())

    http      -> the site's own application
    websocket -> origin check -> cookies, session, user -> routes -> consumer
    lifespan  -> answered
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

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

DEFAULT_PORTS = {"http": 80, "https": 443}

#: Whether a page of this origin may connect.
OriginRule: TypeAlias = Callable[[Scope, SplitResult], bool]

#: Who may connect where ``DEBUG`` is on and ``ALLOWED_HOSTS`` empty, as for HTTP.
DEBUG_HOSTS = [".localhost", "127.0.0.1", "[::1]"]


def parse_origin(scope: Scope) -> SplitResult | None:
    """
    The one Origin of a handshake (RFC 6455 section 4.1); ValueError for what is none.

    None where there is no such header: no browser sent this, so nobody's cookies are
    abused.
    """
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    if not origins:
        return None
    if len(origins) > 1:
        raise ValueError("more than one Origin header")
    origin: SplitResult = urlsplit(origins[0].decode("ascii"))
    if origin.scheme not in DEFAULT_PORTS or not origin.hostname or origin.username is not None:
        raise ValueError("not the origin of a page")
    _ = origin.port  # raises for what is no port
    return origin


def is_allowed_host(scope: Scope, origin: SplitResult) -> bool:
    """Whether a page's host is one of ALLOWED_HOSTS."""
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = DEBUG_HOSTS
    host = str(origin.hostname)
    return validate_host(f"[{host}]" if ":" in host else host, allowed)


def is_same_origin(scope: Scope, origin: SplitResult) -> bool:
    """Whether a page came from where this request goes: its Host header, port included."""
    host = urlsplit("//" + dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
    default = DEFAULT_PORTS[origin.scheme]
    return (origin.hostname, origin.port or default) == (host.hostname, host.port or default)


def normal_origin(text: str) -> tuple[str, str, int]:
    """Scheme, host and port of an origin (RFC 6454 section 4); ValueError for what is none."""
    origin = urlsplit(text)
    if origin.scheme not in DEFAULT_PORTS or not origin.hostname or origin.path.strip("/"):
        raise ValueError(f"{text!r} is no origin: write it as https://example.com")
    return origin.scheme, origin.hostname, origin.port or DEFAULT_PORTS[origin.scheme]


def one_of_origins(origins: Iterable[str]) -> OriginRule:
    """A rule that allows just these origins, as ``https://example.com:8443``; "*" is any."""
    listed = [origin for origin in origins if origin != "*"]
    any_origin = len(listed) < len(list(origins))
    wanted = {normal_origin(origin) for origin in listed}

    def is_listed(scope: Scope, origin: SplitResult) -> bool:
        return any_origin or normal_origin(origin.geturl()) in wanted

    return is_listed


class OriginCheck:
    """Refuses handshakes from pages of other sites, before anything reads a session."""

    def __init__(self, inner: ASGIApplication, rule: OriginRule = is_allowed_host) -> None:
        self.inner = inner
        self.rule = rule

    def allows(self, scope: Scope) -> bool:
        """Whether a handshake has no Origin, or one that the rule allows."""
        try:
            origin = parse_origin(scope)
            return origin is None or self.rule(scope, origin)
        except ValueError:
            return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.allows(scope):
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
    return _by_protocol(http, websocket_application(routes))


def standalone_application(
    websocket: ASGIApplication, where: str | None, origins: Sequence[str] | None
) -> ASGIApplication:
    """
    ``websocket`` with no site around it: at one path, or at every one; for pages of
    ``origins``, or of the origin that is connected to.
    """
    view: Any = websocket
    # The path itself, which may look like a pattern.
    route = re_path("" if where is None else f"^{re.escape(where.lstrip('/'))}$", view)
    rule = is_same_origin if origins is None else one_of_origins(origins)
    return _by_protocol(_upgrade_required, OriginCheck(Router([route]), rule))


def _by_protocol(http: ASGIApplication, websocket: ASGIApplication) -> ASGIApplication:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await http(scope, receive, send)

    return application


async def _upgrade_required(scope: Scope, receive: Receive, send: Send) -> None:
    """What a WebSocket server says to plain HTTP (RFC 9110 section 15.5.22)."""
    headers = [(b"content-type", b"text/plain"), (b"upgrade", b"websocket")]
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    await send({"type": "http.response.body", "body": b"This is a WebSocket server.\n"})


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start or stop; uvicorn asks all the same, and logs those who raise."""
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return
