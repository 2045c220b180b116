"""
The request for a connection, which is read as Django reads an HTTP request; and the checks
of its origin, host and path, which come before authentication.
"""

import re
from functools import cached_property, lru_cache
from io import BytesIO
from typing import Any
from urllib.parse import unquote

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, parse_cookie

from ..auth.credentials import SUBPROTOCOL
from ..conf import conf
from ..types import Scope
from .origins import OriginRule, headers, parse_origin, site_rule

#: The key of the scope that says that its handshake was already checked.
CHECKED = "filtered_websocket.checked"
#: The key of the scope that says which control event was the latest before anything was
#: read for its handshake (see ``hub.grants``); infinity where nothing has to be re-checked.
LATEST_EVENT = "filtered_websocket.latest_event"

# Why a handshake is refused before authentication.
ODD_PATH = "the path has an unusual encoding"
BAD_HOST = "the host is not in ALLOWED_HOSTS"
BAD_ORIGIN = "the Origin header is malformed"
NO_ORIGIN = "no Origin header, and ALLOW_NO_ORIGIN is False"
NOT_ALLOWED = "the origin is not allowed"
NO_RULE = "the origin cannot be compared"
#: Encoded characters that need no encoding (RFC 3986 section 2.3), an encoded slash, two
#: slashes (Channels' routers skip the second), and dot segments: with any of these, the
#: same path can be written in a way that the rules of a proxy in front do not match.
_ODD_PATH = re.compile(
    rb"%(?:2[DEFdef]|3\d|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])|//|/\.\.?(?:/|\Z)"
)
#: Headers that host and origin are read from; old releases of Django know the third name.
_ABOUT_ORIGIN = frozenset({b"host", b"x-forwarded-host", b"x_forwarded_host", b"origin"})
#: A list of another class may change from one handshake to the next.
_LISTS = (list, tuple)
#: How many answers about host and origin are remembered, and the most bytes of the headers of
#: one: whoever invents headers cannot fill the memory.
REMEMBERED, LONGEST_REMEMBERED = 512, 512


class Handshake:
    """
    The request for a connection, which filters of the connect chain get.

    ``headers``, ``cookies``, ``host`` and ``is_secure`` are read as Django reads those of an
    HTTP request. A filter may set ``subprotocol`` to one of ``subprotocols``, which is then
    answered.
    """

    def __init__(self, scope: Scope) -> None:
        self.path: str = scope["path"]
        self.query_string: str = scope.get("query_string", b"").decode("latin-1")
        self.subprotocols: tuple[str, ...] = tuple(scope.get("subprotocols", ()))
        self.subprotocol = SUBPROTOCOL if SUBPROTOCOL in self.subprotocols else None
        self._scope = scope

    @cached_property
    def _request(self) -> HttpRequest:
        # Only on demand: every connection has a handshake, and few filters read headers.
        return as_http(self._scope)

    @cached_property
    def headers(self) -> dict[str, str]:
        """Lower-case names, and values in Latin-1."""
        return {name.lower(): value for name, value in self._request.headers.items()}

    @property
    def cookies(self) -> dict[str, str]:
        """Name -> value."""
        return self._request.COOKIES

    @property
    def host(self) -> str:
        """The host, and the port if it is not the usual one; empty if it is not allowed."""
        return host_of(self._request)

    @property
    def is_secure(self) -> bool:
        """Whether the client uses TLS, as far as ``SECURE_PROXY_SSL_HEADER`` can tell."""
        return self._request.is_secure()


def as_http(scope: Scope) -> HttpRequest:
    """A handshake as Django sees an HTTP request with the same headers."""
    kept = ("server", "client")
    return ASGIRequest(
        {
            **{key: scope[key] for key in kept if key in scope},
            "method": "GET",
            "path": "/",
            "scheme": "https" if scope.get("scheme") == "wss" else "http",
            # A charset in it is about a body, which there is not.
            "headers": [pair for pair in scope.get("headers", ()) if pair[0] != b"content-type"],
        },
        BytesIO(),
    )


def host_of(request: HttpRequest) -> str:
    """The host of a request, empty if it is not in ``ALLOWED_HOSTS``."""
    try:
        return request.get_host()
    except DisallowedHost:
        return ""


