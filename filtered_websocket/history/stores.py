"""
Where histories are kept, beside the channel layer: in its Redis, or in this process; and what
Python asks there on an event loop.
"""

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import RedisError

from ..conf import conf
from ..layer.envelope import check_group, group_key
from ..layer.health import LOST
from ..layer.links import ProcessLink, RedisLink
from ..layer.redis_layer import RedisLayer, redis_layer
from .base import HistoryStore, Page, Position, check_position
from .memory import MemoryHistory, process_history, use_history
from .redis import RedisHistory


def open_store(link: Any) -> HistoryStore | None:
    """
    The store of the hub with this link. None for a layer that shows no place where something
    can be kept.
    """
    if isinstance(link, ProcessLink):
        return process_history()
    redis = link.redis if isinstance(link, RedisLink) else None
    store = _open_redis(get_channel_layer(conf.CHANNEL_LAYER), redis)
    if store is not None:
        link.wait_also(store.answers)
    return store


def _open_redis(layer: Any, redis: RedisLayer | None) -> RedisHistory | None:
    try:
        return RedisHistory(layer, redis)
    except (AttributeError, RuntimeError, TypeError, ValueError, RedisError):
        # Of another shape than those of channels_redis 4, or redis-py has to connect.
        return None


# In tests


class HistoryOfTests(MemoryHistory):
    """Empty at the beginning of each test."""

    def __init__(self) -> None:
        super().__init__()
        self._test = ""
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._is_held = False

    def _find(self, key: str, now: float) -> Any:
        test = _running_test()
        if test != self._test:
            self._test = test
            self._clear_all()
        return super()._find(key, now)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._clear_all()

    def begin(self) -> None:
        """A client connects: without pytest each test has an event loop of its own."""
        loop = asyncio.get_running_loop()
        if not (self._is_held or _running_test() or loop in self._loops):
            self._loops.add(loop)
            self.clear()

    @contextmanager
    def hold(self) -> Iterator[None]:
        before, self._is_held = self._is_held, True
        self.clear()
        try:
            yield
        finally:
            self._is_held = before
            self.clear()


def _running_test() -> str:
    """The test that pytest runs; empty where it runs none."""
    # The last word says whether it is being set up.
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]


def history_of_tests() -> HistoryOfTests:
    """What the hubs of this process share from now on, as it runs tests."""
    history = process_history()
    if not isinstance(history, HistoryOfTests):
        history = HistoryOfTests()
        use_history(history)
    return history


@contextmanager
def empty_histories() -> Iterator[None]:
    """
    What runs inside finds nothing in histories, and leaves nothing. Tests that pytest runs are
    so by themselves, and others from their first connection on.
    """
    with history_of_tests().hold():
        yield


# From Python


def check_question(limit: Any, since: Any) -> Position | None:
    """``since`` as a position; ValueError or TypeError for a mistake in the call."""
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise ValueError(f"limit is None or a whole number from 0 on, not {limit!r:.80}")
    return None if since is None else check_position(since)


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
    start = check_question(limit, since)
    async with _store(group) as store:
        return await store.read(group_key(group), start, limit, reverse)


async def aforget_history(group: str) -> None:
    """
    Remove all that is kept of ``group``: who comes back with an earlier position is told that
    it is lost. Raises as :func:`ahistory`.
    """
    async with _store(group) as store:
        await store.forget(group_key(group))


def shared_layer() -> Any:
    """The layer that leads to other processes, or None."""
    layer = get_channel_layer(conf.CHANNEL_LAYER)
    return None if type(layer) is InMemoryChannelLayer else layer


def unreachable(group: str, error: BaseException) -> ConnectionError:
    """Redis does not answer."""
    return ConnectionError(f"cannot reach the history of {group!r:.80}: {error!r}")


@asynccontextmanager
async def _store(group: str) -> AsyncIterator[HistoryStore]:
    layer = shared_layer()
    check_group(group)
    if layer is None:
        yield process_history()
        return
    redis = redis_layer(layer)
    store = _open_redis(layer, redis)
    if store is None:
        raise ImproperlyConfigured(
            f"nothing can be kept beside a {type(layer).__module__}.{type(layer).__qualname__}:"
            " histories need a layer of channels_redis, with options that this package can use"
        )
    if redis is not None:
        redis.use()
    try:
        yield store
    except LOST as error:
        if isinstance(error, PermissionError):
            raise
        raise unreachable(group, error) from error
    finally:
        await store.close()
        if redis is not None:
            await redis.leave()
