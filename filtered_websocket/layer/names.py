"""
What the names of this package in Redis need: the rights of its user (ACL), and that no
process of the site uses other names. And those of groups of Channels, with the format of what
is sent there.

Redis answers ``No permissions to access a channel`` and does not say which. channels_redis
notices refused subscriptions only in its receiving task, logs a traceback and goes on: the
process would receive nothing, and its log would not say why.
"""

import asyncio
import base64
import json
import logging
import re
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from channels_redis.utils import create_pool
from django.core.exceptions import ImproperlyConfigured
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.exceptions import MovedError, NoPermissionError
from redis.sentinel import MasterNotFoundError

from ..codecs.copies import Encoder, EventBytes
from ..codecs.frames import BYTES
from ..conf import DATABASE_0, conf, default_namespace
from ..groups import Forward, is_channels_pattern
from ..logs import get_logger
from .envelope import EVENT, BadEnvelope, Item, control_key, group_key
from .health import LOST

logger = get_logger(__name__)


class Health(Protocol):
    """The part of :class:`~filtered_websocket.layer.health.LayerHealth` that is used here."""

    @property
    def is_lost(self) -> bool: ...
    def note_lost(self, error: Exception) -> None: ...


NO_MASTER = (MasterNotFoundError, AsyncMasterNotFoundError)

#: By event loop: who reports what channels_redis only logs.
_watching: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Health]]" = (
    weakref.WeakKeyDictionary()
)


#: Whether this process has asked for the old name.
_is_asked = False


def explain(error: Exception, layer: Any) -> Exception:
    """
    ``error``; for a missing right, a PermissionError that names what is needed; for a master
    that is not found, and for a node of a Redis Cluster, a ConnectionError in plain words.
    """
    if isinstance(error, NO_MASTER):
        # redis-py's text has all options of all Sentinels.
        words = str(error).partition(" : ")[0]
        return ConnectionError(f"{words}: no Sentinel answers, or none knows one that is up")
    if isinstance(error, MovedError):
        return ConnectionError(
            f"Redis answers 'MOVED {error}', as it is a node of a Redis Cluster:"
            " channels_redis.core needs a Redis of its own, or use channels_redis.pubsub"
        )
    if not isinstance(error, NoPermissionError):
        return error
    return PermissionError(f"Redis refuses it ({error}): its user needs {needed_rights(layer)}")


def needed_rights(layer: Any) -> str:
    """The least rules of Redis' ACL for ``layer``, as far as it shows its names."""
    prefix = getattr(layer, "prefix", "asgi")
    entries = [getattr(one, "pattern", one) for one in conf.CHANNELS_GROUPS or ()]
    groups = dict.fromkeys((f"{conf.NAMESPACE}.*", *entries))
    if hasattr(layer, "_get_group_channel_name"):
        words = [f"&{prefix}__group__{group}" for group in groups]
        return " ".join([*words, f"&{prefix}specific.* +subscribe +unsubscribe +publish"])
    words = [f"~{prefix}:group:{group}" for group in groups]
    return " ".join([*words, f"~{prefix}specific.* +@all -@admin -@dangerous"])


def watch(health: Health) -> None:
    """Tell ``health`` of subscriptions on this event loop that Redis refuses."""
    _watching.setdefault(asyncio.get_running_loop(), []).append(health)


def stop_watching(health: Health) -> None:
    """Undo :func:`watch`."""
    _watching[asyncio.get_running_loop()].remove(health)


def _passes(record: logging.LogRecord) -> bool:
    """
    Filters channels_redis' log: tracebacks of what is reported here, in one line, are left
    out, and so are those of an outage that was reported.
    """
    error = record.exc_info[1] if record.exc_info else None
    try:
        watching = _watching.get(asyncio.get_running_loop(), ())
    except RuntimeError:
        return True
    if isinstance(error, NoPermissionError):
        for health in watching:
            health.note_lost(error)
        return not watching
    return not (isinstance(error, LOST) and any(health.is_lost for health in watching))


logging.getLogger("channels_redis.pubsub").addFilter(_passes)


# The old name


def asks_for_old_name(layer: Any) -> bool:
    """Whether :func:`warn_of_old_name` should run: once, where the name is not the old one."""
    is_new = conf.NAMESPACE == default_namespace() != DATABASE_0
    return is_new and not _is_asked and hasattr(layer, "_get_shard")


