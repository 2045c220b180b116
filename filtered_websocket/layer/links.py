"""
Which link a hub has: to Redis by connections of our own, to another layer, or to the hubs of its
process, where no layer leads to others: without one, and with Channels' in-memory layer, which
itself looks through all groups at every send, and does not wake another event loop.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from ..conf import conf
from ..threads.tasks import Tasks
from ..types import ChannelLayer, GroupLayer
from .bridge import Bridge
from .envelope import Batch, seal
from .health import LOST
from .link import LayerLink
from .names import check_entries, explain, names
from .redis_host import OnDone
from .redis_layer import RedisLayer, redis_layer
from .subscriptions import Subscriptions


class RedisSubscriptions(Subscriptions):
    """Joins and leaves any number of groups at once, without a task for each."""

    at_once = 1000

    def __init__(self, layer: RedisLayer, *callbacks: Any) -> None:
        super().__init__(cast(GroupLayer, layer), *callbacks)
        self._redis = layer

    async def _adjust_some(self, keys: tuple[str, ...], channel: str) -> None:
        """Adjust all; raises the first error at once, while the others go on."""
        all_done = asyncio.get_running_loop().create_future()
        left = len(keys)

        def on_done(key: str, is_wanted: bool, error: Exception | None) -> None:
            nonlocal left
            left -= 1
            if error is None:
                self._adjusted(key, is_wanted)
            if all_done.done():
                return
            if error is not None:
                all_done.set_exception(error)
            elif not left:
                all_done.set_result(None)

        for key in keys:
            self._change_one(key, channel, partial(on_done, key, key in self._wanted))
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            await all_done

    def _change_one(self, key: str, channel: str, on_done: OnDone) -> None:
        if key in self._wanted:
            if key not in self._joined:
                # What has no answer in time may be joined later: leaving must undo it.
                self._unclean.add(key)
                self._redis.join(key, channel, on_done)
                return
        elif key in self._joined or key in self._unclean:
            # Not joined from here on: a new member must wait for a new join.
            self._joined.discard(key)
            self._unclean.add(key)
            self._redis.part(key, channel, on_done)
            return
        on_done(None)

    def _adjusted(self, key: str, is_joined: bool) -> None:
        self._unclean.discard(key)
        if is_joined:
            self._joined.add(key)
        self._finish(key)


class RedisLink(LayerLink):
    """
    A link without a task for each message sent, and without one for those received: Redis'
    answers and messages are handled as they arrive.
    """

    subscriptions_class = RedisSubscriptions

    def __init__(self, redis: RedisLayer, *args: Any, **callbacks: Any) -> None:
        super().__init__(cast(ChannelLayer, redis), *args, **callbacks)
        #: Its connections to Redis.
        self.redis = redis
        redis.use()

    def post(self, batch: Batch, on_sent: Callable[[Exception | None], object]) -> None:
        """As :meth:`LayerLink.post`; ``on_sent`` may still be called after :meth:`stop`."""
        self.redis.publish(batch.key, seal(batch), partial(self._answered, on_sent))

    def _answered(self, on_sent: Callable[[Exception | None], object], reply: Any) -> None:
        if not isinstance(reply, Exception):
            on_sent(None)
            return
        if isinstance(reply, LOST):
            self._health.note_lost(reply)
        on_sent(explain(reply, self._layer))

    async def _listen(self) -> None:
        channel = await self._subscriptions.open()
        self.redis.listen(channel, self._receive, self._cut_off)

    def _cut_off(self, error: Exception) -> None:
        # Also during an outage: no group counts as joined before Redis confirms it again.
        self._subscriptions.rejoin()
        self._health.note_lost(error)

    def _receive(self, data: bytes) -> None:
        try:
            envelope = self.redis.deserialize(data)
        except Exception as error:
            self._on_bad_envelope(error)
        else:
            self._handle(envelope)

    def _heard(self) -> set[object]:
        return self.redis.heard()

    async def _can_send(self) -> bool:
        if not self._listens or all(map(self.is_joined, self._probes.keys)):
            return False  # that is what has just failed
        # A Redis that is silent altogether may go on, and then confirms what it was asked.
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._probes.send()
        except LOST:
            return False
        return True

    async def _cut_subscriptions(self, unchanged: set[object]) -> None:
        self.redis.close_subscribers(unchanged)

    async def _leave_groups(self) -> None:
        """:meth:`_close` leaves all at once."""

    async def _close(self, is_clean: bool) -> None:
        if self._subscriptions.channel is not None:
            self.redis.ignore(self._subscriptions.channel)
        self._subscriptions.close(is_clean, keeps=False)
        await self.redis.leave()


#: Group key -> the links of the hubs that have joined it; replaced, never changed.
_joined: "dict[str, tuple[ProcessLink, ...]]" = {}
_lock = threading.Lock()


def hand_over(batch: Batch) -> None:
    """Hand ``batch`` to the hubs that have joined its group. Any thread."""
    for link in _joined.get(batch.key, ()):
        link.take_soon(batch)


class ProcessLink:
    """
    Each hub gets the batches of a group in the order in which one hub sends them; none is
    lost or repeated. Belongs to the event loop that makes it.
    """

    #: Batches need not be checked for repetitions and losses.
    is_lossless = True
    is_available = True

    def __init__(self, on_batch: Callable[[Batch], None]) -> None:
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._keys: set[str] = set()

    def start(self) -> None:
        """It receives what it has joined."""

    def want(self, key: str) -> None:
        """Join a group, at once."""
        self._keys.add(key)
        with _lock:
            links = _joined.get(key, ())
            if self not in links:
                _joined[key] = (*links, self)

    def unwant(self, key: str) -> None:
        """Leave a group, at once."""
        self._keys.discard(key)
        with _lock:
            links = tuple(link for link in _joined.get(key, ()) if link is not self)
            if links:
                _joined[key] = links
            else:
                _joined.pop(key, None)

    def is_joined(self, key: str) -> bool:
        return key in self._keys

    async def wait_joined(self, key: str) -> bool:
        return key in self._keys

    def post(self, batch: Batch, on_sent: Callable[[Exception | None], object]) -> None:
        """Hand ``batch`` to the hubs; ``on_sent(None)`` before it returns."""
        for link in _joined.get(batch.key, ()):
            if link is self:
                self._on_batch(batch)
            else:
                link.take_soon(batch)
        on_sent(None)

    def take_soon(self, batch: Batch) -> None:
        """Receive ``batch`` in the next turn of the event loop. Any thread."""
        try:
            context = contextvars.Context()
            self._loop.call_soon_threadsafe(self._receive, batch, context=context)
        except RuntimeError:
            # Its event loop was closed, and its hub did not stop.
            self._leave_all()

    def _receive(self, batch: Batch) -> None:
        if batch.key in self._keys:
            self._on_batch(batch)

    async def send(self, batch: Batch) -> None:
        """:meth:`post`."""
        self.post(batch, lambda error: None)

    async def send_envelope(self, key: str, envelope: dict[str, Any]) -> None:
        """Nobody calls it: what is no batch goes from hub to hub by other ways."""

    async def wait_available(self, deadline: float) -> bool:
        return True

    def note_lost(self, error: Exception) -> None:
        """There is no outage inside a process."""

    async def round_trip(self) -> bool:
        return True

    async def stop(self) -> None:
        """Leave all groups."""
        self._leave_all()

    def _leave_all(self) -> None:
        for key in tuple(self._keys):
            self.unwant(key)


#: A connection to the channel layer, or its replacement where none is configured.
Link: TypeAlias = LayerLink | ProcessLink


def open_link(
    supervisor: Tasks,
    on_batch: Callable[[Batch], None],
    name_of: Callable[[str], str | None] = lambda key: None,
    **callbacks: Callable[..., None],
) -> Link:
    """
    A link to the channel layer of ``CHANNEL_LAYER``; a :class:`ProcessLink` where that leads
    to no other process. Groups of which ``name_of`` gives the name may be in ``CHANNELS_GROUPS``.

    ``callbacks`` are those of :class:`LayerLink`. Raises :exc:`ImproperlyConfigured` if a
    setting names what ``CHANNEL_LAYERS`` does not have, or Channels does not accept.
    """
    alias = conf.CHANNEL_LAYER
    layer = get_channel_layer(alias)
    if layer is None and alias != DEFAULT_CHANNEL_LAYER:
        raise ImproperlyConfigured(
            f"FILTERED_WEBSOCKET['CHANNEL_LAYER'] is {alias!r}, which CHANNEL_LAYERS does not have."
        )
    check_entries()
    if layer is None or not names().receives_any:
        return _open(layer, supervisor, on_batch, **callbacks)
    bridge = Bridge(layer, supervisor, name_of, on_batch, callbacks)
    link: Link = bridge.attach(_open(layer, supervisor, on_batch, **bridge.callbacks))
    return link


def _open(layer: Any, supervisor: Tasks, on_batch: Any, **callbacks: Any) -> Link:
    # Not a subclass, which may do more.
    if layer is None or type(layer) is InMemoryChannelLayer:
        return ProcessLink(on_batch)
    return link_to(layer, supervisor, on_batch, **callbacks)


def link_to(layer: ChannelLayer, *args: Any, **callbacks: Any) -> LayerLink:
    """A link to ``layer``, with the arguments of :class:`LayerLink`."""
    redis = redis_layer(layer)
    if redis is None:
        return LayerLink(layer, *args, **callbacks)
    return RedisLink(redis, *args, **callbacks)