def cookies_of(scope: Scope) -> dict[str, str]:
    """
    The cookies that Django would read; Channels' own middleware ignores a second Cookie
    header.
    """
    found = headers(scope, b"cookie")
    if not found:
        return {}
    if len(found) == 1:
        return parse_cookie(found[0].decode("latin-1"))
    # Django's releases differ in what they put between two.
    return as_http({"headers": [(b"cookie", value) for value in found]}).COOKIES


def is_host_allowed(scope: Scope) -> bool:
    """
    Whether the Host header, if there is one, is in ``ALLOWED_HOSTS``. Without this check a
    name that an attacker points to this server (DNS rebinding) would make the browser
    treat the attacker's page and this server as the same origin.
    """
    return not host_headers(scope) or bool(host_of(as_http(scope)))


def host_headers(scope: Scope) -> list[bytes]:
    """The headers that name the host, as Django chooses them."""
    found = headers(scope, b"host")
    if settings.USE_X_FORWARDED_HOST:
        found = headers(scope, b"x-forwarded-host") or found
    return found


def root_path(scope: Scope) -> str:
    """Where the server says that the application is mounted."""
    return scope.get("root_path") or ""


def script_name(scope: Scope) -> str:
    """Where Django assumes that the site is mounted; what is left of a path has a route."""
    return settings.FORCE_SCRIPT_NAME or root_path(scope)


def is_plain_path(scope: Scope) -> bool:
    """Whether the path is written in the one normal way, which rules of a proxy match."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"]
    if raw is None:
        raw = path.encode("utf-8", "surrogatepass")
    elif path not in (written := unquote(raw.decode("latin-1")), root_path(scope) + written):
        return False
    return not _ODD_PATH.search(raw)


def refusal_reason(scope: Scope, rule: OriginRule, *, any_host: bool) -> str:
    """
    Why a handshake is refused before authentication, for the log; empty if it is not.

    What the headers about host and origin mean is remembered: almost all handshakes of a
    site have the same ones.
    """
    if not is_plain_path(scope):
        return ODD_PATH
    asked = tuple([(name, value) for name, value in scope["headers"] if name in _ABOUT_ORIGIN])
    hosts, origins = settings.ALLOWED_HOSTS, conf.ALLOWED_ORIGINS
    if sum([len(value) for _, value in asked]) > LONGEST_REMEMBERED or type(hosts) not in _LISTS:
        return _reason(asked, rule, any_host)
    # Whatever the answer depends on; lists may be changed in place.
    return _remembered_reason(
        asked,
        rule,
        any_host,
        tuple(hosts),
        origins if origins is None else tuple(origins),
        conf.ALLOW_NO_ORIGIN,
        settings.DEBUG,
        settings.USE_X_FORWARDED_HOST,
    )


def _reason(asked: tuple[tuple[bytes, bytes], ...], rule: OriginRule, any_host: bool) -> str:
    scope = {"headers": asked}
    if not any_host and not is_host_allowed(scope):
        return BAD_HOST
    try:
        origin = parse_origin(scope)
    except ValueError:
        return BAD_ORIGIN
    if origin is None:
        return "" if conf.ALLOW_NO_ORIGIN else NO_ORIGIN
    # The scheme is compared only with ALLOWED_ORIGINS: a server behind a proxy may not know
    # whether it is reached by https.
    try:
        return "" if rule(scope, origin) else NOT_ALLOWED
    except ValueError:
        # A mistake in ALLOWED_ORIGINS, or a Host header that is none.
        return NO_RULE


@lru_cache(REMEMBERED)
def _remembered_reason(
    asked: tuple[tuple[bytes, bytes], ...], rule: OriginRule, any_host: bool, *settings: Any
) -> str:
    return _reason(asked, rule, any_host)


def check_once(scope: Scope) -> str:
    """:func:`refusal_reason` for a site, unless its routing has checked this handshake."""
    return "" if CHECKED in scope else refusal_reason(scope, site_rule, any_host=False)


def event_before(scope: Scope, now: int) -> float:
    """
    Number of the latest control event before anything was read for this handshake; ``now``
    is that of this moment, before authentication.
    """
    user = scope.get("user")
    # What a middleware of the site's own has read, it may have read at any time.
    is_unknown = user is not None and user.is_authenticated
    since: float = scope.get(LATEST_EVENT, -1 if is_unknown else now)
    return since
