"""The hub's connection to the channel layer: receives, sends, detects outages."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from ..conf import conf
from ..exceptions import ends_the_task
from ..logs import LogThrottle, get_logger
from ..threads.tasks import Tasks, end_tasks, pause
from ..types import ChannelLayer, GroupLayer
from .envelope import VERSION, Batch, seal, unseal
from .health import LOST, LayerHealth
from .names import asks_for_old_name, explain, stop_watching, warn_of_old_name, watch
from .probes import PROBE, Probes
from .process import ProcessLink
from .redis_layer import redis_layer
from .subscriptions import Subscriptions

logger = get_logger(__name__)

#: After this many probes in a row without an answer, subscriber connections are closed.
MAX_UNANSWERED = 2


class LayerLink:
    """
    Guarantees: a wanted group is joined as soon as the layer accepts it, again after every
    outage, and again before the layer's own expiry removes it. Every call to the layer
    ends within ``LAYER_TIMEOUT``. No error of the layer or of a callback ends the listener.
    An outage is detected by a process that only receives, too. The tasks are started again
    if they fail.
    """

    #: Batches may be lost or repeated: their numbers tell.
    is_lossless = False

    def __init__(
        self,
        layer: ChannelLayer,
        supervisor: Tasks,
        on_batch: Callable[[Batch], None],
        on_lost: Callable[[BaseException], None],
        on_back: Callable[[float], None],
        on_bad_envelope: Callable[[Exception], None],
        on_joined_late: Callable[[str], None],
    ) -> None:
        #: The same layer with connections of our own, where that is possible.
        self._redis = redis_layer(layer)
        if self._redis is not None:
            self._redis.use()
        self._layer = layer
        self._supervisor = supervisor
        self._on_batch = on_batch
        self._on_bad_envelope = on_bad_envelope
        self._throttle = LogThrottle()
        self._listens = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_lost = on_lost
        self._health = LayerHealth(
            self._probe, self._rejoin_groups, self._report_lost, on_back, self._start
        )
        self._groups: GroupLayer = self._redis or layer
        self._probes = Probes(self._groups, self._health.note_lost)
        self._subscriptions = Subscriptions(
            self._groups, on_joined_late, self._health.note_lost, self._probes.watch_connections
        )
        #: Envelopes received, and probes in a row that were sent without an answer.
        self._arrived = self._unanswered = 0
        self.want = self._subscriptions.want
        self.unwant = self._subscriptions.unwant
        self.is_joined = self._subscriptions.is_joined

    # Called by the hub

    def start(self) -> None:
        """Receive until :meth:`stop`."""
        self._listens = True
        watch(self._health)
        for key in self._probes.keys:
            self.want(key)
        self._start(self._listen, "fws-listen")
        self._start(self._subscriptions.run, "fws-subscribe")
        self._start(self._health.watch, "fws-heartbeat")
        if asks_for_old_name(self._layer):
            self._start(partial(warn_of_old_name, self._layer), "fws-old-name")

    async def wait_joined(self, key: str) -> bool:
        """
        Wait at most ``LAYER_TIMEOUT`` until the layer has subscribed to ``key``.

        Returns whether it has. If not, ``on_joined_late`` is called once it has.
        """
        if await self._subscriptions.wait_joined(key):
            return True
        self._subscriptions.report_when_joined(key)
        return False

    @property
    def is_available(self) -> bool:
        """Whether no outage is known."""
        return not self._health.is_lost

    def post(self, batch: Batch, on_sent: Callable[[Exception | None], object]) -> None:
        """
        :meth:`send` later. ``on_sent`` is called once, within ``LAYER_TIMEOUT``, with the
        error or None; not after :meth:`stop`.
        """
        if self._redis is None:
            self._start(partial(self._post, batch, on_sent), "fws-send")
        else:
            self._redis.publish(batch.key, seal(batch), partial(self._posted, on_sent))

    def _posted(self, on_sent: Callable[[Exception | None], object], reply: Any) -> None:
        """Redis has answered, or it is known why not."""
        if not isinstance(reply, Exception):
            on_sent(None)
            return
        if isinstance(reply, LOST):
            self._health.note_lost(reply)
        on_sent(explain(reply, self._layer))

    async def _post(self, batch: Batch, on_sent: Callable[[Exception | None], object]) -> None:
        failure: Exception | None = None
        try:
            await self.send(batch)
        except BaseException as error:
            if ends_the_task(error):
                raise
            # A cancellation of something that the layer awaits is a failure, too.
            failure = error if isinstance(error, Exception) else ConnectionError(repr(error))
        on_sent(failure)

    async def send(self, batch: Batch) -> None:
        """
        One ``group_send``. Raises what the layer raises, or TimeoutError. After an error
        of ``LOST`` the batch may have arrived: send it again unchanged once
        :meth:`wait_available` returns True.
        """
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._groups.group_send(batch.key, seal(batch))
        except LOST as error:
            self._health.note_lost(error)
            raise explain(error, self._layer) from error.__cause__

    async def wait_available(self, deadline: float) -> bool:
        """
        Wait until the layer is available, or until ``deadline`` on the monotonic clock.

        Returns whether it is.
        """
        return await self._health.wait_available(deadline)

    async def round_trip(self) -> bool:
        """
        Send this hub a message through the layer; returns whether it arrived.

        If so, what this hub published before has been delivered here as well, provided
        the layer keeps the order.
        """
        return await self._probe() is None

    async def stop(self) -> None:
        """
        Unsubscribe from everything and end every task, before this returns. It continues
        when the caller is cancelled.
        """
        await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        if self._listens:
            stop_watching(self._health)
        self._listens = False
        is_clean = not self._health.is_lost
        self._health.stop()
        if self._redis is None:
            await self._leave_groups()
        while pending := set(self._tasks):
            # A task may have started another one.
            await end_tasks(pending)
        if self._redis is None:
            self._subscriptions.close(is_clean)
            return
        if self._subscriptions.channel is not None:
            self._redis.ignore(self._subscriptions.channel)
        self._subscriptions.close(is_clean, keeps=False)
        await self._redis.leave()

    async def _leave_groups(self) -> None:
        """
        The layer would keep our group memberships: the subscribing task removes them, for
        at most the time of one call.
        """
        self._subscriptions.unsubscribe_all()
        if self._subscriptions.channel is not None and self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(conf.LAYER_TIMEOUT):
                    await self._subscriptions.up_to_date.wait()

    # Receiving and probing

    def _report_lost(self, error: Exception) -> None:
        self._on_lost(explain(error, self._layer))

    def _start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = self._supervisor.start(run, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        if self._redis is not None:
            channel = await self._subscriptions.open()
            receive = partial(self._receive, self._redis.deserialize)
            self._redis.listen(channel, receive, self._health.note_lost)
            return
        failures = 0
        while True:
            try:
                channel = self._subscriptions.channel or await self._subscriptions.open()
                envelope = await self._layer.receive(channel)
            except LOST as error:
                self._health.note_lost(error)
                failures += 1
                await asyncio.sleep(pause(failures))
            except Exception as error:
                # Bytes that the layer cannot deserialise: skip this one message.
                self._on_bad_envelope(error)
                failures += 1
                await asyncio.sleep(0 if failures == 1 else pause(failures))
            else:
                failures = 0
                self._arrived += 1
                self._handle(envelope)
                # A layer that has more to read does not yield; sockets must be written to.
                await asyncio.sleep(0)

    def _receive(self, deserialize: Callable[[bytes], Any], data: bytes) -> None:
        """A message of Redis has arrived, through a connection of our own."""
        try:
            envelope = deserialize(data)
        except Exception as error:
            self._on_bad_envelope(error)
        else:
            self._arrived += 1
            self._handle(envelope)

    def _handle(self, envelope: Any) -> None:
        try:
            if isinstance(envelope, dict) and envelope.get("v") == VERSION and PROBE in envelope:
                self._probes.handle(envelope[PROBE])
                return
            batch = unseal(envelope)
        except Exception as error:
            # Nearly always BadEnvelope, but a message of a stranger must not end the task.
            self._on_bad_envelope(error)
            return
        try:
            self._on_batch(batch)
        except Exception:
            # A bug in this package must cost this batch only.
            if self._throttle.note("batch"):
                logger.exception("cannot deliver a batch from the channel layer")

    async def _probe(self) -> Exception | None:
        """
        Send probes and wait for them: None if all returned, else the error.

        A link that does not receive (a publisher) only checks that it can send.
        """
        arrived, is_sent = self._arrived, False
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                if self._listens:
                    for key in self._probes.keys:
                        await self._subscriptions.wait_joined(key)
                await self._probes.send()
                is_sent = True
                if self._listens:
                    await self._probes.wait_returned()
        except Exception as error:
            got_nothing = is_sent and arrived == self._arrived
            self._unanswered = self._unanswered + 1 if got_nothing else 0
            if self._unanswered >= MAX_UNANSWERED:
                self._unanswered = 0
                if self._redis is not None:
                    self._redis.close_subscribers()
                await self._probes.close_connections()
            return error
        self._unanswered = 0
        return None

    async def _rejoin_groups(self, at_once: bool) -> None:
        """
        Join every group again, unless that is in progress, and wait at most
        ``LAYER_TIMEOUT`` for it: what is published earlier is missed here.
        """
        if not self._listens:
            return
        if at_once or self._subscriptions.up_to_date.is_set():
            self._subscriptions.rejoin()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._subscriptions.up_to_date.wait()


#: A connection to the channel layer, or its replacement where none is configured.
Link: TypeAlias = LayerLink | ProcessLink


def open_link(
    supervisor: Tasks, on_batch: Callable[[Batch], None], **callbacks: Callable[..., None]
) -> Link:
    """
    A link to the channel layer of ``CHANNEL_LAYER``; a :class:`ProcessLink` where that leads
    to no other process.

    ``callbacks`` are those of :class:`LayerLink`. Raises :exc:`ImproperlyConfigured` if the
    setting names a layer that ``CHANNEL_LAYERS`` does not have.
    """
    alias = conf.CHANNEL_LAYER
    layer = get_channel_layer(alias)
    # Not a subclass, which may do more.
    if layer is not None and type(layer) is not InMemoryChannelLayer:
        return LayerLink(layer, supervisor, on_batch, **callbacks)
    if layer is None and alias != DEFAULT_CHANNEL_LAYER:
        raise ImproperlyConfigured(
            f"FILTERED_WEBSOCKET['CHANNEL_LAYER'] is {alias!r}, which CHANNEL_LAYERS does not have."
        )
    return ProcessLink(on_batch)
