"""
WebSocket routes for a site's ``asgi.py``: one line that wraps its HTTP application.

::

    application = with_websockets(get_asgi_application())

    http      -> the site's own application
    websocket -> handshake check -> session and user -> routes -> consumer
    lifespan  -> answered; nothing to start or stop
"""

import re
from collections.abc import Sequence
from typing import Any

from channels.routing import URLRouter
from django.apps import apps
from django.urls import path, re_path
from django.urls.exceptions import Resolver404

from . import tracing
from .auth.addresses import log_fields_of
from .auth.authenticators import load_authenticators
from .auth.credentials import clean_query
from .auth.sessions import session_of, session_user
from .close_codes import FILTER_ERROR
from .conf import conf
from .connections.handshake import CHECKED, LATEST_EVENT, cookies_of, refusal_reason, script_name
from .connections.origins import OriginRule, is_same_origin, one_of_origins, site_rule
from .connections.refusals import count_refusal, cure_of, cure_of_path, log_refusal, refuse
from .console.filters import console_urlpatterns
from .consumers import FilteredWebSocketConsumer
from .hub.drain import DRAINING, ending
from .hub.grants import latest_event
from .hub.registry import note_serving
from .layer.health import require_written_layer
from .logs import LogThrottle, get_logger
from .pipelines.route import Route
from .protocols.serving import find_protocol, served_protocols
from .streams.application import EVENTS_PATH, Streams
from .transports import open_transport
from .transports.listening import limit_accepts
from .types import ASGIApplication, Receive, Scope, Send

logger = get_logger(__name__)

#: Why a handshake is refused whose session or user cannot be read.
UNKNOWN_USER = "cannot find out who connects"

#: The site's pipeline, ``INSTALLED_FILTERS``, at the root. Built for the first connection,
#: not here: a mistake in settings must not prevent ``manage.py check`` from importing this.
websocket_urlpatterns: list[Any] = [
    path("", FilteredWebSocketConsumer.as_asgi(build=False)),  # type: ignore[arg-type]
]


async def _refuse_with(scope: Scope, receive: Receive, send: Send, code: int, reason: str) -> None:
    """Refuse a handshake as ``REFUSE_WITH`` says, outside of a consumer."""
    tracing.active.refused(scope, code, reason)
    await receive()
    send_close = open_transport(send, conf.MAX_OUTBOX, lambda code, reason: None).send_close
    await refuse(scope, send, send_close, code, reason)


