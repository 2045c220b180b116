"""Who is in a group, for every process of the site: also for those that serve no WebSockets."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import SynchronousOnlyOperation
from redis.exceptions import RedisError

from ..conf import conf
from ..layer.envelope import check_group
from ..publishing.direct import sender_for
from ..threads.tasks import runs_a_loop
from .base import Info, Members, Stats
from .hosts import open_host
from .memory import members_here, stats_here
from .redis import RedisStore, explain, read_members, read_stats

T = TypeVar("T", Members, Stats)


def presence(group: str) -> dict[str, Info]:
    """
    Connection id -> ``Info(user, info)``, of everyone in ``group`` in all processes: ``user``
    is a primary key as text (None: nobody is logged in), ``info`` what a filter has set.

    One call of Redis, which copies the whole group. Groups whose rule does not say
    ``presence=True`` are empty. Raises ConnectionError where Redis does not answer within
    ``LAYER_TIMEOUT``, and SynchronousOnlyOperation on an event loop.
    """
    return _read(group, members_here, read_members, RedisStore.members, apresence).infos


async def apresence(group: str) -> dict[str, Info]:
    """:func:`presence`, on an event loop."""
    return (await _aread(group, members_here, RedisStore.members)).infos


def presence_stats(group: str) -> Stats:
    """
    How many are in ``group`` in all processes: ``Stats(connections, users)``. All connections
    without a user are one user.

    One call of Redis, however many they are. Raises as :func:`presence`.
    """
    return _read(group, stats_here, read_stats, RedisStore.stats, apresence_stats)


async def apresence_stats(group: str) -> Stats:
    """:func:`presence_stats`, on an event loop."""
    return await _aread(group, stats_here, RedisStore.stats)


def _read(
    group: str,
    here: Callable[[str], T],
    direct: Callable[[Any, str], T],
    read: Callable[[RedisStore, str], Awaitable[T]],
    instead: Callable[[str], object],
) -> T:
    if runs_a_loop():
        name = instead.__name__.removeprefix("a")
        raise SynchronousOnlyOperation(
            f"{name}() waits for Redis, and would stop this event loop: await {instead.__name__}()"
        )
    layer = _shared_layer(check_group(group))
    if layer is None:
        return here(group)
    sender = sender_for(layer)
    if sender is None:
        answer: T = async_to_sync(_aread)(group, here, read)
        return answer
    try:
        return direct(sender, group)
    except (OSError, RedisError) as error:
        _fail(group, error)


async def _aread(
    group: str,
    here: Callable[[str], T],
    read: Callable[[RedisStore, str], Awaitable[T]],
) -> T:
    layer = _shared_layer(check_group(group))
    host = None if layer is None else open_host(layer)
    if host is None:
        return here(group)
    store = RedisStore(host, conf.PRESENCE_LEASE)
    try:
        return await read(store, group)
    except (OSError, RedisError) as error:
        _fail(group, error)
    finally:
        await store.close()


def _shared_layer(group: str) -> Any:
    """The layer that leads to other processes, or None."""
    layer = get_channel_layer(conf.CHANNEL_LAYER)
    return None if type(layer) is InMemoryChannelLayer else layer


def _fail(group: str, error: Exception) -> NoReturn:
    why = explain(error)
    if isinstance(why, PermissionError):
        raise why from error
    raise ConnectionError(f"cannot read who is in {group!r:.80}: {why!r}") from error
