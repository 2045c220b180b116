"""Codes of the Pusher protocol: close codes and errors; and who is refused with which."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from .. import close_codes
from ..conf import conf
from ..connections.handshake import Handshake
from ..connections.origins import one_of_origins, parse_origin
from ..exceptions import Close, Drop, FilterError, InvalidData, NotAllowed, PublishError
from ..filters.rate_limit import TooMany
from ..layer.health import LOST
from ..types import Scope
from .apps import App, find_app, known_apps

Code = tuple[int, str]
#: The versions of the protocol that are served.
VERSIONS = range(5, 8)

# After these a client stays away.
TLS_ONLY = (4000, "connect by TLS: wss")
NO_APP = (4001, "no app has this key")
DISABLED = (4003, "the app is disabled")
OVER_QUOTA = (4004, "the app has all the connections that it may have")
NO_PATH = (4005, "the path is /app/KEY")
BAD_VERSION = (4006, "the version of the protocol is a number")
UNSUPPORTED = (4007, "the versions of the protocol are 5, 6 and 7")
NO_VERSION = (4008, "no version of the protocol")
UNAUTHORIZED = (4009, "not authorized")
# After these it comes back.
GENERIC = (4200, "connect again")
NEW_SECRET = (4200, "the app has a new secret: connect again")
NO_PONG = (4201, "no pong")
# An error only.
REFUSED = 4301

#: Our close codes -> those of this protocol. Any other goes as it is.
CLOSE_CODES = {
    close_codes.SLOW_READER: 4200,
    close_codes.TOO_MANY: 4200,
    close_codes.RESYNC: 4200,
    close_codes.SESSION_RENEWED: 4200,
    close_codes.BAD_MESSAGE: 4200,
    close_codes.UNAUTHORIZED: 4009,
    close_codes.FORBIDDEN: 4009,
    close_codes.TOO_LARGE: 4200,
    close_codes.FILTER_ERROR: 4200,
}


def translate(code: int, reason: str) -> Code:
    """A close code of ours as this protocol says it."""
    return CLOSE_CODES.get(code, code), reason


class Refused(Exception):
    """A subscription is refused: what its client is told, beside the channel."""

    def __init__(self, kind: str, status: int, error: str) -> None:
        super().__init__(error)
        self.kind = kind
        self.status = status

    @property
    def fields(self) -> dict[str, Any]:
        """As the wire has it."""
        return {"type": self.kind, "error": str(self), "status": self.status}


def unauthorized(error: str) -> Refused:
    """Without a signature, or where the site does not allow it."""
    return Refused("AuthError", 401, error)


def refusal_of(error: BaseException, connection: Any, pipeline: Any) -> Refused:
    """What a client is told of an error, which is logged if it is a fault. It may close."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Close):
        connection.close(error.code, error.reason)
        return unauthorized("closed")
    if isinstance(error, TooMany):
        return Refused("LimitReached", 429, "too many messages")
    if isinstance(error, InvalidData):
        return Refused("BadRequest", 400, f"bad request: {error}")
    if isinstance(error, NotAllowed):
        connection.not_allowed(error)
        return unauthorized("not allowed")
    if isinstance(error, Drop):
        return unauthorized("not allowed")
    if isinstance(error, (PublishError, *LOST)):
        return Refused("ServerError", 503, "not available")
    pipeline.failed(error, connection, "a group rule")
    if isinstance(error, FilterError) and conf.ON_ERROR == "close":
        connection.close(close_codes.FILTER_ERROR, "a filter failed")
    return Refused("ServerError", 500, "internal server error")


# Who connects


async def app_of(scope: Scope, hub: Any, pushes: Any) -> App | Code:
    """
    The app whose key a handshake has, or why it is refused. ``pushes`` knows how many
    connections each app has, and is told when one changes.
    """
    key = scope.get("url_route", {}).get("kwargs", {}).get("key", "")
    if not key or "/" in key:
        return NO_PATH
    app = await find_app(hub, key)
    if app is None:
        return NO_APP
    if app.row is not None:
        known_apps(hub).observers.add(pushes)
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return (
        _version_refusal(query.get("protocol", [""])[0]) or _refusal(app, scope, pushes.apps) or app
    )


def renewed(old: App, new: App | None) -> App | Code:
    """An app of the admin that has changed, or why its connections are closed."""
    if new is None:
        return NO_APP
    if not new.enabled:
        return DISABLED
    return new if new.secret == old.secret else NEW_SECRET


def _version_refusal(version: str) -> Code | None:
    if not version:
        return NO_VERSION
    if not (version.isascii() and version.isdigit()):
        return BAD_VERSION
    return None if int(version[:9]) in VERSIONS else UNSUPPORTED


def _refusal(app: App, scope: Scope, counts: Mapping[str, int]) -> Code | None:
    if not app.enabled:
        return DISABLED
    if app.tls_only and not Handshake(scope).is_secure:
        return TLS_ONLY
    if app.allowed_origins is not None:
        origin = parse_origin(scope)
        # Programs send none: whether that is enough, the site's own rule says.
        if origin is not None and not one_of_origins(app.allowed_origins)(scope, origin):
            return UNAUTHORIZED
    if app.max_connections is not None and counts[app.key] >= app.max_connections:
        return OVER_QUOTA
    return None
