"""
Checks of a handshake that come before authentication: its origin, its host, its path.

Browsers let any page open a WebSocket to any server, with the cookies of that server; only
the Origin header tells which page it was (RFC 6455 section 10.2).
"""

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from ..auth.credentials import SUBPROTOCOL
from ..conf import conf
from ..types import Scope

DEFAULT_PORTS = {"http": 80, "https": 443}
#: The hosts that Django allows with ``DEBUG`` on and ``ALLOWED_HOSTS`` empty.
DEBUG_HOSTS = [".localhost", "127.0.0.1", "[::1]"]

#: The key of the scope that says that its handshake was already checked.
CHECKED = "filtered_websocket.checked"
#: The key of the scope that says which control event was the latest before anything was
#: read for its handshake (see ``hub.grants``); infinity where nothing has to be re-checked.
LATEST_EVENT = "filtered_websocket.latest_event"

#: Whether a page of this origin may connect.
OriginRule: TypeAlias = Callable[[Scope, SplitResult], bool]

#: Encoded characters that need no encoding (RFC 3986 section 2.3), an encoded slash, two
#: slashes (Channels' routers skip the second), and dot segments: with any of these, the
#: same path can be written in a way that the rules of a proxy in front do not match.
_ODD_PATH = re.compile(
    rb"%(?:2[DEFdef]|3\d|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])|//|/\.\.?(?:/|\Z)"
)


class Handshake:
    """
    The request for a connection, which filters of the connect chain get.

    ``headers`` has lower-case names and values as sent (Latin-1); values of a repeated
    header are joined by ``", "`` (RFC 9110 section 5.2). A filter may set ``subprotocol``
    to one of ``subprotocols``, which is then answered.
    """

    def __init__(self, scope: Scope) -> None:
        self.path: str = scope["path"]
        self.query_string: str = scope.get("query_string", b"").decode("latin-1")
        self.subprotocols: tuple[str, ...] = tuple(scope.get("subprotocols", ()))
        self.subprotocol = SUBPROTOCOL if SUBPROTOCOL in self.subprotocols else None
        self._raw_headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())

    @cached_property
    def headers(self) -> dict[str, str]:
        # Only on demand: every connection has a handshake, and few filters read headers.
        headers: dict[str, str] = {}
        for raw_name, raw_value in self._raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            known = headers.get(name)
            headers[name] = value if known is None else f"{known}, {value}"
        return headers


def headers(scope: Scope, name: bytes) -> list[bytes]:
    """The values of every header with this (lower-case) name."""
    return [value for header, value in scope["headers"] if header == name]


def parse_origin(scope: Scope) -> SplitResult | None:
    """
    The Origin header of a handshake (RFC 6455 section 4.1); ValueError if it is malformed.

    None without such a header: then no browser sent it, and no page can abuse the cookies
    of a user.
    """
    origins = headers(scope, b"origin")
    if not origins:
        return None
    if len(origins) > 1:
        raise ValueError("more than one Origin header")
    origin = _split_origin(origins[0].decode("ascii"))
    if origin.path:
        raise ValueError("not the origin of a page")
    return origin


def _split_origin(text: str) -> SplitResult:
    """Scheme, host and port; ValueError for anything else."""
    origin: SplitResult = urlsplit(text)
    if (
        origin.scheme not in DEFAULT_PORTS
        or not origin.hostname
        or origin.username is not None
        or not text.isprintable()  # urlsplit ignores tabs and line breaks
        or any(one in text for one in " ?#")
    ):
        raise ValueError("not the origin of a page")
    _ = origin.port  # raises ValueError if it is not a port number
    return origin


def allowed_hosts() -> list[str]:
    """``ALLOWED_HOSTS`` as Django applies it to HTTP requests."""
    hosts: list[str] = settings.ALLOWED_HOSTS
    return DEBUG_HOSTS if settings.DEBUG and not hosts else hosts


def is_allowed_host(scope: Scope, origin: SplitResult) -> bool:
    """Whether a page's host is one of ALLOWED_HOSTS."""
    host = str(origin.hostname)
    return validate_host(f"[{host}]" if ":" in host else host, allowed_hosts())


