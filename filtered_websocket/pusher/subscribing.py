"""How one client of the Pusher protocol subscribes, and signs in."""

import asyncio
import math
from typing import Any

from ..auth.tenants import personal_group
from ..codecs.data import Data
from ..codecs.frames import Frame
from ..codecs.pusher import DEFAULT_EVENT, BadFrame, event_frame, head_of, parse_text
from ..conf import conf
from ..connections.subscription import OwnJoin
from ..exceptions import NotAllowed, ends_the_task
from ..groups import PERSONAL_PREFIX, TOKEN_PREFIX
from ..hub.joining import enter, join
from ..layer.envelope import EVENT, group_key
from ..presence.base import Info
from ..transports import write_one
from ..types import Identity, TokenUser
from . import codes
from .channels import (
    CACHE_SUFFIX,
    MAX_USER_ID,
    USER_PREFIX,
    Kind,
    channel_of,
    group_of,
    is_channel,
    kind_of,
    user_group,
)
from .codes import Refused, refusal_of, unauthorized
from .connection import PusherConnection, SignedIn, member_of
from .pushes import Pushes


class Subscribing:
    """Of one session."""

    def __init__(self, session: Any, view: Any) -> None:
        self._session = session
        self._connection: PusherConnection = session.connection
        self._pushes: Pushes = session.pushes
        self._view = view
        #: Its groups, and whether the client was told of each.
        self._groups: dict[str, bool] = {}
        #: The join of the client, while it goes on.
        self._own: OwnJoin | None = None
        #: The group that the client leaves now.
        self._leaves: str | None = None

    def begin(self) -> None:
        """The client was told that it is connected: it is in these groups by its route."""
        for group in self._groups:
            self._stand(group)

    def end(self) -> None:
        """The connection has ended."""
        for group in tuple(self._groups):
            self._forget(group)

    def stands(self, group: str) -> bool:
        """Whether the client is subscribed to it."""
        return self._groups.get(group, False)

    def group_of(self, channel: str) -> str:
        """The group of a channel, by its name alone."""
        user = self._connection.signed_in
        if user is not None and channel == USER_PREFIX + user.id:
            return user.group
        return group_of(self._session.app, channel)

    def channel_of(self, group: str) -> str:
        """How the client names a group that it is in."""
        user = self._connection.signed_in
        if user is not None and group == user.group:
            return USER_PREFIX + user.id
        return channel_of(self._session.app, group) or group

    # Subscribe

    async def subscribe(self, channel: str, fields: dict[str, Any]) -> None:
        """Answer a subscription."""
        try:
            await self._subscribe(channel, fields)
        except BaseException as error:
            if ends_the_task(error):
                raise
            refusal = refusal_of(error, self._connection, self._view.pipeline)
            self._session.tell("pusher:subscription_error", refusal.fields, channel)

    async def _subscribe(self, channel: str, fields: dict[str, Any]) -> None:
        kind, member = self._check(channel, fields)
        group = self.group_of(channel)
        if self.stands(group):
            self._succeed(group, channel, kind, None)
            return
        if not self._connection.has_room:  # also with a signature
            raise NotAllowed(f"at most {conf.MAX_GROUPS} groups (MAX_GROUPS)", group)
        if member is not None:
            await self._check_members(group, member)
            self._connection.members = {**self._connection.members, group: member}
        own = self._own = OwnJoin(self._view, group)
        try:
            await self._join(own, kind, member)
            cached = await self._cached(group, channel) if kind.has_cache else None
            if group not in self._connection.joined:
                raise unauthorized("not allowed")  # a filter has left it again
            self._succeed(group, channel, kind, cached)
        except BaseException:
            self._undo(own)
            raise
        finally:
            self._own = None

    def _undo(self, own: OwnJoin) -> None:
        """A join of the client has failed: a subscription by the server that it found stays."""
        group = own.group
        if own.other is not None and group in self._groups:
            if not self.stands(group):
                self._stand(group)
        else:
            self._forget(group)
            own.undo(self._connection)

    def _check(self, channel: str, fields: dict[str, Any]) -> tuple[Kind, Info | None]:
        """The kind of a channel, and who the client is there. :exc:`.Refused`."""
        if channel.startswith("#"):
            user = self._connection.signed_in
            if user is None or channel != USER_PREFIX + user.id:
                raise unauthorized("not signed in as this user")
            return Kind(USER_PREFIX), None
        if not is_channel(channel):
            raise Refused("InvalidChannel", 400, "no name of a channel")
        kind = kind_of(channel)
        if not kind.is_private:
            return kind, None
        signed, data = f"{self._connection.socket_id}:{channel}", fields.get("channel_data")
        if kind.has_presence and isinstance(data, str):
            signed += f":{data}"
        if not self._session.app.has_authorized(fields.get("auth"), signed):
            raise unauthorized("the signature is not that of this app, channel and socket")
        if not kind.has_presence:
            return kind, None
        return kind, member_of(data, self._connection.signed_in)

    async def _check_members(self, group: str, member: Info) -> None:
        """:exc:`.Refused` where a channel has as many users as it may."""
        most = self._session.app.max_members
        store = self._view.host.presence.store
        if (await store.stats(group)).users < most:
            return
        infos = (await store.members(group)).infos
        users = {info.user for info in infos.values()}
        if len(users) >= most and member.user not in users:
            raise Refused("LimitReached", 4004, f"a channel has at most {most} members")

    async def _join(self, own: OwnJoin, kind: Kind, member: Info | None) -> None:
        connection = self._connection
        if kind.prefix == USER_PREFIX:
            joined = enter(own, connection, own.group, trusted=True)
        else:
            info = None if member is None else {"user_id": member.user, "user_info": member.info}
            joined = join(own, connection, own.group, kind.is_private, info, None)
        if isinstance(joined, asyncio.Future):
            await joined  # where the layer is away, it is a member all the same

    def _succeed(self, group: str, channel: str, kind: Kind, cached: Frame | None) -> None:
        """Tell the client that it is subscribed, and what it is to know then."""
        data = self._presence(group) if kind.has_presence else {}
        self._session.tell("pusher_internal:subscription_succeeded", data, channel)
        if self.stands(group):
            return
        if kind.has_cache and not self._pushes.has_waiting(self._session, group):
            if cached is None:
                self._session.miss(channel)
            else:
                write_one(self._session.transport, cached)
        self._stand(group)

    def _stand(self, group: str) -> None:
        self._groups[group] = True
        self._pushes.stand(self._session, group)

    def _presence(self, group: str) -> dict[str, Any]:
        """Who is there, by user: what later comings and goings add up to."""
        present = self._view.present(group)
        infos = list(present.values())
        if group in self._connection.members and self._connection.id not in present:
            infos.append(self._connection.members[group])  # Redis is away
        users = {info.user: info.info or {} for info in infos if info.user is not None}
        return {"presence": {"ids": list(users), "hash": users, "count": len(users)}}

    async def _cached(self, group: str, channel: str) -> Frame | None:
        """The last event of a backend; None where there is none, or it cannot be read."""
        store = self._view.host.feeds.store
        if store is None:
            return None
        try:
            page = await store.read(group_key(group + CACHE_SUFFIX), None, 1, True)
        except Exception as error:
            self._view.pipeline.failed(error, self._connection, "the cache")
            return None
        for _, item in page.publications:
            event = item.meta.get(EVENT, DEFAULT_EVENT)
            return event_frame(event, head_of(channel), Data(item.payload, item.kind))
        return None

    # What the hub tells

    def joined(self, group: str) -> None:
        """It is a member of a group: by itself, or because the server has joined it."""
        own = self._own if self._own is not None and self._own.group == group else None
        is_own = own is not None and own.acts
        if own is not None and not is_own:
            own.other = True
        if group in self._groups:
            return
        if is_own or not group.startswith((PERSONAL_PREFIX, TOKEN_PREFIX)):
            self._groups[group] = False
            self._pushes.begin(self._session, group)
            if self._session.is_connected and not is_own:
                self._stand(group)

    def left(self, group: str) -> None:
        """It is no member of a group any more."""
        stood = self.stands(group)
        self._forget(group)
        if self._own is not None and group == self._own.group:
            self._own.other = None
        elif stood and group != self._leaves:
            refusal = unauthorized("unsubscribed by the server")
            channel = self.channel_of(group)
            self._session.tell("pusher:subscription_error", refusal.fields, channel)

    def _forget(self, group: str) -> None:
        if self._groups.pop(group, None) is not None:
            self._pushes.end(self._session, group)
        if group in self._connection.members:
            members = self._connection.members
            self._connection.members = {key: one for key, one in members.items() if key != group}

    def unsubscribe(self, channel: str) -> None:
        """Leave a channel; there is no answer."""
        group = self.group_of(channel)
        if group in self._groups:
            self._leaves = group
            try:
                self._connection.leave(group)
            finally:
                self._leaves = None

    # Sign in

    def sign_in(self, fields: dict[str, Any]) -> None:
        """Note who the client is; it is closed where its site has not signed that."""
        app, text = self._session.app, fields.get("user_data")
        signed = f"{self._connection.socket_id}::user::{text}"
        if not (isinstance(text, str) and app.has_authorized(fields.get("auth"), signed)):
            self._session.close(codes.UNAUTHORIZED[0], "the signature of the user is not good")
            return
        try:
            self._identify(parse_text(text))
        except BadFrame as error:
            self._session.close(codes.UNAUTHORIZED[0], f"user_data: {error}")
            return
        if not self._connection.closing:
            self._session.tell("pusher:signin_success", {"user_data": text})

    def _identify(self, user: Any) -> None:
        """:exc:`.BadFrame` for what is no user."""
        connection, app = self._connection, self._session.app
        name = user.get("id") if isinstance(user, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= MAX_USER_ID:
            raise BadFrame(f"no id, a text of 1 to {MAX_USER_ID} characters")
        known = connection.signed_in
        if known is not None:
            if known.id != name:
                raise BadFrame("signed in as another user")
            return
        personal = personal_group(name, connection.context) if app.is_first else ""
        connection.signed_in = SignedIn(
            name, user.get("user_info"), user_group(app, name, personal)
        )
        grants = self._view.host.grants
        orders = TokenUser(order_name(app.id, name))
        grants.add(connection, Identity(user=orders), math.inf, "signed_in")
        if app.is_first and connection.user_id is None:
            # The site's users: their connections are found by their keys, as any.
            own = Identity(user=TokenUser(name, user), token=connection.token)
            connection.identify(own)
            grants.add(connection, Identity(user=own.user), math.inf, "protocol")
            refusal = self._view.host.limits.identified(connection)
            if refusal is not None:
                self._session.close(*refusal)


def order_name(app_id: str, user: str) -> str:
    """How control events name the connections that have signed in as a user of an app."""
    return f"pusher:{app_id}:{user}"
