"""
Groups that are one of this package and one of Channels, of the same name: ``CHANNELS_GROUPS``.

::

    channel_layer.group_send("chat", event) -> a channel of this hub -> Batch -> the group chain
    publish(message, "chat") -> as always, and then -> group_send("chat", event) -> consumers

What arrives does not say to which group it was sent, so each of them has a channel of its own.
What :func:`~filtered_websocket.groups.forward` sends has a mark, and does not come back as a
second message.
"""

import asyncio
import contextlib
import contextvars
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from channels_redis.core import RedisChannelLayer

from ..codecs.copies import copy_of
from ..conf import conf
from ..logs import LogThrottle, get_logger
from ..threads.tasks import Tasks, end_tasks
from ..types import GroupLayer
from .envelope import Batch, group_key
from .health import is_away
from .names import explain, item_of, names
from .redis_host import settle
from .redis_layer import RedisLayer, redis_layer
from .subscriptions import Boxes, Receive, Subscriptions

logger = get_logger(__name__)

#: The origin of what Channels brings, where batches have one.
ORIGIN = "channels"


class _Sink:
    """Stands where channels_redis.core puts what has arrived for a channel that nobody reads."""

    def __init__(self, receive: Callable[[Any], None]) -> None:
        self._receive = receive

    def put_nowait(self, event: Any) -> None:
        # Consumers of this process get the same object; and it may be in the context of one.
        contextvars.Context().run(self._receive, copy_of(event))


class CoreBoxes(Boxes):
    """
    Of channels_redis.core, without tasks: whoever receives in this process, as the hub does,
    hands on what comes for any of its channels. A task that ends while it receives could lose
    what comes for another one.
    """

    async def _open(self, group: str) -> str:
        channel: str = await self._layer.new_channel()
        self._layer.receive_buffer[channel] = _Sink(partial(self._receive, group))
        return channel

    def _close(self, channel: str) -> None:
        # What is on its way would be kept for it for ever.
        pop = self._layer.receive_buffer.pop
        asyncio.get_running_loop().call_later(self._layer.expiry, pop, channel, None)