def is_same_origin(scope: Scope, origin: SplitResult) -> bool:
    """Whether the page's host and port are those of the Host header."""
    host = urlsplit("//" + dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
    default = DEFAULT_PORTS[origin.scheme]
    return (origin.hostname, origin.port or default) == (host.hostname, host.port or default)


def normal_origin(text: str) -> tuple[str, str, int]:
    """Scheme, host and port of an origin (RFC 6454 section 4); ValueError if it is not one."""
    try:
        origin = _split_origin(text)
        host = str(origin.hostname)
        rest = host.removeprefix("*.")
        if origin.path.strip("/") or "*" in rest or not rest:
            raise ValueError("it has a path, or a '*' that is not the first label of the host")
    except ValueError as error:
        raise ValueError(f"{text!r:.80} is no origin: write it as https://example.com") from error
    return origin.scheme, host, origin.port or DEFAULT_PORTS[origin.scheme]


def one_of_origins(origins: Iterable[str]) -> OriginRule:
    """
    A rule that allows only these origins: ``https://example.com:8443``,
    ``https://*.example.com`` (its subdomains, not itself), or ``*`` (any origin).

    ValueError for an entry that is not an origin.
    """
    listed = list(origins)
    wanted = {normal_origin(origin) for origin in listed if origin != "*"}
    wild = [
        (scheme, host.removeprefix("*"), port)
        for scheme, host, port in wanted
        if host.startswith("*.")
    ]

    def is_listed(scope: Scope, origin: SplitResult) -> bool:
        default = DEFAULT_PORTS[origin.scheme]
        scheme, host, port = origin.scheme, str(origin.hostname), origin.port or default
        return (
            "*" in listed
            or (scheme, host, port) in wanted
            or any((scheme, port) == (s, p) and host.endswith(end) for s, end, p in wild)
        )

    return is_listed


def site_rule(scope: Scope, origin: SplitResult) -> bool:
    """The rule of a Django site: ``ALLOWED_ORIGINS`` if it is set, else ``ALLOWED_HOSTS``."""
    origins = conf.ALLOWED_ORIGINS
    rule = is_allowed_host if origins is None else one_of_origins(origins)
    return rule(scope, origin)


def is_host_allowed(scope: Scope) -> bool:
    """
    Whether the Host header, if there is one, is in ``ALLOWED_HOSTS``. Without this check a
    name that an attacker points to this server (DNS rebinding) would make the browser
    treat the attacker's page and this server as the same origin.
    """
    found = headers(scope, b"host")
    if settings.USE_X_FORWARDED_HOST:
        found = headers(scope, b"x-forwarded-host") or found
    hosts = allowed_hosts()
    return all(
        bool(domain := split_domain_port(value.decode("latin-1"))[0])
        and validate_host(domain, hosts)
        for value in found
    )


def is_plain_path(scope: Scope) -> bool:
    """Whether the path is written in the one normal way, which rules of a proxy match."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"]
    if raw is None:
        raw = path.encode("utf-8", "surrogatepass")
    elif unquote(raw.decode("latin-1")) != path:
        return False
    return not _ODD_PATH.search(raw)


def refusal_reason(scope: Scope, rule: OriginRule, *, any_host: bool) -> str:
    """Why a handshake is refused before authentication, for the log; empty if it is not."""
    if not is_plain_path(scope):
        return "the path has an unusual encoding"
    if not any_host and not is_host_allowed(scope):
        return "the host is not in ALLOWED_HOSTS"
    try:
        origin = parse_origin(scope)
    except ValueError:
        return "the Origin header is malformed"
    if origin is None:
        return "" if conf.ALLOW_NO_ORIGIN else "no Origin header, and ALLOW_NO_ORIGIN is False"
    # The scheme is compared only with ALLOWED_ORIGINS: a server behind a proxy may not know
    # whether it is reached by https.
    try:
        return "" if rule(scope, origin) else "the origin is not allowed"
    except ValueError:
        return "the Origin header is malformed"


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