async def warn_of_old_name(layer: Any) -> None:
    """
    Log how many processes listen under the name ``fws``, in whichever database.

    Earlier versions used it for every database. Processes of one site, some of each
    version, do not receive each other's messages, and nothing else would report it.
    """
    global _is_asked
    _is_asked = True
    channel = layer._get_group_channel_name(control_key(DATABASE_0))
    client = Redis(connection_pool=create_pool(layer._get_shard(channel).host))
    try:
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            [(_, count)] = await client.pubsub_numsub(channel)
    except Exception:
        return  # Redis is away, or the right to ask is missing: this is a hint only
    finally:
        await client.aclose(close_connection_pool=True)
    if count:
        logger.warning(
            "%d processes listen under %r, which is the name for Redis database 0, and was that"
            " for every database; this one listens under %r. If they are of this site, restart"
            " them with this version",
            count,
            DATABASE_0,
            conf.NAMESPACE,
        )


# Groups of Channels

#: The key of an event that this package has sent. Its value is the name on the layer of the group
#: whose members have the message already; earlier versions say 1, and pass by whatever has it.
MARK = "filtered_websocket"
_EARLIER = 1
_is_name = re.compile(r"[A-Za-z0-9._-]{1,99}").fullmatch
#: A type of an event that can be the name of one for clients of protocols.
_is_event = re.compile(r"[\w.]{1,200}", re.ASCII).fullmatch


class _Encoder(Encoder):
    """Events may have bytes, which JSON has not."""

    def default(self, o: Any) -> Any:
        return base64.b64encode(o).decode() if isinstance(o, BYTES) else super().default(o)


_encode = _Encoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Names:
    """What ``CHANNELS_GROUPS`` says of the name of a group."""

    def __init__(self, entries: Sequence[Any]) -> None:
        known = [one for one in entries if is_entry(one)]
        received = [_regex(one) for one in known if isinstance(one, str)]
        #: Whether events of Channels are received at all.
        self.receives_any = bool(received)
        self._received = re.compile("|".join(received))
        self._forwards = [
            (re.compile(_regex(one.pattern)), one.type) for one in known if isinstance(one, Forward)
        ]
        #: The type of the events that what is published to a group is forwarded as, or None.
        self.type_of = lru_cache(1024)(self._find_type)

    def receives(self, group: str) -> bool:
        """Whether the group of Channels with this name is this one, too."""
        return _is_of_channels(group) and self._received.fullmatch(group) is not None

    def _find_type(self, group: str) -> str | None:
        for pattern, kind in self._forwards if _is_of_channels(group) else ():
            if pattern.fullmatch(group):
                return kind
        return None


def is_entry(entry: Any) -> bool:
    """Whether ``CHANNELS_GROUPS`` may have it."""
    return isinstance(entry, Forward) or is_channels_pattern(entry)


def _is_of_channels(group: str) -> bool:
    """Whether Channels accepts the name, and this package has no group of that name there."""
    return _is_name(group) is not None and not group.startswith(f"{conf.NAMESPACE}.")


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*")


_names: tuple[Any, Names] = (), Names(())


def names() -> Names:
    """Of the setting as it is now."""
    global _names
    entries = conf.CHANNELS_GROUPS
    if _names[0] is not entries:
        _names = entries, Names(entries or ())
    return _names[1]


def check_entries() -> None:
    """:exc:`ImproperlyConfigured` where the setting has what it may not."""
    for entry in conf.CHANNELS_GROUPS or ():
        if not is_entry(entry):
            raise ImproperlyConfigured(
                f"FILTERED_WEBSOCKET['CHANNELS_GROUPS'] has {entry!r:.120}, which is no name that"
                " Channels accepts for a group, and no forward(...)."
            )


def event_of(group: str, item: Item, kind: str) -> dict[str, Any]:
    """What consumers get of a message: the keys of a dict, anything else as ``message``."""
    message: Any = item.payload if item.kind == "b" else item.payload.decode()
    if item.kind == "j":
        message = json.loads(message)
    fields = message if isinstance(message, dict) else {"message": message}
    return {**fields, "type": kind, MARK: group_key(group)}


def item_of(group: str, event: Any) -> Item | None:
    """What the members of a group get of an event; None where they have its message already."""
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str):
        raise BadEnvelope(f"an event of Channels is a dict with a type, not {event!r:.80}")
    if MARK in event:
        if event[MARK] in (group_key(group), _EARLIER):
            return None
        # A consumer has sent it on, from another group.
        event = {key: value for key, value in event.items() if key != MARK}
    payload = EventBytes(_encode(event).encode())
    if len(payload) > conf.MAX_MESSAGE_SIZE:
        raise BadEnvelope(
            f"an event of type {kind!r:.80} has {len(payload)} bytes: MAX_MESSAGE_SIZE is"
            f" {conf.MAX_MESSAGE_SIZE}"
        )
    payload.event = event
    return Item(0, "j", "", payload, {EVENT: kind} if _is_event(kind) else {})
