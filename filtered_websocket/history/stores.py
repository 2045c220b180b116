"""
Where histories are kept, beside the channel layer: in its Redis, or in this process; and what
Python asks there.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from ..conf import conf
from ..layer.envelope import check_group, group_key
from ..layer.health import LOST
from ..layer.links import RedisLink
from ..layer.process import ProcessLink
from ..layer.redis_layer import RedisLayer, redis_layer
from .base import HistoryStore, Page, check_position
from .memory import process_history
from .redis import RedisHistory


def open_store(link: Any) -> HistoryStore | None:
    """
    The store of the hub with this link. None for a layer that shows no place where something
    can be kept.
    """
    if isinstance(link, ProcessLink):
        return process_history()
    if isinstance(link, RedisLink):
        return _open_redis(get_channel_layer(conf.CHANNEL_LAYER), link.redis)
    return None


def _open_redis(layer: Any, redis: RedisLayer) -> HistoryStore | None:
    try:
        return RedisHistory(layer, redis)
    except AttributeError:
        # Another serializer than those of channels_redis 4.
        return None


# From Python


async def ahistory(
    group: str,
    limit: int | None = None,
    since: tuple[str, int] | None = None,
    reverse: bool = False,
) -> Page:
    """
    What is kept of ``group``, the oldest first, as it was published: no chain has seen it.

    At most ``limit`` publications after the position ``since``; with ``reverse`` those before
    it, the latest first. ``recovered`` of the page is False, and it is empty, where what comes
    next after ``since`` is no longer kept. ``position`` is that of the last publication.

    Raises ConnectionError where Redis does not answer within ``LAYER_TIMEOUT``,
    PermissionError where it refuses, ImproperlyConfigured for a channel layer beside which
    nothing can be kept, and TypeError or ValueError for a mistake in the call.
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise ValueError(f"limit is None or a whole number from 0 on, not {limit!r:.80}")
    start = None if since is None else check_position(since)
    async with _store(group) as store:
        return await store.read(group_key(group), start, limit, reverse)


def history(
    group: str,
    limit: int | None = None,
    since: tuple[str, int] | None = None,
    reverse: bool = False,
) -> Page:
    """:func:`ahistory`; SynchronousOnlyOperation on an event loop, which it would stop."""
    _check_may_wait("history", "ahistory")
    page: Page = async_to_sync(ahistory)(group, limit, since, reverse)
    return page


async def aforget_history(group: str) -> None:
    """
    Remove all that is kept of ``group``: who comes back with an earlier position is told that
    it is lost. Raises as :func:`ahistory`.
    """
    async with _store(group) as store:
        await store.forget(group_key(group))


def forget_history(group: str) -> None:
    """:func:`aforget_history`; SynchronousOnlyOperation on an event loop."""
    _check_may_wait("forget_history", "aforget_history")
    async_to_sync(aforget_history)(group)


def _check_may_wait(name: str, instead: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(
        f"{name}() waits for Redis, and would stop this event loop: await {instead}()"
    )


@asynccontextmanager
async def _store(group: str) -> AsyncIterator[HistoryStore]:
    layer = get_channel_layer(conf.CHANNEL_LAYER)
    check_group(group)
    if layer is None or type(layer) is InMemoryChannelLayer:
        yield process_history()
        return
    redis = redis_layer(layer)
    store = None if redis is None else _open_redis(layer, redis)
    if redis is None or store is None:
        raise ImproperlyConfigured(
            f"nothing can be kept beside a {type(layer).__module__}.{type(layer).__qualname__}:"
            " histories need the pubsub layer of channels_redis"
        )
    redis.use()
    try:
        yield store
    except LOST as error:
        if isinstance(error, PermissionError):
            raise
        raise ConnectionError(f"cannot reach the history of {group!r:.80}: {error!r}") from error
    finally:
        await redis.leave()
