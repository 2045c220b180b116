"""
The channel layer without a hub: a listener on an event loop, and whether it can be reached.

::

    join a group -> its batches, as every process with members gets them
    send         -> a batch to a group

A hub with connections knows whether it can be reached: its probes detect an outage.
"""

import asyncio
import contextvars
import time
import weakref
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from channels.layers import get_channel_layer

from ..conf import conf, describe
from ..layer.envelope import Batch, Item, Stamper
from ..layer.health import Probes
from ..layer.links import Link, open_link
from ..layer.names import explain
from ..logs import LogThrottle, get_logger
from ..threads.tasks import Tasks
from ..types import ChannelLayer

logger = get_logger(__name__)

#: For so many seconds an answer is used again.
FRESH = 1.0

_throttle = LogThrottle()
#: The layer that was asked last, when its answer came (monotonic clock), and the answer.
_last: "tuple[ChannelLayer, float, bool] | None" = None
_asking: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[bool]]" = (
    weakref.WeakKeyDictionary()
)


def _ignore(*args: Any) -> None:
    """Of what nobody asked to be told."""


class Listener:
    """
    ``async with``: connected, through outages. Its callbacks run on the event loop.
    """

    def __init__(
        self,
        on_batch: Callable[[Batch], None],
        on_lost: Callable[[BaseException], None] = _ignore,
        on_back: Callable[[float], None] = _ignore,
        on_joined_late: Callable[[str], None] = _ignore,
    ) -> None:
        self._on_batch = on_batch
        self._callbacks: dict[str, Callable[..., None]] = {
            "on_lost": self._lost,
            "on_back": on_back,
            "on_joined_late": on_joined_late,
            "on_bad_envelope": _ignore,
        }
        self._on_lost = on_lost
        self._link: Link | None = None
        self._stamper = Stamper()
        #: Why the layer was lost last.
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._link = open_link(Tasks(Counter()), self._on_batch, **self._callbacks)
        self._link.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.link.stop()

    @property
    def link(self) -> Link:
        assert self._link is not None, "async with it first"
        return self._link

    def _lost(self, error: BaseException) -> None:
        self._error = error
        self._on_lost(error)

    @property
    def problem(self) -> str:
        """Why a group is not joined, as far as it is known."""
        words = "the channel layer (Redis) does not answer"
        return words if self._error is None else f"{words}: {describe(self._error)}"

    async def join(self, key: str) -> bool:
        """
        Have the batches of the group with this name on the layer. Whether the layer has
        confirmed it within ``LAYER_TIMEOUT``; if not, ``on_joined_late`` is called later.
        """
        self.link.want(key)
        return await self.link.wait_joined(key)

    def send(self, key: str, item: Item) -> "asyncio.Future[None]":
        """Send ``item`` to a group; the future has what the layer raised."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_sent(error: Exception | None) -> None:
            if sent.done():
                return
            if error is None:
                sent.set_result(None)
            else:
                sent.set_exception(error)

        self.link.post(self._stamper.stamp(key, [item]), on_sent)
        return sent


async def is_reachable() -> bool:
    """
    Whether a message can be sent through every host of the layer; True without a layer.

    Sends one that nobody receives, for at most ``LAYER_TIMEOUT``. Concurrent calls of one
    event loop share one attempt.
    """
    layer = get_channel_layer(conf.CHANNEL_LAYER)
    if layer is None:
        return True
    if _last is not None and _last[0] is layer and time.monotonic() - _last[1] < FRESH:
        return _last[2]
    loop = asyncio.get_running_loop()
    task = _asking.get(loop)
    if task is None or task.done():
        # Not in the context of the first of several requests.
        context = contextvars.Context()
        task = _asking[loop] = loop.create_task(_ask(layer), name="fws-ask", context=context)
    return await asyncio.shield(task)


async def _ask(layer: ChannelLayer) -> bool:
    global _last
    answer = True
    try:
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            await Probes(layer, lambda error: None).send()
    except Exception as error:
        answer = False
        if _throttle.note("lost"):
            logger.warning("cannot reach the channel layer (Redis): %r", explain(error, layer))
    _last = layer, time.monotonic(), answer
    return answer
