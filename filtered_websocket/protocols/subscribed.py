"""What a session keeps of one subscription, and the fields of its commands and tokens."""

import asyncio
import time
from typing import Any

from ..exceptions import Close
from ..history.base import Position, check_position
from . import codes
from .codes import BadRequest, ReplyError
from .tokens import Claims, InvalidToken, read_token

#: In ``flag`` of a subscribe command: it takes a number that stands for the channel.
COMPACT = 1
#: In the same: it takes no subscription that has lost something.
REJECT = 2
#: How long after its end a token may be renewed, seconds.
GRACE = 25.0
#: Told to the client.
VERSION = "filtered_websocket"
#: Higher than any offset, and Redis can still count on from it.
MAX_OFFSET = 2**53 - 1


class Subscribed:
    """One subscription."""

    __slots__ = ("expiry", "is_compact", "is_lost", "is_own", "since", "stands")

    def __init__(self, is_compact: bool = False, is_own: bool = False) -> None:
        self.is_compact = is_compact
        #: Whether the client has asked for it, not the server.
        self.is_own = is_own
        #: The position that the client comes back with.
        self.since: Position | None = None
        #: Whether something was lost before the client was told of it.
        self.is_lost = False
        #: Whether the client was told of it.
        self.stands = False
        #: Ends it where its token is not renewed.
        self.expiry: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """It does not expire any more."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None


def since_of(request: dict[str, Any]) -> Position | None:
    """The position that a client comes back with."""
    return position_of(request) if request.get("recover") else None


def position_of(fields: dict[str, Any]) -> Position:
    """A position as clients send it: of a history, or of a recovery."""
    return check_position((fields.get("epoch", ""), min(fields.get("offset", 0), MAX_OFFSET)))


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


class Expiry:
    """When the token of a connection ends, and its connection ``GRACE`` seconds later."""

    def __init__(self, session: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        #: When it ends; None: never.
        self._until: float | None = None

    def stop(self) -> None:
        """It does not expire any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set(self, claims: Claims | None) -> dict[str, Any]:
        """It expires when its token does; the fields that tell the client."""
        self.stop()
        connection = self._session.connection
        if claims is not None:
            self._until = claims.expires
            connection.on_renew = self.renew
        fields = expiry_fields(claims)
        if fields:
            wait = fields["ttl"] + GRACE
            self._timer = self._loop.call_later(wait, connection.close, *codes.EXPIRED)
        return fields

    async def refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        """The client has a new token."""
        if self._timer is None or not request.get("token"):
            raise BadRequest
        try:
            claims = read_token(request["token"])
        except InvalidToken:
            raise Close(*codes.INVALID_TOKEN) from None
        if claims.user != (self._session.connection.user_id or ""):
            raise Close(*codes.INVALID_TOKEN)
        return {"client": self._session.id, "version": VERSION, **self.set(claims)}

    def renew(self, at: float | None) -> None:
        """The site lets the token last until then, in seconds since 1970; None: for ever."""
        if at != self._until:  # an order comes back by the layer
            fields = self.set(Claims("", "", at, None, ()))
            self._session.reply({"push": {"refresh": fields}})
