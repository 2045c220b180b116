"""Refuse a handshake (HTTP 403, or accept and a close frame), and log why."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from django.conf import settings

from .. import tracing
from ..auth.addresses import address_of, log_fields_of
from ..auth.credentials import SUBPROTOCOL
from ..chains.watchdog import filter_of_error
from ..close_codes import (
    FILTER_ERROR,
    FORBIDDEN,
    OVER_CAPACITY,
    RESTART,
    TOO_MANY,
    UNAUTHORIZED,
)
from ..conf import conf
from ..exceptions import Close, Drop, NotAllowed
from ..logs import LogThrottle, fields_of, get_logger
from ..observe import handshakes
from ..types import ASGIApplication, Scope, Send
from .client import Client
from .handshake import (
    BAD_HOST,
    BAD_ORIGIN,
    NO_ORIGIN,
    NO_RULE,
    NOT_ALLOWED,
    ODD_PATH,
    host_headers,
)
from .origins import headers

logger = get_logger(__name__)

#: What a developer can do about a refusal.
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
#: The same where a filter refuses by UNAUTHORIZED: who sent nothing is told nothing of a key.
FILTER_UNAUTHORIZED = (
    "It came without what that filter asks for: the session of a user who is logged in, or a"
    " token or ticket."
)
#: How the paths begin where clients of other packages connect, without being told.
CLIENTS = {
    "/connection/websocket": "Clients of Centrifuge need with_websockets(..., protocols=True).",
    "/app/": "Clients of Pusher need with_websockets(..., protocols=True), and an app in"
    " FILTERED_WEBSOCKET['PUSHER_APPS'].",
    "/socket.io/": "Clients of socket.io speak a protocol that is not served: use those of"
    " Pusher, Centrifuge, or WebSocket itself.",
}


#: What metrics call a refusal, by its reason and else by its close code. Never a client's text.
OUTCOMES = {
    ODD_PATH: "bad_path",
    BAD_HOST: "bad_host",
    BAD_ORIGIN: "bad_origin",
    NO_ORIGIN: "bad_origin",
    NOT_ALLOWED: "bad_origin",
    NO_RULE: "bad_origin",
}
DRAINS = "draining"
OUTCOMES_OF_CODES = {
    OVER_CAPACITY: "over_capacity",
    TOO_MANY: "too_many",
    RESTART: DRAINS,
    UNAUTHORIZED: "unauthorized",
    FORBIDDEN: "forbidden",
    FILTER_ERROR: "error",
}


def count_refusal(code: int, reason: str = "") -> None:
    """Count a handshake that is refused; by a filter, if the code is none of this package."""
    outcome = OUTCOMES.get(reason) or OUTCOMES_OF_CODES.get(code, "closed")
    handshakes[outcome] += 1


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


#: Finds the application that serves a scope, as the router does.
Find = Callable[[Scope, Any, int], tuple[ASGIApplication, int]]


def cure_of_path(scope: Scope, find: Find, routes: Iterable[str]) -> str:
    """What a developer can do about a path without a route."""
    path: str = scope["path"]
    near = path.removesuffix("/") if path.endswith("/") else f"{path}/"
    # A route of this package: a router in it may match the beginning only.
    is_near = hasattr(find({**scope, "path": near}, {}, 0)[0], "route")
    cures = [f"Did you mean {near!r:.80}?"] if is_near else []
    cures += [cure for begin, cure in CLIENTS.items() if path.startswith(begin)]
    return " ".join([*cures, f"Routes: {', '.join(routes) or 'none'}."])


def log_refusal(
    scope: Scope, reason: str, cure: str, throttle: LogThrottle, outcome: str = ""
) -> None:
    """
    One line for a handshake that is refused before there is a connection: with DEBUG a
    warning, with the cure, else at INFO and not for each of the same reason, or ``outcome``.
    Counts it.
    """
    handshakes[outcome or OUTCOMES[reason]] += 1
    tracing.active.refused(scope, RESTART if outcome == DRAINS else FORBIDDEN, reason)
    if settings.DEBUG:
        path, told = scope["path"], log_fields_of(scope)
        logger.warning("refused the WebSocket %s: %s. %s", path, reason, cure, extra=told)
    elif throttle.note(outcome or reason):
        origin = (headers(scope, b"origin") or [b"none"])[0].decode("latin-1")
        logger.info(
            "refused a handshake: %s (address %s, origin %s; %d so far)",
            reason,
            address_of(scope) or "unknown",
            origin,
            throttle.counts[outcome or reason],
            extra=log_fields_of(scope),
        )


def log_refused(connection: Client, code: int, reason: str) -> None:
    """The same for a connection, which is refused with ``code``; with whose it was. Counts it."""
    tracing.active.refused(connection.scope, code, reason)
    count_refusal(code, reason)
    if settings.DEBUG:
        is_known = reason in (*CURES, NOT_ALLOWED, BAD_HOST)
        by_filter = code == UNAUTHORIZED and f" raised Close({code}" in reason
        cure = FILTER_UNAUTHORIZED if by_filter else CURES_OF_CODES.get(code, "")
        cure = cure_of(connection.scope, reason) if is_known else cure
        path, told = connection.scope["path"], fields_of(connection)
        logger.warning("refused the WebSocket %s: %s. %s", path, reason, cure, extra=told)
    elif logger.isEnabledFor(logging.INFO):
        who, told = _who(connection), fields_of(connection)
        logger.info("refused connection %s (address %s, user %s): %s", *who, reason, extra=told)


def log_accepted(connection: Client) -> None:
    """One line for a connection that begins. Counts it."""
    handshakes["accepted"] += 1
    if logger.isEnabledFor(logging.INFO):
        who, told = _who(connection), fields_of(connection)
        logger.info("accepted connection %s (address %s, user %s)", *who, extra=told)


def _who(connection: Client) -> tuple[str, str, str]:
    user = connection.log_fields["user_id"]
    return connection.id, connection.address or "unknown", user or "none"


def refusal_by(error: Drop | Close) -> tuple[int, str, str]:
    """Code and reason of a refusal by the connect chain or a group; more words for the log."""
    path = filter_of_error(error)
    if isinstance(error, NotAllowed):
        return FORBIDDEN, error.reason, str(error.__cause__ or error)
    if isinstance(error, Drop):
        return FORBIDDEN, "refused", f"{path} raised Drop"
    words = f"{path} raised Close({error.code}, {error.reason!r})" if path else ""
    return error.code, error.reason, words


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