class RedisBoxes(Boxes):
    """Of channels_redis.pubsub by connections of our own: they know the group of a message."""

    def __init__(
        self, redis: RedisLayer, tasks: Tasks, receive: Receive, on_cut: Callable[[], None]
    ) -> None:
        super().__init__(redis, tasks, receive)
        self._redis = redis
        self._unlisten: dict[str, Callable[[], object]] = {}
        name = f"bridge.{secrets.token_hex(8)}"
        self._unwatch = redis.listen(name, lambda data: None, lambda error: on_cut())

    async def close(self) -> None:
        await super().close()
        self._unwatch()

    async def _open(self, group: str) -> str:
        channel = await self._redis.new_channel()
        on_data = partial(self._data, group)
        self._unlisten[channel] = self._redis.listen(channel, on_data, lambda error: None)
        return channel

    def _data(self, group: str, data: bytes) -> None:
        try:
            event = self._redis.deserialize(data)
        except Exception as error:
            event = error  # which is no event
        self._receive(group, event)

    async def _join(self, group: str, channel: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._redis.join(group, channel, partial(settle, done))
        await done

    async def _part(self, group: str, channel: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._redis.part(group, channel, partial(settle, done))
        await done

    def _close(self, channel: str) -> None:
        self._unlisten.pop(channel)()


def boxes_for(layer: Any, tasks: Tasks, receive: Receive, on_cut: Callable[[], None]) -> Boxes:
    """Those for ``layer``; ``on_cut`` is called where they lose a connection of their own."""
    redis = redis_layer(layer)
    if redis is not None:
        return RedisBoxes(redis, tasks, receive, on_cut)
    # Not a subclass, which may receive in another way.
    kind = CoreBoxes if type(layer) is RedisChannelLayer else Boxes
    return kind(layer, tasks, receive)


class Bridge:
    """
    Joins the groups of Channels that have the names of a hub's own, and hands what comes there to
    ``on_batch``. :meth:`attach` it to the hub's link. At most once, as Channels gives it; joined
    again after an outage, and before the layer's own expiry.
    """

    def __init__(
        self,
        layer: Any,
        tasks: Tasks,
        name_of: Callable[[str], str | None],
        on_batch: Callable[[Batch], None],
        callbacks: dict[str, Callable[..., None]],
    ) -> None:
        self._layer, self._tasks, self._name_of = layer, tasks, name_of
        self._on_batch, self._on_bad = on_batch, callbacks["on_bad_envelope"]
        self._on_joined_late = callbacks["on_joined_late"]
        #: For the link.
        self.callbacks = callbacks | {
            key: partial(self._rejoin, callbacks[key]) for key in ("on_lost", "on_back")
        }
        self._boxes = boxes_for(layer, tasks, self._receive, self.rejoin)
        layer_of_groups = cast(GroupLayer, self._boxes)
        self._groups = Subscriptions(layer_of_groups, self._late, self._failed, lambda: None)
        self._task: asyncio.Task[None] | None = None
        self._link: Any = None
        #: A group's key, where it has one of Channels, too -> its name.
        self._joined: dict[str, str] = {}
        #: How many events have come for each.
        self._counts: Counter[str] = Counter()
        self._throttle = LogThrottle()

    def attach(self, link: Any) -> Any:
        """Have ``link`` join and leave with this, and wait for both; returns it."""
        self._link, link.bridge = link, self
        want, unwant, is_joined, wait = link.want, link.unwant, link.is_joined, link.wait_joined
        start, stop = link.start, link.stop

        def want_both(key: str) -> None:
            want(key)
            self._want(key)

        def unwant_both(key: str) -> None:
            unwant(key)
            self._unwant(key)

        def start_both() -> None:
            start()
            self._task = self._tasks.start(self._run, "fws-bridge")

        async def wait_joined(key: str) -> bool:
            return all(await asyncio.gather(wait(key), self._wait_joined(key)))

        async def stop_both() -> None:
            await self._stop()
            await stop()

        link.want, link.unwant, link.start = want_both, unwant_both, start_both
        link.is_joined = lambda key: is_joined(key) and self._is_joined(key)
        link.wait_joined = wait_joined
        # As that of a link, it goes on when the caller is cancelled.
        link.stop = lambda: asyncio.shield(asyncio.ensure_future(stop_both()))
        return link

    def rejoin(self) -> None:
        """Join every group again: the layer may have forgotten any of them."""
        self._groups.rejoin()

    def _rejoin(self, callback: Callable[[Any], None], said: Any) -> None:
        self.rejoin()
        callback(said)

    async def _run(self) -> None:
        await self._groups.open()
        await self._groups.run()

    async def _stop(self) -> None:
        self._groups.unsubscribe_all()
        if self._groups.channel is not None and self._link.is_available:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(conf.LAYER_TIMEOUT):
                    await self._groups.up_to_date.wait()
        if self._task is not None:
            await end_tasks([self._task])
        self._groups.close(clean=True, keeps=False)
        await self._boxes.close()

    # Groups

    def _want(self, key: str) -> None:
        name = self._name_of(key)
        if name is not None and names().receives(name):
            self._joined[key] = name
            self._groups.want(name)

    def _unwant(self, key: str) -> None:
        name = self._joined.pop(key, None)
        if name is not None:
            self._counts.pop(name, None)
            self._groups.unwant(name)

    def _is_joined(self, key: str) -> bool:
        return key not in self._joined or self._groups.is_joined(self._joined[key])

    async def _wait_joined(self, key: str) -> bool:
        name = self._joined.get(key)
        if name is None or await self._groups.wait_joined(name):
            return True
        self._groups.report_when_joined(name)
        return False

    def _late(self, name: str) -> None:
        self._on_joined_late(group_key(name))

    def _failed(self, error: Exception) -> None:
        if is_away(error):
            self._link.note_lost(error)
        elif self._throttle.note("join"):
            logger.error("cannot join groups of Channels: %r", explain(error, self._layer))

    # Events

    def _receive(self, group: str, event: Any) -> None:
        """Never raises: it may be called by a layer, which would not go on."""
        key = group_key(group)
        if key not in self._joined:
            return  # it was left meanwhile
        try:
            item = item_of(group, event)
        except Exception as error:
            self._on_bad(error)
            return
        if item is None:
            return
        batch = Batch(ORIGIN, key, self._counts[group], [item])
        self._counts[group] += 1
        try:
            self._on_batch(batch)
        except Exception:
            if self._throttle.note("event"):
                logger.exception("cannot deliver an event of Channels")
