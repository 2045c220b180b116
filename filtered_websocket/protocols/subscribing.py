"""How one client of the Centrifuge protocol subscribes, by itself or by the server."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any

from ..close_codes import RESYNC
from ..codecs.data import data_of
from ..connections.subscription import OwnJoin, Subscription, recovered
from ..groups import MAX_NAME, RESERVED, TOKEN_PREFIX, channel_name
from ..history.base import Position
from ..hub.joining import join
from ..pipelines.rules import Match
from . import codes
from .channels import COMPACT, REJECT, Subscribed, since_of
from .codes import BadRequest, ReplyError
from .connection import ClientConnection
from .pushes import Pushes
from .tokens import GRACE, Claims, claims_of, expiry_fields

#: Names that no client may name.
PREFIXES = ("#", *RESERVED)


class Subscribing:
    """The half of :class:`.Requests` that is about subscriptions."""

    def __init__(self, session: Any, view: Any) -> None:
        self._session = session
        self._connection: ClientConnection = session.connection
        self._pushes: Pushes = session.pushes
        self._view = view
        self._loop: asyncio.AbstractEventLoop = view.loop
        #: Group -> its subscription.
        self._subscribed: dict[str, Subscribed] = {}
        #: The join of a command, while it goes on.
        self._own: OwnJoin | None = None

    def end(self) -> None:
        """The connection has ended."""
        for group in tuple(self._subscribed):
            self._forget(group)

    def _group_of(self, request: dict[str, Any]) -> str:
        channel: str = request.get("channel", "")
        if not channel:
            raise BadRequest
        if not channel.startswith(PREFIXES):
            return channel
        own = self._connection.personal_group
        if own is None or channel != channel_name(own):
            raise ReplyError(103)
        return own

    def _match(self, group: str) -> Match:
        """The rule of a group, or error 102."""
        rules = self._view.pipeline.rules
        match = None if rules is None or len(group) > MAX_NAME else rules.find(group)
        if match is None:
            if len(group) <= MAX_NAME:
                codes.log_undeclared(self._connection, group, rules)
            raise ReplyError(102)
        found: Match = match
        return found

    # Subscriptions

    def stands(self, group: str) -> bool:
        """Whether what is published to a group is sent to this client, by its name."""
        subscribed = self._subscribed.get(group)
        return subscribed is not None and subscribed.stands

    async def subscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        group = self._group_of(request)
        if group in self._subscribed or group in self._connection.joined:
            raise ReplyError(105)
        if "tf" in request:
            raise ReplyError(107)
        keeps = self._match(group).rule.history is not None
        claims = claims_of(request, self._connection.user_id or "")
        if not self._connection.has_room:
            raise ReplyError(106)
        takes_numbers = self._session.format.takes_numbers
        is_compact = takes_numbers and bool(request.get("flag", 0) & COMPACT)
        subscribed = self._subscribed[group] = Subscribed(is_compact, is_own=True)
        subscribed.since = since_of(request) if keeps else None
        own = self._own = OwnJoin(self._view, group)
        try:
            result = await self._join(own, request, claims is not None)
        except BaseException:
            self._own = None
            self._undo(own, subscribed)
            raise
        self._own = None
        return result | self._expires(group, subscribed, claims)

    def _undo(self, own: OwnJoin, subscribed: Subscribed) -> None:
        """A join of the client has failed: a subscription by the server that it found stays."""
        group = own.group
        is_current = self._subscribed.get(group) is subscribed
        if own.other is not None and is_current and group in self._connection.joined:
            subscribed.is_own = subscribed.is_compact = False
            subscribed.since = None
            self._tell_when(group, subscribed, own.other)
        else:
            self._forget(group)
            own.undo(self._connection)

    async def _join(self, own: OwnJoin, request: dict[str, Any], trusted: bool) -> dict[str, Any]:
        """Join a group; the fields of the result."""
        group = own.group
        subscribed = self._subscribed[group]
        data = request["data"].value if "data" in request else None
        if not await self._enter(own, trusted, data, subscribed.since):
            raise ReplyError(100)
        is_recovering = request.get("recover", False)
        rejects = bool(request.get("flag", 0) & REJECT)
        if is_recovering and rejects and not self._has_recovered(group):
            raise ReplyError(112)
        result = self._result(group)
        if is_recovering:
            result["was_recovering"] = True
        if subscribed.is_compact:
            result["id"] = self._pushes.number_of(group)
        return result

    async def _enter(self, own: OwnJoin, trusted: bool, data: Any, since: Position | None) -> bool:
        """Join, with a position if there is one; whether the subscription stands."""
        group = own.group
        joined = join(own, self._connection, group, trusted, data, since)
        if since is not None:
            joined = (await recovered(self._connection, group, joined)).position is not None
        elif isinstance(joined, asyncio.Future):
            joined = await joined
        # A filter may have left it again.
        return joined and group in self._connection.joined

    def _has_recovered(self, group: str) -> bool:
        subscription = self._connection.subscriptions.get(group)
        recovery = None if subscription is None else subscription.recovery
        return recovery is not None and recovery.recovered

    def _result(self, group: str) -> dict[str, Any]:
        """The fields of a subscription that stands."""
        subscription = self._connection.subscriptions.get(group)
        if subscription is None:
            return {}
        result: dict[str, Any] = {}
        if subscription.reply is not None:
            result["data"] = data_of(subscription.reply)
        if subscription.position is not None:
            result |= self._history_result(group, subscription)
        return result

    def _history_result(self, group: str, subscription: Subscription) -> dict[str, Any]:
        """The fields of one whose group has a history: the client goes on from there."""
        epoch, offset = subscription.position[:2] if subscription.position else ("", 0)
        result: dict[str, Any] = {"recoverable": True, "positioned": True, "epoch": epoch}
        subscribed = self._subscribed[group]
        since, subscribed.since = subscribed.since, None
        if since is not None and self._has_recovered(group):
            publications = self._pushes.take(self._session, group)
            result |= {"recovered": True, "offset": since.offset}
            return {**result, "publications": publications} if publications else result
        first = self._pushes.first_offset(self._session, group)
        return {**result, "offset": min(offset, first - 1) if first else offset}

    def _expires(self, group: str, subscribed: Subscribed, claims: Claims | None) -> dict[str, Any]:
        subscribed.stop()
        fields = expiry_fields(claims)
        if fields:
            subscribed.expiry = self._loop.call_later(fields["ttl"] + GRACE, self._expire, group)
        return fields

    def _expire(self, group: str) -> None:
        self._forget(group)
        self._pushes.unsubscribed(self._session, group, codes.SUBSCRIPTION_EXPIRED)
        self._connection.leave(group)

    def replied(self, command: str = "") -> None:
        """
        A reply was written: what it tells of, stands. Of what the client has asked for itself,
        no other reply tells than that to `subscribe`: one to a call may come meanwhile.
        """
        for group, subscribed in tuple(self._subscribed.items()):
            is_told = command == "subscribe" if subscribed.is_own else subscribed.joining is None
            if is_told and not subscribed.stands and group in self._connection.joined:
                subscribed.stands = True
                self._pushes.stand(self._session, group, subscribed.is_compact)
                if subscribed.is_lost:
                    self.lose(group)

    async def unsubscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        group = self._group_of(request)
        self._forget(group)
        self._connection.leave(group)
        return {}

    async def sub_refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        group = self._group_of(request)
        subscribed = self._subscribed.get(group)
        if subscribed is None or subscribed.expiry is None or not request.get("token"):
            raise BadRequest
        claims = claims_of(request, self._connection.user_id or "")
        return self._expires(group, subscribed, claims)

    def _forget(self, group: str) -> None:
        subscribed = self._subscribed.pop(group, None)
        if subscribed is not None:
            subscribed.stop()
        self._pushes.end(self._session, group)

    # Subscriptions by the server

    def server_side(self) -> dict[str, Any]:
        """The results of all subscriptions so far, for the reply to connect."""
        results = {}
        for group, subscribed in self._subscribed.items():
            asked = {"was_recovering": True} if subscribed.since is not None else {}
            results[channel_name(group)] = self._result(group) | asked
        return results

    async def all_joined(self) -> None:
        """Return when the layer has subscribed to all groups, or after ``LAYER_TIMEOUT``."""
        while joining := [one.joining for one in self._subscribed.values() if one.joining]:
            await asyncio.wait(joining)

    def joined(self, group: str, joined: bool | Awaitable[bool]) -> None:
        """
        It is a member of a group: of itself, or because the server has joined it. ``joined``
        says when the layer has subscribed to it: what is published before would be missed.
        """
        if self._own is not None and group == self._own.group:
            self._pushes.begin(self._session, group)
            if not self._own.acts:
                self._own.other = joined
        if group in self._subscribed or group.startswith(TOKEN_PREFIX):
            return
        subscribed = self._subscribed[group] = Subscribed()
        self._pushes.begin(self._session, group)
        self._tell_when(group, subscribed, joined)

    def _tell_when(
        self, group: str, subscribed: Subscribed, joined: bool | Awaitable[bool]
    ) -> None:
        if isinstance(joined, asyncio.Future):
            subscribed.joining = joined
            joined.add_done_callback(partial(self._tell, group, subscribed))
        else:
            self._tell(group, subscribed)

    def _tell(self, group: str, subscribed: Subscribed, _: object = None) -> None:
        """The layer has subscribed to a group of the server's. The reply to connect tells, too."""
        subscribed.joining = None
        if self._session.is_connected and self._subscribed.get(group) is subscribed:
            push = {"channel": channel_name(group), "subscribe": self._result(group)}
            self._session.reply({"push": push})
            self.replied()

    def answered(self, group: str) -> None:
        """It is about to be sent what it asked for of a history: nothing of that is lost."""
        subscribed = self._subscribed.get(group)
        if subscribed is not None:
            subscribed.is_lost = False

    def lose(self, group: str) -> None:
        """What comes next of a group does not follow on what it got: the client has to ask."""
        subscribed = self._subscribed.get(group)
        if subscribed is None:
            return
        if not subscribed.stands:
            subscribed.is_lost = True
        elif not subscribed.is_own:
            self._connection.close(RESYNC, "insufficient state")
        else:
            self._forget(group)
            self._pushes.unsubscribed(self._session, group, codes.INSUFFICIENT_STATE)
            self._connection.leave(group)

    def left(self, group: str) -> None:
        """It is no member of a group any more."""
        subscribed = self._subscribed.get(group)
        if self._own is not None and group == self._own.group:
            self._own.other = None
            return
        if subscribed is None:
            return
        self._forget(group)
        if subscribed.stands:
            self._pushes.unsubscribed(self._session, group)
