"""
What waits, and what has to: work for one connection, or for many at once, is split up.

To close a connection takes about 0.2 ms. Where one message takes a thousand slow readers
over their limit, closing them all at once would delay all other connections.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

from ..codecs.frames import Frame

#: A connection that has sent more than its limit, or has used its share of time, waits this
#: many iterations of the event loop: a message of another client takes about as many from
#: its socket through the layer to all members.
YIELD_ITERATIONS = 16
#: How many functions are called together, and the seconds until the next ones.
BATCH_SIZE, BATCH_INTERVAL = 4, 0.004

#: A frame, or None for the close frame; and the future of who awaits it.
Waiting = deque[tuple[Frame | None, "asyncio.Future[None] | None"]]
#: For all that have nothing to send: an empty deque takes 0.6 KiB. Never changed.
NONE_WAITING: Waiting = deque(maxlen=0)

Calls = deque[Callable[[], None]]
_waiting: "WeakKeyDictionary[asyncio.AbstractEventLoop, Calls]" = WeakKeyDictionary()


def call_in_batches(function: Callable[[], None]) -> None:
    """Call ``function()`` soon, in order, a few at a time. It must not raise."""
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, deque())
    waiting.append(function)
    if len(waiting) == 1:
        loop.call_soon(_call_batch, loop, waiting)


def _call_batch(loop: asyncio.AbstractEventLoop, waiting: Calls) -> None:
    for _ in range(min(BATCH_SIZE, len(waiting))):
        waiting[0]()
        # Removed after the call: what it adds must not start a second batch.
        waiting.popleft()
    if waiting:
        loop.call_later(BATCH_INTERVAL, _call_batch, loop, waiting)


def settle(done: "asyncio.Future[None] | None") -> None:
    """Resolve ``done``, unless it is resolved or cancelled."""
    if done is not None and not done.done():
        done.set_result(None)
