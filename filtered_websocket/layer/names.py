"""
What the names of this package in Redis need: the rights of its user (ACL), and that no
process of the site uses other names.

Redis answers ``No permissions to access a channel`` and does not say which. channels_redis
notices refused subscriptions only in its receiving task, logs a traceback and goes on: the
process would receive nothing, and its log would not say why.
"""

import asyncio
import logging
import weakref
from typing import Any, Protocol

from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.exceptions import MovedError, NoPermissionError
from redis.sentinel import MasterNotFoundError

from ..conf import DATABASE_0, conf, default_namespace
from ..logs import get_logger
from .envelope import control_key
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
    if hasattr(layer, "_get_group_channel_name"):
        names = f"&{prefix}__group__{conf.NAMESPACE}.* &{prefix}specific.*"
        return f"{names} +subscribe +unsubscribe +publish"
    return f"~{prefix}:group:{conf.NAMESPACE}.* ~{prefix}specific.* +@all -@admin -@dangerous"


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
