"""
A hub's link to the channel layer: what it hears through its one mailbox, what it sends,
and whether the layer is there.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from typing import Any, TypeAlias

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from ..conf import conf
from ..logs import LogThrottle, get_logger
from ..types import ChannelLayer
from .envelope import VERSION, BadEnvelope, Batch, seal, unseal
from .health import LOST, Health, pause
from .probes import PROBE, Probes
from .subscriptions import Subscriptions

logger = get_logger(__name__)

#: Pause before a task that swallowed its cancellation is cancelled again, seconds.
CANCEL_AGAIN = 0.5
#: So many probes in a row that were sent and not heard end the connections that listen.
MAX_UNHEARD = 2


class LocalLink:
    """Stands in for a layer where there is none: this loop is the whole world."""

    def __init__(self, on_batch: Callable[[Batch], None]) -> None:
        self._on_batch = on_batch

    def start(self) -> None:
        """Nothing to listen to."""

    def want(self, key: str) -> None:
        """Always joined."""

    def unwant(self, key: str) -> None:
        """Never joined elsewhere."""

    def is_joined(self, key: str) -> bool:
        return True

    async def joined(self, key: str) -> bool:
        return True

    async def send(self, batch: Batch) -> None:
        # Nobody else gets to run between put and flush without this: what one
        # event publishes to a group should still become one batch.
        await asyncio.sleep(0)
        self._on_batch(batch)

    async def there(self, deadline: float) -> bool:
        return True

    async def round_trip(self) -> bool:
        return True

    async def stop(self) -> None:
        """Nothing to stop."""


class LayerLink:
    """
    Guarantees: a group wanted is joined as soon as the layer allows, again after every
    loss of the layer, and again before the layer forgets it; every call to the layer
    ends within ``LAYER_TIMEOUT``; no error of the layer, or of who is told, ends the
    listener; a layer that is away is noticed, by who only listens too.
    """

    def __init__(
        self,
        layer: ChannelLayer,
        on_batch: Callable[[Batch], None],
        on_lost: Callable[[BaseException], None],
        on_back: Callable[[float], None],
        on_bad: Callable[[Exception], None],
        on_late: Callable[[str], None],
    ) -> None:
        self._layer = layer
        self._on_batch = on_batch
        self._on_bad = on_bad
        self._throttle = LogThrottle()
        self._listens = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._health = Health(self._probe, self._join_again, on_lost, on_back, self._spawn)
        self._probes = Probes(layer, self._health.lose)
        self._subscriptions = Subscriptions(
            layer, on_late, self._health.lose, self._probes.watch_connections
        )
        #: How many envelopes came, and how many probes in a row were sent and not heard.
        self._arrived = self._unheard = 0
        self.want = self._subscriptions.want
        self.unwant = self._subscriptions.unwant
        self.is_joined = self._subscriptions.is_joined

    # What the hub asks for

    def start(self) -> None:
        """Listen, until :meth:`stop`."""
        self._listens = True
        for key in self._probes.keys:
            self.want(key)
        self._spawn(self._listen(), "fws-listen")
        self._spawn(self._subscriptions.keep(), "fws-subscribe")
        self._spawn(self._health.watch(), "fws-heartbeat")

    async def joined(self, key: str) -> bool:
        """Wait for ``key``'s subscription, ``LAYER_TIMEOUT`` at most; whether it stands."""
        if await self._subscriptions.stands(key):
            return True
        self._subscriptions.tell_when_joined(key)
        return False

    async def send(self, batch: Batch) -> None:
        """
        One ``group_send``. Raises what the layer raises, TimeoutError included; where that
        is one of ``LOST`` the batch may have arrived, and may be sent again, as it is,
        when the layer is :meth:`there`.
        """
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._layer.group_send(batch.key, seal(batch))
        except LOST as error:
            self._health.lose(error)
            raise

    async def there(self, deadline: float) -> bool:
        """Wait for the layer, until ``deadline`` on the monotonic clock; whether it is there."""
        return await self._health.over(deadline)

    async def round_trip(self) -> bool:
        """
        Whether a message to ourselves comes back through our own subscription.

        What was published before by this hub has then been delivered here, on a
        layer that keeps the order.
        """
        return await self._probe() is None

    async def stop(self) -> None:
        """
        Leave the layer; every task has ended when this returns, and goes on to do so
        where the caller is cancelled.
        """
        await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        # A layer keeps memberships although their reader goes: the task that made them
        # takes them back, for as long as one call may last.
        self._listens = False
        self._subscriptions.unsubscribe_all()
        is_clean = not self._health.away
        self._health.end()
        if self._subscriptions.channel is not None and self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(conf.LAYER_TIMEOUT):
                    await self._subscriptions.adjusted.wait()
        while pending := set(self._tasks):
            # More than once: until Python 3.12 asyncio.wait_for, which redis-py uses, may
            # swallow a cancellation.
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=CANCEL_AGAIN)
        self._subscriptions.close(is_clean)

    # How it is done

    def _spawn(self, coroutine: Any, name: str) -> None:
        # In a context of its own, not that of whoever came first.
        context = contextvars.Context()
        task = asyncio.get_running_loop().create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                channel = self._subscriptions.channel or await self._subscriptions.open()
                envelope = await self._layer.receive(channel)
            except LOST as error:
                self._health.lose(error)
                failures += 1
                await asyncio.sleep(pause(failures))
            except Exception as error:
                # Bytes that do not deserialise: one bad message, whoever sent it.
                self._on_bad(error)
                failures += 1
                await asyncio.sleep(0 if failures == 1 else pause(failures))
            else:
                failures = 0
                self._arrived += 1
                self._open(envelope)
                # A layer with more to read does not wait; sockets must be written to.
                await asyncio.sleep(0)

    def _open(self, envelope: Any) -> None:
        try:
            if isinstance(envelope, dict) and envelope.get("v") == VERSION and PROBE in envelope:
                self._probes.note(envelope[PROBE])
                return
            batch = unseal(envelope)
        except BadEnvelope as error:
            self._on_bad(error)
            return
        try:
            self._on_batch(batch)
        except Exception:
            # A flaw of ours, with this batch. The next one is to arrive.
            if self._throttle.note("batch"):
                logger.exception("cannot hand on what the channel layer brought")

    async def _probe(self) -> Exception | None:
        """Why the layer does not answer, or None. Who does not listen can only send."""
        arrived, is_sent = self._arrived, False
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                if self._listens:
                    for key in self._probes.keys:
                        await self._subscriptions.stands(key)
                await self._probes.send()
                is_sent = True
                if self._listens:
                    await self._probes.returned()
        except Exception as error:
            is_deaf = is_sent and arrived == self._arrived
            self._unheard = self._unheard + 1 if is_deaf else 0
            if self._unheard >= MAX_UNHEARD:
                self._unheard = 0
                await self._probes.cut()
            return error
        self._unheard = 0
        return None

    async def _join_again(self, at_once: bool) -> None:
        """
        Join every group anew, where that is not under way, and wait a while for it: what
        is published before reaches nobody here.
        """
        if not self._listens:
            return
        if at_once or self._subscriptions.adjusted.is_set():
            self._subscriptions.rejoin()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._subscriptions.adjusted.wait()


#: How a hub reaches other processes, or that there are none.
Link: TypeAlias = LayerLink | LocalLink


def open_link(on_batch: Callable[[Batch], None], **callbacks: Callable[..., None]) -> Link:
    """
    A link to the channel layer of ``CHANNEL_LAYER``, or a :class:`LocalLink` without one.

    ``callbacks`` are those of :class:`LayerLink`. :exc:`ImproperlyConfigured` where a site
    names a layer that it does not have.
    """
    alias = conf.CHANNEL_LAYER
    layer = get_channel_layer(alias)
    if layer is not None:
        return LayerLink(layer, on_batch, **callbacks)
    if alias != DEFAULT_CHANNEL_LAYER:
        raise ImproperlyConfigured(
            f"FILTERED_WEBSOCKET['CHANNEL_LAYER'] is {alias!r}, which CHANNEL_LAYERS does not have."
        )
    return LocalLink(on_batch)
