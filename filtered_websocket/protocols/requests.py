"""What the commands of the Centrifuge client protocol do, once a client is connected."""

import asyncio
from collections.abc import Callable, Iterable
from inspect import getattr_static
from typing import Any, NamedTuple

from .. import tracing
from ..chains.sending import Sending
from ..codecs.data import Data, data_of, from_bytes
from ..conf import conf
from ..connections.subscription import recovered
from ..exceptions import Drop, NoSuchMethod, NotAllowed
from ..filters.rate_limit import RateLimitFilter
from ..groups import MAX_NAME
from ..history.base import HistoryStore, Page, Position
from ..history.lines import Passed
from ..hub.joining import enter
from ..layer.envelope import group_key
from ..publishing.batches import Keep
from ..types import Call
from . import codes
from .channels import Push, client_info, position_of, since_of, that_fit
from .codes import BadRequest, ReplyError
from .connection import ClientEvent, client_event
from .subscribing import PREFIXES, Subscribing
from .tokens import Claims, identify

#: Most publications of one history request.
MAX_PAGE = 300
#: So many bytes of a reply each member of a group takes, at least: two ids of 36 characters.
MEMBER = 80
#: What a client publishes that gives no data.
NULL = Data(b"null")


def has_chains(pipeline: Any) -> bool:
    """
    Whether a filter looks at what clients publish. Limits do not: a session has them count each
    command.
    """
    count = getattr_static(RateLimitFilter, "filter")
    filters = pipeline.data.filters
    return bool(pipeline.message) or any(getattr_static(f, "filter") is not count for f in filters)


async def through_chains(
    connection: Any,
    pipeline: Any,
    event: ClientEvent,
    data: Data,
    read: Callable[[bytes], Data] = from_bytes,
    make: Callable[[Any], Data] = data_of,
) -> Data:
    """
    What comes out of the data and message chains, for any protocol: ``read`` and ``make`` are
    its own for what those have made.
    """
    token = client_event.set(event)
    try:
        if pipeline.data:
            frame = await pipeline.data.pipe(connection, bytearray(data.payload))
            data = read(bytes(frame))
        if pipeline.message:
            data = make(await pipeline.message.pipe(connection, data.value))
    finally:
        client_event.reset(token)
    return data


class OpenGroup(NamedTuple):
    """A group to which everybody may publish, without a chain that has to see it."""

    name: str
    #: Whether its rule takes any bytes.
    is_binary: bool
    #: How publications are kept there.
    keep: Keep | None


