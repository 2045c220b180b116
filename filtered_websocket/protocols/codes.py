"""
Codes of the Centrifuge client protocol: errors, disconnects, unsubscribes. And what the log says
of mistakes of a site that its clients meet without being told.
"""

import re
from typing import Any

from .. import close_codes
from ..conf import conf
from ..exceptions import Close, Drop, FilterError, InvalidData, NotAllowed, PublishError
from ..filters.rate_limit import TooMany
from ..layer.health import LOST
from ..logs import LogThrottle, fields_of, get_logger

logger = get_logger(__name__)
_throttle = LogThrottle()

#: Our close codes -> code and reason of this protocol. Any other goes as it is.
CLOSE_CODES = {
    close_codes.SLOW_READER: (3008, "slow"),
    close_codes.TOO_MANY: (3013, "too many requests"),
    close_codes.NO_PONG: (3012, "no pong"),
    close_codes.RESTART: (3001, "shutdown"),
    close_codes.RESYNC: (3010, "insufficient state"),
    close_codes.BAD_MESSAGE: (3501, "bad request"),
    close_codes.TOO_LARGE: (3501, "bad request"),
    close_codes.UNAUTHORIZED: (3500, "invalid token"),
    close_codes.FORBIDDEN: (3507, "permission denied"),
    close_codes.FILTER_ERROR: (3004, "internal server error"),
}

# Disconnects: the client comes back after those below 3500.
EXPIRED = (3005, "expired")
NO_PONG = (3012, "no pong")
INVALID_TOKEN = (3500, "invalid token")
BAD_REQUEST = (3501, "bad request")
STALE = (3502, "stale")
INAPPROPRIATE = (3506, "inappropriate protocol")

# Unsubscribes: the client subscribes again by itself from 2500 on.
UNSUBSCRIBED = (2000, "server unsubscribe")
INSUFFICIENT_STATE = (2500, "insufficient state")
SUBSCRIPTION_EXPIRED = (2501, "expired")

#: Errors of a reply.
ERRORS = {
    100: "internal server error",
    101: "unauthorized",
    102: "unknown channel",
    103: "permission denied",
    104: "method not found",
    105: "already subscribed",
    106: "limit exceeded",
    107: "bad request",
    108: "not available",
    109: "token expired",
    110: "expired",
    111: "too many requests",
    112: "unrecoverable position",
}
#: Those after which the client tries again.
TEMPORARY = {100, 111}


class ReplyError(Exception):
    """A request is answered with this error."""

    def __init__(self, code: int, why: str = "") -> None:
        super().__init__(f"{ERRORS[code]}: {why}" if why else ERRORS[code])
        self.code = code

    @property
    def fields(self) -> dict[str, object]:
        """As the wire has it."""
        fields: dict[str, object] = {"code": self.code, "message": str(self)}
        return {**fields, "temporary": True} if self.code in TEMPORARY else fields


class BadRequest(Exception):
    """The connection is closed with 3501: the client does not speak this protocol."""


def code_of(error: BaseException, connection: Any, pipeline: Any) -> int:
    """
    The code that answers ``error``, which is logged if it is a fault; 0: none, the connection
    closes.
    """
    if isinstance(error, ReplyError):
        return error.code
    if isinstance(error, Close):
        connection.close(error.code, error.reason)
        return 0
    if isinstance(error, InvalidData):
        return 107
    if isinstance(error, Drop):
        if isinstance(error, NotAllowed):
            connection.not_allowed(error)
        return 111 if isinstance(error, TooMany) else 103
    if isinstance(error, (PublishError, *LOST)):
        return 100
    pipeline.failed(error, connection, "a group rule")
    if isinstance(error, FilterError) and conf.ON_ERROR == "close":
        connection.close(close_codes.FILTER_ERROR, "a filter failed")
    return 100


def translate(code: int, reason: str) -> tuple[int, str]:
    """A close code of ours as this protocol says it; our reason, where there is one."""
    theirs, word = CLOSE_CODES.get(code, (code, reason))
    return theirs, reason or word


#: How the first frame of a client begins that speaks JSON.
_CONNECT = re.compile(rb'\{ ?("id": ?\d{1,10}, ?)?"connect": ?\{')
#: What clients offer that speak Protobuf.
PROTOBUF = "centrifuge-protobuf"


def is_connect(payload: bytes, offered: Any) -> bool:
    """Whether the first frame of a plain connection is that of a Centrifuge client."""
    is_json = _CONNECT.match(payload) is not None and b'"id"' in payload
    return is_json or PROTOBUF in offered


def log_plain_route(connection: Any) -> None:
    """A Centrifuge client has come to a plain route, and waits for an answer."""
    if _throttle.note("plain"):
        logger.warning(
            "connection %s speaks the Centrifuge protocol to %s, which is a plain route: have its"
            " client connect to /connection/websocket of with_websockets(..., protocols=True), or"
            " give the route protocol='centrifuge' (%d so far)",
            connection.id,
            connection.scope["path"],
            _throttle.counts["plain"],
            extra=fields_of(connection),
        )


def log_undeclared(connection: Any, group: str, rules: Any) -> None:
    """A client has asked for a channel that no group rule declares."""
    if _throttle.note("undeclared"):
        logger.warning(
            "connection %s asked for the channel %r, which no group rule declares: add one to %s"
            " (%d so far)",
            connection.id,
            group,
            "FILTERED_WEBSOCKET['GROUPS']" if rules is None else rules.source,
            _throttle.counts["undeclared"],
            extra=fields_of(connection),
        )
