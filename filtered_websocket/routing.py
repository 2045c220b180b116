"""
WebSocket routes for a site's ``asgi.py``: one line that wraps its HTTP application.

::

    application = with_websockets(get_asgi_application())

    http      -> the site's own application
    websocket -> handshake check -> cookies, session, user -> routes -> consumer
    lifespan  -> answered; nothing to start or stop
"""

import re
from collections.abc import Sequence
from typing import Any

from channels.routing import URLRouter
from channels.sessions import SessionMiddleware
from django.apps import apps
from django.urls import path, re_path

from .auth.authenticators import AUTH_TIMEOUT, load_authenticators, session_user
from .auth.credentials import clean_query
from .close_codes import FILTER_ERROR
from .conf import conf
from .connections.handshake import (
    CHECKED,
    LATEST_EVENT,
    CookieMiddleware,
    refusal_reason,
    script_name,
)
from .connections.origins import OriginRule, is_same_origin, one_of_origins, site_rule
from .connections.refusals import cure_of, log_refusal, refuse
from .consumers import FilteredWebSocketConsumer
from .hub.drain import DRAINING, ending
from .hub.grants import latest_event
from .hub.registry import note_serving
from .logs import LogThrottle, get_logger
from .pipelines.route import Route
from .threads.database import time_limit
from .transports import open_transport
from .types import ASGIApplication, Receive, Scope, Send

logger = get_logger(__name__)

#: The site's pipeline, ``INSTALLED_FILTERS``, at the root. Built for the first connection,
#: not here: a mistake in settings must not prevent ``manage.py check`` from importing this.
websocket_urlpatterns: list[Any] = [
    path("", FilteredWebSocketConsumer.as_asgi(build=False)),  # type: ignore[arg-type]
]


async def _refuse_with(scope: Scope, receive: Receive, send: Send, code: int, reason: str) -> None:
    """Refuse a handshake as ``REFUSE_WITH`` says, outside of a consumer."""
    await receive()
    send_close = open_transport(send, conf.MAX_OUTBOX, lambda code, reason: None).send_close
    await refuse(scope, send, send_close, code, reason)


class HandshakeCheck:
    """
    Refuses handshakes from pages of other sites, and all of them while the process
    drains. Runs before the session is read.
    """

    def __init__(
        self, inner: ASGIApplication, rule: OriginRule = site_rule, *, any_host: bool = False
    ) -> None:
        self.inner = inner
        self.rule = rule
        self.any_host = any_host
        self._throttle = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inside = _hide_query(scope)
        inside[CHECKED] = True
        inside[LATEST_EVENT] = latest_event()
        problem = refusal_reason(inside, self.rule, any_host=self.any_host)
        if problem:
            await receive()
            cure = cure_of(inside, problem)
            log_refusal(inside, problem, cure, self._throttle)
            await send({"type": "websocket.close"})
        elif ending.is_set():
            log_refusal(inside, DRAINING[1], "Connect again.", self._throttle)
            await _refuse_with(inside, receive, send, *DRAINING)
        else:
            await self.inner(inside, receive, send)


def _hide_query(scope: Scope) -> Scope:
    """
    The scope for the application. From the server's own scope, which uvicorn's access log
    prints later, the credentials in the query are removed.
    """
    query = clean_query(scope) if conf.AUTHENTICATORS else scope.get("query_string", b"")
    if query == scope.get("query_string", b""):
        return scope
    inside = dict(scope)
    scope["query_string"] = query
    return inside


class SessionUserMiddleware:
    """
    Sets ``scope["user"]`` to the session's user, looked up once, at the handshake.

    If the lookup fails the handshake is refused: an error makes nobody anonymous.
    """

    def __init__(self, inner: ASGIApplication) -> None:
        self.inner = inner
        self._throttle = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with time_limit(AUTH_TIMEOUT):
                user = await session_user(scope)
        except Exception as error:
            if self._throttle.note("session"):
                logger.error("cannot look up the session of a handshake: %r", error)
            await _refuse_with(scope, receive, send, FILTER_ERROR, "cannot find out who connects")
            return
        await self.inner({**scope, "user": user}, receive, send)