class Requests(Subscribing):
    """Those of one session. A method per command; each returns the result's fields."""

    #: The last channel for which :meth:`open_group` has found an open group, with which its rule
    #: takes any bytes, and how it keeps publications.
    _open: OpenGroup | None = None

    # Connect

    async def connect(
        self, consumer: Any, request: dict[str, Any], claims: Claims | None
    ) -> tuple[int, str] | None:
        """Run the connect chain and join groups; a refusal, or None."""
        refusal: tuple[int, str] | None = None
        if claims is not None:
            refusal = await identify(self._connection, self._view.host, claims)
        if refusal is not None:
            consumer.refused(*refusal)
            return refusal
        refusal = await consumer.admit()
        if refusal is None and claims is not None:
            refusal = await self.join_claimed(claims.channels)
        if refusal is None:
            await self.recover_server_side(request.get("subs", {}))
            await self.all_joined()
        return refusal

    async def join_claimed(self, channels: tuple[str, ...]) -> tuple[int, str] | None:
        """Join what a connection token names; a refusal, or None."""
        for channel in channels:
            try:
                group = self._group_of({"channel": channel})
                self._match(group)
                await self._connection.join(group, trusted=True)
            except NotAllowed as refusal:
                self._connection.not_allowed(refusal)
            except (ReplyError, BadRequest):
                return codes.INVALID_TOKEN
        return None

    async def recover_server_side(self, requests: dict[str, Any]) -> None:
        """What the client comes back with, of subscriptions by the server."""
        for channel, request in requests.items():
            since = since_of(request)
            try:
                group = self._group_of({"channel": channel})
            except ReplyError:
                continue  # as one that it is not subscribed to any more
            subscription = self._connection.subscriptions.get(group)
            if since is None or subscription is None or not subscription.has_history:
                continue
            self._subscribed[group].since = since
            joined = enter(self._view, self._connection, group, trusted=True, since=since)
            await recovered(self._connection, group, joined)

    # Messages

    def open_group(self, channel: str, data: Data) -> OpenGroup | None:
        """
        The group of a publish that takes no time but for the layer: its rule lets everybody
        publish, and no chain has to see it. None for any other publish.
        """
        found = self._open
        if found is None or found.name != channel:
            found = self._find_open(channel)
            if found is None:
                return None
            self._open = found
        may = self._connection.may_publish and (found.is_binary or data.kind != "b")
        return found if may else None

    def _find_open(self, channel: str) -> OpenGroup | None:
        pipeline = self._view.pipeline
        if not channel or channel.startswith(PREFIXES) or has_chains(pipeline):
            return None
        rules = pipeline.rules
        try:
            match = None if rules is None or len(channel) > MAX_NAME else rules.find(channel)
        except Exception:  # of a site's converter: the other way asks again, and answers it
            return None
        if match is None or match.rule.publish is not True:
            return None
        return OpenGroup(channel, match.rule.binary, self._view.keep(channel, ""))

    async def publish(self, request: dict[str, Any]) -> "dict[str, Any] | asyncio.Future[Any]":
        """A future where the layer has to take it: the reply follows."""
        group = self._group_of(request)
        match = self._match(group)
        data: Data = request.get("data", NULL)
        if not (
            self._connection.may_publish and await self._connection.is_allowed("publish", group)
        ):
            raise ReplyError(103)
        if data.kind == "b" and not match.rule.binary:
            raise ReplyError(107)
        event = ClientEvent(group)
        data = await self._through_chains(event, data)
        if not event.is_published:
            token = client_event.set(event)
            try:
                sent = self._connection.apublish(data).detach()
            finally:
                client_event.reset(token)
            return {} if sent is None else sent
        return {}

    async def send(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._through_chains(ClientEvent(None), request.get("data", NULL))
        return {}

    async def _through_chains(self, event: ClientEvent, data: Data) -> Data:
        return await through_chains(self._connection, self._view.pipeline, event, data)

    async def rpc(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._view.pipeline.call:
            raise ReplyError(108)
        data = request["data"].value if "data" in request else None
        try:
            calls = self._view.calls_of(self._connection)
            answer = await calls.answer(Call(request.get("method", ""), data))
        except NoSuchMethod:
            raise ReplyError(104) from None
        except NotAllowed:
            raise ReplyError(103) from None  # logged already
        return {} if answer is None else {"data": data_of(answer)}

    async def ping(self, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    # What is kept

    async def _seen(self, request: dict[str, Any], is_kept: str) -> str:
        """The group of a request for what its rule keeps; 103 or 108 where it may not be seen."""
        group = self._group_of(request)
        match = self._match(group)
        if not await self._connection.is_allowed("see", group):
            raise ReplyError(103)
        if not getattr(match.rule, is_kept):
            raise ReplyError(108)
        return group

    async def presence(self, request: dict[str, Any]) -> dict[str, Any]:
        group = await self._seen(request, "presence")
        store = self._view.host.presence.store
        # More than fit are not read, which takes long.
        if (await store.stats(group)).connections * MEMBER > conf.MAX_OUTBOX:
            raise ReplyError(106)
        entries = (await store.members(group)).entries
        return {"presence": {key: client_info(key, one.packed) for key, one in entries.items()}}

    async def presence_stats(self, request: dict[str, Any]) -> dict[str, Any]:
        group = await self._seen(request, "presence")
        stats = await self._view.host.presence.store.stats(group)
        return {"num_clients": stats.connections, "num_users": stats.users}

    async def history(self, request: dict[str, Any]) -> dict[str, Any]:
        group = await self._seen(request, "history")
        store = self._view.host.feeds.store
        if store is None:
            raise ReplyError(108)
        since = position_of(request["since"]) if "since" in request else None
        limit = request.get("limit", 0)
        limit = MAX_PAGE if limit < 0 else min(limit, MAX_PAGE)
        page = await read_history(store, group, since, limit, request.get("reverse", False))
        pushes = await self._for_client(
            await tracing.active.recover(self._view.prepare, group, page)
        )
        # A part of it, where a client could not be sent all at once: it asks for the rest.
        fitting = that_fit(pushes, conf.MAX_OUTBOX // 2)
        publications = self._pushes.fields(self._session, fitting)
        position = {"epoch": page.position.epoch, "offset": page.position.offset}
        return {**position, **({"publications": publications} if publications else {})}

    async def _for_client(self, page: Iterable[Passed]) -> list[Push]:
        """What this client may have of a page."""
        return [
            push
            for passed in page
            if passed.content is not None and self._connection.id not in passed.exclude
            if (push := await self._sent(passed.content)) is not None
        ]

    async def _sent(self, content: Any) -> Push | None:
        """What the send chain makes of it for this client; None if it is dropped."""
        if not isinstance(content, Sending):
            push: Push = content
            return push
        try:
            push = content.frame(await content.arun(self._connection))
        except Drop as drop:
            self._view.dropped(drop, self._connection)
            return None
        return push


async def read_history(
    store: HistoryStore, group: str, since: Position | None, limit: int, reverse: bool
) -> Page:
    """
    What clients get who ask: all that is kept of what they ask for. :exc:`.ReplyError` 112
    for a position of another epoch.
    """
    key = group_key(group)
    page = await store.read(key, since, limit, reverse)
    if page.recovered or since is None:
        return page
    if since.epoch not in ("", page.position.epoch):
        raise ReplyError(112)
    # Before the oldest one, or after the top: from where on there is anything in that direction.
    if (since.offset > page.position.offset) == reverse:
        return await store.read(key, None, limit, reverse)
    return page
