"""The hub's connection to the channel layer: receives, sends, detects outages."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ..conf import conf
from ..exceptions import ends_the_task
from ..logs import LogThrottle, get_logger
from ..threads.tasks import Tasks, end_tasks, pause
from ..types import ChannelLayer
from .envelope import EVENTS, VERSION, Batch, seal, unseal
from .health import LOST, PROBE, LayerHealth, Probes
from .names import asks_for_old_name, explain, stop_watching, warn_of_old_name, watch
from .subscriptions import Subscriptions

logger = get_logger(__name__)


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
    subscriptions_class: Callable[..., Subscriptions] = Subscriptions

    def __init__(
        self,
        layer: ChannelLayer,
        supervisor: Tasks,
        on_batch: Callable[[Batch], None],
        on_lost: Callable[[BaseException], None],
        on_back: Callable[[float], None],
        on_bad_envelope: Callable[[Exception], None],
        on_joined_late: Callable[[str], None],
        on_events: Callable[[Any], object] = lambda envelope: None,
    ) -> None:
        self._layer = layer
        self._supervisor = supervisor
        self._on_batch = on_batch
        self._on_bad_envelope = on_bad_envelope
        self._on_events = on_events
        self._throttle = LogThrottle()
        self._listens = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_lost = on_lost
        self._on_back = on_back
        self._health = LayerHealth(
            self._probe, self._rejoin_groups, self._report_lost, self._report_back, self._start
        )
        self._probes = Probes(layer, self._health.note_lost)
        self._subscriptions = self.subscriptions_class(
            layer, on_joined_late, self._health.note_lost, self._probes.watch_connections
        )
        #: Envelopes received.
        self._arrived = 0
        #: What of :meth:`_heard` the last probe was sent for, and did not change.
        self._unchanged: set[object] = set()
        self.want = self._subscriptions.want
        self.unwant = self._subscriptions.unwant
        self.is_joined = self._subscriptions.is_joined
        self.wait_also = self._health.wait_also

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
        self._start(partial(self._post, batch, on_sent), "fws-send")

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
        await self.send_envelope(batch.key, seal(batch))

    async def send_envelope(self, key: str, envelope: dict[str, Any]) -> None:
        """As :meth:`send`, for what is no batch."""
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self._layer.group_send(key, envelope)
        except LOST as error:
            self._health.note_lost(error)
            raise explain(error, self._layer) from error.__cause__

    async def wait_available(self, deadline: float) -> bool:
        """Wait until ``deadline`` (monotonic clock) at most; whether the layer is available."""
        return await self._health.wait_available(deadline)

    def note_lost(self, error: Exception) -> None:
        """Something else than the layer's own calls has seen an outage."""
        self._health.note_lost(error)

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
        await self._leave_groups()
        while pending := set(self._tasks):
            # A task may have started another one.
            await end_tasks(pending)
        await self._close(is_clean)

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

    async def _close(self, is_clean: bool) -> None:
        """The tasks have ended; ``is_clean`` where nothing went wrong before."""
        self._subscriptions.close(is_clean)

    # Receiving and probing

    def _report_lost(self, error: Exception) -> None:
        self._on_lost(explain(error, self._layer))

    def _report_back(self, seconds: float) -> None:
        # Before the callback, which may raise. What these miss from here on is told by nothing.
        self._subscriptions.report_interrupted(self._probes.keys)
        self._on_back(seconds)

    def _start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = self._supervisor.start(run, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
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
                # Bytes that cannot be deserialised are skipped. No channel: a wrong address.
                is_open = self._subscriptions.channel is not None
                (self._on_bad_envelope if is_open else self._health.note_lost)(error)
                failures += 1
                await asyncio.sleep(0 if failures == 1 else pause(failures))
            else:
                failures = 0
                self._arrived += 1
                self._handle(envelope)
                # A layer that has more to read does not yield; sockets must be written to.
                await asyncio.sleep(0)

    def _handle(self, envelope: Any) -> None:
        try:
            if isinstance(envelope, dict) and "type" not in envelope:
                if envelope.get("v") == VERSION and PROBE in envelope:
                    self._probes.handle(envelope[PROBE])
                    return
                if EVENTS in envelope:
                    self._on_events(envelope)
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
        heard, is_sent = self._heard(), False
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
            is_sent = is_sent or await self._can_send()
            unchanged = heard & self._heard() if is_sent else set()
            twice = unchanged & self._unchanged
            self._unchanged = unchanged - twice
            if twice:
                await self._cut_subscriptions(twice)
            return error
        self._unchanged = set()
        return None

    def _heard(self) -> set[object]:
        """For each connection for subscriptions what changes when anything arrives there."""
        return {self._arrived}

    async def _can_send(self) -> bool:
        """Whether the layer takes messages, although it does not confirm subscriptions."""
        return False

    async def _cut_subscriptions(self, unchanged: set[object]) -> None:
        """
        Nothing comes through these of :meth:`_heard` any more: close their connections, and
        have others.
        """
        await self._probes.close_connections()

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
