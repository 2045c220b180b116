"""
Asks whether the channel layer can be reached, for a process without connections.

A hub with connections knows it: its probes detect an outage.
"""

import asyncio
import contextvars
import time
import weakref

from channels.layers import get_channel_layer

from ..conf import conf
from ..layer.health import Probes
from ..layer.names import explain
from ..logs import LogThrottle, get_logger
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
