"""
What ends a connection in time: no connect command, a ping without an answer, the end of its
token. And the end of the time that replies wait for publications.
"""

import asyncio
from contextvars import Context
from typing import Any

from ..exceptions import Close
from ..transports import write_one
from . import codes
from .codes import BadRequest
from .tokens import GRACE, Claims, InvalidToken, connection_claims, expiry_fields

#: Told to the client.
VERSION = "filtered_websocket"
#: How often the client is pinged, and how long it may take to answer, seconds.
PING, PONG = 25, 8.0
#: How long it may take from the handshake to its connect command, seconds.
STALE = 10.0
#: How long a reply waits at most for the publication that it answers, seconds. Longer than a
#: busy process takes, and nobody waits so long but where a publication is lost.
MOST_LATE = 0.05


def cancel(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one."""
    if timer is not None:
        timer.cancel()


class Pings:
    """Pings of one connection. It is closed unless the client does something in time."""

    def __init__(self, session: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop
        self._awaits_pong = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What tells the client of them."""
        return {"ping": PING, "pong": True}

    def begin(self) -> None:
        """The handshake was accepted: the connect command is to come."""
        self._timer = self._loop.call_later(STALE, self._close, *codes.STALE)

    def stop(self) -> None:
        """The connection has ended."""
        cancel(self._timer)

    def connected(self) -> None:
        """The connect command was answered: pings begin."""
        self._wait(PING)

    def pong(self) -> None:
        """The client has answered. :exc:`.BadRequest` where there was no ping."""
        if not self._awaits_pong:
            raise BadRequest
        self._awaits_pong = False
        self._wait(PING - PONG)

    def _wait(self, seconds: float) -> None:
        cancel(self._timer)
        self._timer = self._loop.call_later(seconds, self._ping)

    def _ping(self) -> None:
        self._awaits_pong = True
        write_one(self._session.transport, self._session.format.ping)
        self._timer = self._loop.call_later(PONG, self._close, *codes.NO_PONG)

    def _close(self, code: int, reason: str) -> None:
        self._session.connection.close(code, reason)


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
        cancel(self._timer)
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
            claims = connection_claims(request["token"])
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


class Late:
    """
    Who has replies that wait for the publications that they answer, so that both leave in one
    write: ``MOST_LATE`` seconds at most, as those may never come. Each is an ``Unanswered``.
    """

    def __init__(self) -> None:
        self._waiting: set[Any] = set()
        self._will_end = False

    def add(self, one: Any) -> None:
        self._waiting.add(one)
        if not self._will_end:
            self._will_end = True
            loop = asyncio.get_running_loop()
            loop.call_later(MOST_LATE, self._end, context=Context())

    def remove(self, one: Any) -> None:
        self._waiting.discard(one)

    def _end(self) -> None:
        self._will_end = False
        waiting, self._waiting = self._waiting, set()
        for one in waiting:
            one.hurry()
