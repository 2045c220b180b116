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

from ..auth.addresses import address_of
from ..auth.credentials import SUBPROTOCOL
from ..close_codes import FILTER_ERROR, OVER_CAPACITY, TOO_MANY, UNAUTHORIZED
from ..conf import conf
from ..logs import LogThrottle, get_logger
from ..types import Scope, Send
from .client import Client
from .origins import OriginRule, allowed_hosts, headers, parse_origin, site_rule

logger = get_logger(__name__)

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
CURES = {
    ODD_PATH: "Connect without encoded letters, '//' and '..' in the path.",
    BAD_ORIGIN: "Send one, like https://example.com, or none.",
    NO_ORIGIN: "To let programs connect, remove FILTERED_WEBSOCKET['ALLOW_NO_ORIGIN'].",
    NO_RULE: "ALLOWED_ORIGINS has a mistake: run manage.py check. Or the Host header has one.",
}
#: The same for refusals by a close code.
CURES_OF_CODES = {
    OVER_CAPACITY: "FILTERED_WEBSOCKET['MAX_CONNECTIONS'] limits this process.",
    TOO_MANY: "MAX_CONNECTIONS_PER_ADDRESS and MAX_CONNECTIONS_PER_USER of FILTERED_WEBSOCKET"
    " limit this.",
    UNAUTHORIZED: "The key, ticket or session that it sent is unknown, expired or revoked, or its"
    " user is not active.",
    FILTER_ERROR: "The error before this line is the cause.",
}

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
    hosts = allowed_hosts()
    return all(
        bool(domain := split_domain_port(value.decode("latin-1"))[0])
        and validate_host(domain, hosts)
        for value in host_headers(scope)
    )


def host_headers(scope: Scope) -> list[bytes]:
    """The headers that name the host, as Django chooses them."""
    found = headers(scope, b"host")
    if settings.USE_X_FORWARDED_HOST:
        found = headers(scope, b"x-forwarded-host") or found
    return found


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
        return ODD_PATH
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


def check_once(scope: Scope) -> str:
    """:func:`refusal_reason` for a site, unless its routing has checked this handshake."""
    return "" if CHECKED in scope else refusal_reason(scope, site_rule, any_host=False)


def cure_of(scope: Scope, reason: str) -> str:
    """What a developer can do about a refusal by :func:`refusal_reason`."""
    origin = ", ".join(value.decode("latin-1") for value in headers(scope, b"origin"))
    if reason == NOT_ALLOWED and conf.ALLOWED_ORIGINS is None:
        return (
            f"To allow {origin!r:.80}, add its host to ALLOWED_HOSTS, or list the origins that may"
            " connect in FILTERED_WEBSOCKET['ALLOWED_ORIGINS']."
        )
    if reason == NOT_ALLOWED:
        return f"To allow it, add {origin!r:.80} to FILTERED_WEBSOCKET['ALLOWED_ORIGINS']."
    if reason == BAD_HOST:
        hosts = ", ".join(value.decode("latin-1") for value in host_headers(scope))
        return f"To allow it, add the host of {hosts!r:.80} to ALLOWED_HOSTS."
    return CURES[reason]


def log_refusal(
    scope: Scope, reason: str, cure: str, throttle: LogThrottle, subject: str = ""
) -> None:
    """
    One line for a handshake that is refused before there is a connection: with DEBUG a
    warning, with the cure, else at INFO and not for each of the same ``subject``.
    """
    if settings.DEBUG:
        logger.warning("refused the WebSocket %s: %s. %s", scope["path"], reason, cure)
    elif throttle.note(subject or reason):
        origin = (headers(scope, b"origin") or [b"none"])[0].decode("latin-1")
        logger.info(
            "refused a handshake: %s (address %s, origin %s; %d so far)",
            reason,
            address_of(scope) or "unknown",
            origin,
            throttle.counts[subject or reason],
        )


def log_refused(connection: Client, code: int, reason: str) -> None:
    """The same for a connection, which is refused with ``code``; with whose it was."""
    if settings.DEBUG:
        is_known = reason in (*CURES, NOT_ALLOWED, BAD_HOST)
        cure = cure_of(connection.scope, reason) if is_known else CURES_OF_CODES.get(code, "")
        path = connection.scope["path"]
        logger.warning("refused the WebSocket %s: %s. %s", path, reason, cure)
    else:
        logger.info(
            "refused connection %s (address %s, user %s): %s",
            connection.id,
            connection.address or "unknown",
            connection.user_id or "none",
            reason,
        )


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