class Router:
    """Routes by Django paths; a handshake for a path without a route gets HTTP 403."""

    def __init__(self, routes: Sequence[Any]) -> None:
        self._paths = _note_paths(routes, "/")
        self._router = URLRouter([*routes, re_path(r"", self._refuse)])  # type: ignore[arg-type]
        self._throttle = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # As Django does for pages. URLRouter knows root_path only, and demands that the
        # path begins with it, which it does not behind a proxy that strips it.
        remaining = scope["path"].removeprefix(script_name(scope))
        is_here = remaining.startswith("/") or not remaining
        router = self._router if is_here else self._refuse
        await router({**scope, "path_remaining": remaining}, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """HTTP 403, and a throttled line in the log: scanners try many paths."""
        await receive()
        reason = f"no WebSocket route for {scope['path']}"
        prefix = script_name(scope)
        cure = f"Routes: {', '.join(prefix + path for path in self._paths) or 'none'}."
        log_refusal(scope, reason, cure, self._throttle, "path")
        await send({"type": "websocket.close"})


def _note_paths(routes: Sequence[Any], prefix: str) -> list[str]:
    """
    Note each route's paths, and return all; raises ImproperlyConfigured for a pipeline that
    cannot be built.
    """
    paths = []
    for entry in routes:
        where = prefix + str(entry.pattern)
        if isinstance(entry.callback, URLRouter):
            paths += _note_paths(entry.callback.routes, where)
        else:
            paths.append(where)
        route = getattr(entry.callback, "route", None)
        if isinstance(route, Route):
            route.paths = [*dict.fromkeys([*route.paths, where])]
            if apps.ready:
                route.pipeline  # noqa: B018 - built, or raises
    return paths


def websocket_application(routes: Sequence[Any] | None = None) -> ASGIApplication:
    """
    ``routes`` (Django paths; by default the site's pipeline at ``/``) behind the handshake
    check, with sessions and users if the site has installed those apps.

    ImproperlyConfigured for a pipeline or an authenticator that cannot be built.
    """
    load_authenticators()
    application: Any = Router(websocket_urlpatterns if routes is None else routes)
    if apps.is_installed("django.contrib.sessions"):
        if apps.is_installed("django.contrib.auth"):
            application = SessionUserMiddleware(application)
        application = CookieMiddleware(SessionMiddleware(application))
    return HandshakeCheck(application)


def with_websockets(http: ASGIApplication, routes: Sequence[Any] | None = None) -> ASGIApplication:
    """
    A site's ASGI application: ``http`` unchanged, and WebSockets.

    Call it after ``get_asgi_application()``, as it needs Django's apps. Raises
    ImproperlyConfigured for a pipeline that cannot be built.
    """
    return _by_protocol(http, websocket_application(routes))


def standalone_application(
    websocket: ASGIApplication, where: str | None, origins: Sequence[str] | None
) -> ASGIApplication:
    """
    ``websocket`` without a Django site: at the path ``where``, or at every path; for pages
    of ``origins``, or of the same origin.
    """
    view: Any = websocket
    # Escaped, as the path may contain characters of a regular expression.
    route = re_path("" if where is None else f"^{re.escape(where.lstrip('/'))}$", view)
    rule = is_same_origin if origins is None else one_of_origins(origins)
    return _by_protocol(_upgrade_required, HandshakeCheck(Router([route]), rule, any_host=True))


def _by_protocol(http: ASGIApplication, websocket: ASGIApplication) -> ASGIApplication:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        note_serving()
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await http(scope, receive, send)

    return application


async def _upgrade_required(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to plain HTTP: 426 Upgrade Required (RFC 9110 section 15.5.22)."""
    headers = [(b"content-type", b"text/plain"), (b"upgrade", b"websocket")]
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    await send({"type": "http.response.body", "body": b"This is a WebSocket server.\n"})


async def _lifespan(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol; uvicorn logs an error for an application that does not."""
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return
