"""What the calls of the HTTP API of Pusher Channels do."""

import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any

from ..auth.tenants import personal_group
from ..codecs.pusher import SYSTEM_PREFIXES, data_told
from ..history import history
from ..history.base import Retention
from ..layer.envelope import EVENT
from ..pipelines.keeping import site_keep
from ..presence import presence, presence_stats
from ..publishing.batches import Keep
from ..publishing.items import new_item
from ..pusher.apps import App
from ..pusher.channels import (
    CACHE_SUFFIX,
    MAX_USER_ID,
    USER_PREFIX,
    channel_of,
    group_of,
    is_channel,
    kind_of,
    user_group,
)
from ..pusher.codes import UNAUTHORIZED
from ..pusher.connection import CONNECTIONS, connection_of
from ..pusher.subscribing import order_name
from .control import close, count_in_all, count_members
from .methods import UNANSWERED, is_alone
from .publishing import Finish, send
from .requests import ApiError, Request, as_object

MAX_EVENT_NAME, MAX_CHANNELS, MAX_BATCH = 200, 100, 10
#: How long the last event of a channel with a cache is kept, seconds.
CACHE_TTL = 1800.0
#: ``meta`` key: when it was.
CACHED = "c"
USER_COUNT, SUBSCRIPTION_COUNT, CACHE = "user_count", "subscription_count", "cache"

Result = dict[str, Any]


