"""
JSON Web Tokens of the Centrifuge client protocol: who connects, and what may be subscribed.

They are checked without a database. The algorithm is that of the settings, never the header's.
"""

import base64
import binascii
import inspect
import math
import time
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from ..auth.authenticators import AUTH_TIMEOUT
from ..close_codes import UNAUTHORIZED
from ..codecs.data import Data, from_bytes
from ..codecs.frames import dump_json
from ..conf import SettingError, conf, import_object
from ..hub.grants import latest_event
from ..threads.database import run_query, within
from ..types import Identity, TokenUser
from .codes import ReplyError
from .connection import ClientConnection

#: The longest time that clients are told, seconds: it is a number of 32 bits to some of them.
MAX_TTL = 2**31 - 1
#: How long after its end a token may be renewed, seconds.
GRACE = 25.0


class InvalidToken(Exception):
    """Not a token of this site, or not for this purpose."""


class Claims(NamedTuple):
    """What a token says."""

    user: str
    channel: str
    #: When it expires, in seconds since 1970; None: never.
    expires: float | None
    #: Shown to others.
    info: Data | None
    #: Server-side subscriptions.
    channels: tuple[str, ...]

    def left(self, now: float) -> int:
        """How long it is valid still, in whole seconds, at least 1."""
        expires = math.inf if self.expires is None else self.expires
        return int(max(1, min(expires - now, MAX_TTL)))


def read_token(text: str) -> Claims:
    """
    What a token says. :exc:`InvalidToken` for one that is not this site's, or where no
    ``JWT_KEY`` is set; :exc:`.ReplyError` 109 for one that has expired.
    """
    if conf.JWT_KEY is None or not has_jwt():
        raise InvalidToken
    jwt = import_module("jwt")
    try:
        claims = jwt.decode(text, conf.JWT_KEY, algorithms=[conf.JWT_ALGORITHM])
    except jwt.ExpiredSignatureError as error:
        raise ReplyError(109) from error
    except jwt.PyJWTError as error:
        raise InvalidToken from error
    return _claims(claims)


def connection_claims(text: str) -> Claims:
    """:func:`read_token` of a connection. One for a channel says no more than who may join that."""
    claims = read_token(text)
    if claims.channel:
        raise InvalidToken
    return claims


def claims_of(request: dict[str, Any], user: str) -> Claims | None:
    """
    What the token of a subscription says, which is then the permission. Error 103 for one that
    is not for this channel and this user.
    """
    token = request.get("token")
    if not token:
        return None
    try:
        claims = read_token(token)
    except InvalidToken:
        raise ReplyError(103) from None
    if claims.channel != request["channel"] or claims.user not in ("", user):
        raise ReplyError(103)
    return claims


def expiry_fields(claims: Claims | None) -> dict[str, Any]:
    """What tells a client when to renew its token; empty for one that does not expire."""
    if claims is None or claims.expires is None:
        return {}
    return {"expires": True, "ttl": claims.left(time.time())}


def has_jwt() -> bool:
    """Whether PyJWT is installed: the extra ``[jwt]``."""
    return find_spec("jwt") is not None


def _claims(claims: dict[str, Any]) -> Claims:
    channels = claims.get("channels") or []
    subs = claims.get("subs") or {}
    user, channel = claims.get("sub") or "", claims.get("channel") or ""
    is_good = isinstance(user, str) and isinstance(channel, str) and isinstance(subs, dict)
    if not (
        is_good and isinstance(channels, list) and all(isinstance(one, str) for one in channels)
    ):
        raise InvalidToken
    return Claims(user, channel, claims.get("exp"), _info(claims), (*channels, *subs))


def _info(claims: dict[str, Any]) -> Data | None:
    if "b64info" in claims:
        try:
            return from_bytes(base64.b64decode(claims["b64info"], validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise InvalidToken from error
    return Data(dump_json(claims["info"]).encode()) if "info" in claims else None


# Users


def load_users() -> Any:
    """What ``JWT_USER`` names, or None. :exc:`.SettingError` if it is unusable."""
    chosen = conf.JWT_USER
    found = _import(chosen) if isinstance(chosen, str) else chosen
    if not (found is None or callable(found)):
        raise SettingError(
            f"FILTERED_WEBSOCKET['JWT_USER'] names {chosen!r}, which is {found!r:.80}.",
            "Name a function that takes the text of the claim 'sub'.",
        )
    return found


@cache
def _import(path: str) -> Any:
    return import_object(path)


async def identify(
    connection: ClientConnection, host: Any, claims: Claims
) -> tuple[int, str] | None:
    """
    Have ``connection`` be that of the user whom a token names, if it names one; a refusal, or
    None. Raises what ``JWT_USER`` and ``TENANT`` raise, and TimeoutError.
    """
    connection.token_info = claims.info
    if not claims.user or claims.user == connection.user_id:
        return None
    # Taken before the database is asked: what happens meanwhile is asked again.
    since: float = latest_event()
    find, user = load_users(), None
    if find is None:
        since = math.inf
        user = TokenUser(claims.user, None if claims.info is None else claims.info.value)
    else:
        user = await within(AUTH_TIMEOUT, _find(find, claims.user))
        if user is None or not user.is_active:
            return UNAUTHORIZED, "invalid token"
    # A token of the handshake may allow less: that stays so.
    connection.identify(Identity(user=user, token=connection.token))
    host.grants.add(connection, Identity(user=user), since, "protocol")
    refusal: tuple[int, str] | None = host.limits.identified(connection)
    return refusal


async def _find(find: Any, user: str) -> Any:
    """Asked in a thread for queries, unless it is ``async def``."""
    found = find(user) if inspect.iscoroutinefunction(find) else run_query(find, user)
    return await found
