"""
Checks of a handshake that come before authentication (its origin, its host, its path), and
its refusal: HTTP 403, or accept and a close frame.

The origin and the host are those that ``origins`` allows.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from urllib.parse import unquote

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from ..auth.credentials import SUBPROTOCOL
from ..conf import conf
from ..types import Scope, Send
from .origins import OriginRule, allowed_hosts, headers, parse_origin

#: The key of the scope that says that its handshake was already checked.
CHECKED = "filtered_websocket.checked"
#: The key of the scope that says which control event was the latest before anything was
#: read for its handshake (see ``hub.grants``); infinity where nothing has to be re-checked.
LATEST_EVENT = "filtered_websocket.latest_event"

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


async def refuse(
    scope: Scope,
    send: Send,
    send_close: Callable[[int, str], Awaitable[None]],
    code: int,
    reason: str,
) -> None:
    """
    Refuse a handshake as ``REFUSE_WITH`` says. Servers answer HTTP 403 to a close before
    accept; ``send_close`` sends a close frame after it.
    """
    if conf.REFUSE_WITH == "close":
        # A browser that offered subprotocols fails the handshake if none is answered.
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        await send_close(code, reason)
    else:
        await send({"type": "websocket.close", "code": code, "reason": reason})