class Router:
    """
    Routes by Django paths; a handshake for a path without a route gets HTTP 403.

    As Channels' ``URLRouter``, which may be nested in it.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        self._paths = _note_paths(routes, "/")
        # It prepares the patterns of nested routers, and refuses what it cannot route to.
        self._routes: list[Any] = URLRouter([*routes]).routes
        self._throttle = LogThrottle()

    def find(self, scope: Scope, outer: Any, first: int) -> tuple[ASGIApplication, int]:
        """
        The application of the first route, from number ``first`` on, that matches the path,
        and the number of the next one. Sets what its path contains in ``scope``; ``outer``
        is what the paths of routers around this one contained.
        """
        # As Django does for pages. URLRouter knows root_path only, and demands that the
        # path begins with it, which it does not behind a proxy that strips it.
        path: str = scope["path"].removeprefix(script_name(scope))
        routes = self._routes if path.startswith("/") or not path else []
        path = path.lstrip("/")
        for number in range(first, len(routes)):
            route = routes[number]
            if match := route.pattern.match(path):
                scope["path_remaining"], args, kwargs = match
                scope["url_route"] = {
                    "args": outer.get("args", ()) + args,
                    "kwargs": {**outer.get("kwargs", {}), **kwargs, **route.default_args},
                }
                return route.callback, number + 1
        return self._refuse, 0

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """HTTP 403, and a throttled line in the log: scanners try many paths."""
        await receive()
        reason = f"no WebSocket route for {scope['path']}"
        cure = cure_of_path(scope, self.find, [script_name(scope) + path for path in self._paths])
        log_refusal(scope, reason, cure, self._throttle, "no_route")
        await send({"type": "websocket.close"})


class Handshakes:
    """
    Checks each handshake, finds its session and its user, and has a route serve it.

    Handshakes from pages of other sites are refused, and all of them while the process
    drains, before the session is read. Everything is in one coroutine and one copy of the
    scope: both stay for as long as the connection does.
    """

    def __init__(
        self,
        router: Router,
        rule: OriginRule = site_rule,
        *,
        any_host: bool = False,
        sessions: bool = False,
        users: bool = False,
    ) -> None:
        self._router = router
        self._rule = rule
        self._any_host = any_host
        self._sessions = sessions
        self._users = users
        self._throttle = LogThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_accepts()
        inside = tracing.active.handshake({**scope, CHECKED: True, LATEST_EVENT: latest_event()})
        _hide_query(scope)
        problem = refusal_reason(inside, self._rule, any_host=self._any_host)
        if problem or ending.is_set():
            await self._refuse(inside, receive, send, problem)
            return
        if self._sessions:
            inside["cookies"] = cookies = cookies_of(inside)
            if "session" not in inside:
                inside["session"] = session_of(cookies)
            if self._users and not await self._find_user(inside):
                count_refusal(FILTER_ERROR)
                await _refuse_with(inside, receive, send, FILTER_ERROR, UNKNOWN_USER)
                return
        route = 0
        while True:
            application, route = self._router.find(inside, scope.get("url_route", {}), route)
            try:
                await application(inside, receive, send)
                return
            except Resolver404:
                pass  # a nested router has no such route

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, problem: str) -> None:
        if not problem:
            log_refusal(scope, DRAINING[1], "Connect again.", self._throttle, "draining")
            await _refuse_with(scope, receive, send, *DRAINING)
            return
        await receive()
        log_refusal(scope, problem, cure_of(scope, problem), self._throttle)
        await send({"type": "websocket.close"})

    async def _find_user(self, scope: Scope) -> bool:
        """
        Set ``scope["user"]`` to the session's user, looked up once. Returns whether it was
        possible: an error makes nobody anonymous.
        """
        try:
            scope["user"] = await tracing.active.within(scope, session_user(scope))
        except Exception as error:
            if self._throttle.note("session"):
                told = log_fields_of(scope)
                logger.error("cannot look up the session of a handshake: %r", error, extra=told)
            return False
        return True


def _hide_query(scope: Scope) -> None:
    """Remove credentials from the query of the server's own scope: uvicorn's access log has it."""
    if scope.get("query_string") and conf.AUTHENTICATORS:
        scope["query_string"] = clean_query(scope)


def _note_paths(routes: Sequence[Any], prefix: str) -> list[str]:
    """
    Note each route's paths, and return those of the site; raises ImproperlyConfigured for a
    pipeline that cannot be built.
    """
    paths = []
    for entry in routes:
        where = prefix + str(entry.pattern)
        route = getattr(entry.callback, "route", None)
        if isinstance(entry.callback, URLRouter):
            paths += _note_paths(entry.callback.routes, where)
        elif not getattr(route, "is_own", False):
            paths.append(where)
        if isinstance(route, Route):
            route.paths = [*dict.fromkeys([*route.paths, where])]
            if apps.ready:
                route.pipeline  # noqa: B018 - built, or raises
    return paths


def protocol_urlpatterns() -> list[Any]:
    """
    A route at the usual path of each protocol, for the site's pipeline, ``INSTALLED_FILTERS``.

    ImproperlyConfigured for a pipeline that cannot be built.
    """
    return [
        path(one.path, FilteredWebSocketConsumer.as_asgi(protocol=name))  # type: ignore[arg-type]
        for name in served_protocols()
        if (one := find_protocol(name)) is not None
    ]


def websocket_application(routes: Sequence[Any] | None = None) -> ASGIApplication:
    """
    ``routes`` (Django paths; by default the site's pipeline at ``/``) behind the handshake
    check, with sessions and users if the site has installed those apps.

    ImproperlyConfigured for a pipeline, an authenticator or a channel layer that cannot be made.
    """
    load_authenticators()
    require_written_layer()
    if not apps.is_installed("filtered_websocket"):
        logger.warning("'filtered_websocket' is not in INSTALLED_APPS: no checks, tokens and pages")
    sessions, auth = map(apps.is_installed, ("django.contrib.sessions", "django.contrib.auth"))
    router = Router(websocket_urlpatterns if routes is None else routes)
    return Handshakes(router, sessions=sessions, users=sessions and auth)


def with_websockets(
    http: ASGIApplication,
    routes: Sequence[Any] | None = None,
    *,
    protocols: bool = False,
    events: str = EVENTS_PATH,
) -> ASGIApplication:
    """
    A site's ASGI application: ``http`` unchanged, WebSockets, and the admin's console; with
    ``protocols`` also the usual paths of each protocol, unless a route is there, and ``events``,
    where pages listen by ``EventSource``; empty: nowhere.

    Call it after ``get_asgi_application()``. Raises as :func:`websocket_application`.
    """
    served = websocket_urlpatterns if routes is None else routes
    if protocols:
        served = [*served, *protocol_urlpatterns()]
    websocket = websocket_application([*console_urlpatterns(), *served])
    return _by_protocol(Streams(http, websocket, events) if protocols else http, websocket)


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
    return _by_protocol(_upgrade_required, Handshakes(Router([route]), rule, any_host=True))


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