class Refused(Exception):
    """The answer has this status and text."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


# Publish


def trigger(app: App, fields: Result) -> Result:
    """Publish an event to some channels."""
    request = Request(fields)
    channels = request.texts("channels") or [request.needed("channel")]
    if len(channels) > MAX_CHANNELS:
        raise Refused(f"an event has at most {MAX_CHANNELS} channels")
    if len(channels) > 1 and any(kind_of(one).is_encrypted for one in channels):
        raise Refused("an event for an encrypted channel has no other channel")
    names = _named(request.text("info"))
    _begin(app, request, channels)()
    return {"channels": _infos(app, channels, names)} if names else {}


def trigger_batch(app: App, fields: Result) -> Result:
    """Publish several events, in their order."""
    batch = [Request(as_object(one, "an event")) for one in Request(fields).listed("batch")]
    if not 0 < len(batch) <= MAX_BATCH:
        raise Refused(f"'batch' has 1 to {MAX_BATCH} events")
    channels = [request.needed("channel") for request in batch]
    names = [_named(request.text("info")) for request in batch]
    begun = [_begin(app, one, [channel]) for one, channel in zip(batch, channels, strict=True)]
    for finish in begun:
        finish()
    if not any(names):
        return {}
    pairs = zip(channels, names, strict=True)
    return {"batch": [_infos(app, [one], asked)[one] for one, asked in pairs]}


def _begin(app: App, request: Request, channels: list[str]) -> Callable[[], None]:
    """Begin to publish an event; what is returned waits until the channel layer has it."""
    name = request.needed("name")
    if len(name) > MAX_EVENT_NAME or name.startswith(SYSTEM_PREFIXES):
        raise Refused(f"'name' has at most {MAX_EVENT_NAME} characters, and no 'pusher:' before")
    if "data" not in request or not isinstance(request["data"], str):
        raise Refused("'data' is a text: the JSON of what is no text")
    text: str = request["data"]
    if len(text.encode()) > app.max_event_size:
        raise Refused(f"'data' has at most {app.max_event_size} bytes", 413)
    data, exclude = data_told(text), _excluded(request)
    begun: list[Finish] = []
    for channel in channels:
        group = _group(app, channel)
        if kind_of(channel).has_cache:
            # First: who subscribes meanwhile may get it twice, and misses nothing.
            cached = new_item(data, meta={EVENT: name, CACHED: int(time.time())})
            begun.append(send(group + CACHE_SUFFIX, cached, Keep(Retention(1, CACHE_TTL))))
        item = new_item(data, exclude=exclude, meta={EVENT: name})
        begun.append(send(group, item, site_keep(group)))

    def finish() -> None:
        for one in begun:
            one()

    return finish


def _excluded(request: Request) -> list[str]:
    """The connection that has sent it already by itself, by its id of the protocol."""
    socket_id = request.text("socket_id")
    try:
        return [connection_of(socket_id)] if socket_id else []
    except ValueError as error:
        raise Refused(str(error)) from None


def _group(app: App, channel: str) -> str:
    """The group of a channel, or of a user."""
    user = channel.removeprefix(USER_PREFIX)
    if user != channel and 0 < len(user) <= MAX_USER_ID:
        personal = personal_group(user, copy_context()) if app.is_first else ""
        return user_group(app, user, personal)
    if not is_channel(channel):
        raise Refused(f"{channel!r:.80} is no name of a channel")
    return group_of(app, channel)


# Ask


def channels(app: App, fields: Mapping[str, str]) -> Result:
    """The channels that have subscribers."""
    prefix, names = fields.get("filter_by_prefix", ""), _named(fields.get("info", ""))
    if USER_COUNT in names and not prefix.startswith("presence-"):
        raise Refused("user_count is for channels that begin with 'presence-': filter_by_prefix")
    counts = _counts(app, "*")
    found = sorted(channel for channel in counts if channel.startswith(prefix))
    return {"channels": {channel: _info(app, channel, names, counts) for channel in found}}


def channel(app: App, fields: Mapping[str, str], channel: str) -> Result:
    """Whether a channel has subscribers, and how many."""
    _group(app, channel)
    names = _named(fields.get("info", ""))
    if USER_COUNT in names and not kind_of(channel).has_presence:
        raise Refused("user_count is for channels that begin with 'presence-'")
    counts = _counts(app, _pattern(app, channel))
    return {"occupied": channel in counts, **_info(app, channel, names, counts)}


def users(app: App, fields: Mapping[str, str], channel: str) -> Result:
    """Who is in a channel with presence."""
    if not (is_channel(channel) and kind_of(channel).has_presence):
        raise Refused("users are those of a channel that begins with 'presence-'")
    found = {info.user for info in presence(group_of(app, channel)).values()} - {None}
    return {"users": [{"id": user} for user in sorted(map(str, found))]}


def connections(app: App, fields: Mapping[str, str]) -> Result:
    """How many connections an app has in all processes."""
    found = 0 if is_alone() else count_in_all(CONNECTIONS, app.key)
    if found is None:
        raise ApiError(100, UNANSWERED)
    return {"connections": found}


def _named(info: str) -> list[str]:
    """The attributes that a request asks for."""
    names = [name.strip() for name in info.split(",") if name.strip()]
    for name in names:
        if name not in (USER_COUNT, SUBSCRIPTION_COUNT, CACHE):
            raise Refused(f"info is user_count, subscription_count or cache, not {name!r:.80}")
    return names


def _infos(app: App, channels: list[str], names: list[str]) -> dict[str, Result]:
    """These attributes of some channels."""
    one = len(channels) == 1
    counts: Mapping[str, int] = {}
    if SUBSCRIPTION_COUNT in names:
        counts = _counts(app, _pattern(app, channels[0]) if one else "*")
    return {channel: _info(app, channel, names, counts) for channel in channels}


def _info(app: App, channel: str, names: list[str], counts: Mapping[str, int]) -> Result:
    """Of these attributes those that a channel has."""
    kind, result = kind_of(channel), Result()
    if USER_COUNT in names and kind.has_presence:
        result[USER_COUNT] = presence_stats(group_of(app, channel)).users
    if SUBSCRIPTION_COUNT in names:
        result[SUBSCRIPTION_COUNT] = counts.get(channel, 0)
    if CACHE in names and kind.has_cache:
        result[CACHE] = _cached(group_of(app, channel))
    return result


def _cached(group: str) -> Result | None:
    for publication in history(group + CACHE_SUFFIX, 1, None, True).publications:
        left = publication.item.meta.get(CACHED, 0) + CACHE_TTL - time.time()
        return {"data": publication.data.decode(), "ttl": max(0, round(left))}
    return None


def _pattern(app: App, channel: str) -> str:
    """Names of channels have no character that a pattern is made of."""
    return group_of(app, channel)


def _counts(app: App, pattern: str) -> dict[str, int]:
    """Channel -> its connections in all processes."""
    counted = {} if is_alone() else count_members(pattern)
    if counted is None:
        raise ApiError(100, UNANSWERED)
    named = ((channel_of(app, group), count) for group, count in counted.items())
    return {channel: count for channel, count in named if channel is not None}


# Order


def terminate(app: App, fields: Mapping[str, Any], user: str) -> Result:
    """Close all connections that have signed in as a user."""
    if not 0 < len(user) <= MAX_USER_ID:
        raise Refused(f"the id of a user has 1 to {MAX_USER_ID} characters")
    if not close("user", order_name(app.id, user), UNAUTHORIZED[0], "terminated"):
        raise ApiError(100, "the channel layer (Redis) has not taken the order")
    return {}
