"""
Warns of processes that listen under the name of another Redis database.

Earlier versions used the namespace ``fws`` for every database. Processes of one site, some of
each version, do not receive each other's messages, and nothing else would report it.
"""

import asyncio
from typing import Any

from channels_redis.utils import create_pool
from redis.asyncio import Redis

from ..conf import DATABASE_0, conf, default_namespace
from ..logs import get_logger
from .envelope import control_key
from .health import LOST

logger = get_logger(__name__)

#: Asked once per process.
_is_asked = False


def asks_for_old_name(layer: Any) -> bool:
    """Whether :func:`warn_of_old_name` should run: once, where the name is not the old one."""
    is_new = conf.NAMESPACE == default_namespace() != DATABASE_0
    return is_new and not _is_asked and hasattr(layer, "_get_shard")


async def warn_of_old_name(layer: Any) -> None:
    """Log how many processes listen under the old name. Errors of Redis end it in silence."""
    global _is_asked
    _is_asked = True
    channel = layer._get_group_channel_name(control_key(DATABASE_0))
    client = Redis(connection_pool=create_pool(layer._get_shard(channel).host))
    try:
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            [(_, count)] = await client.pubsub_numsub(channel)
    except LOST:
        return  # away, or without the right to ask
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
