"""
How much of the event loop one connection may have, or many in the same moment.

A close with all that follows takes some 0.2 ms. Where a thousand readers that are too slow
pass their bound with one message, all others would wait for all of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

#: Whoever has sent more than was wanted, or has had its turn, waits so many turns of the
#: event loop: a message of somebody else takes about as many from its socket through the
#: layer to all members.
REST = 16
#: So many are called together, and after how many seconds the next.
FEW, PAUSE = 4, 0.004

Waiting = deque[Callable[[], None]]
_waiting: "WeakKeyDictionary[asyncio.AbstractEventLoop, Waiting]" = WeakKeyDictionary()


def call_in_turn(function: Callable[[], None]) -> None:
    """Have ``function()``, which must not raise, called by the running loop: in its turn."""
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, deque())
    waiting.append(function)
    if len(waiting) == 1:
        loop.call_soon(_call_few, loop, waiting)


def _call_few(loop: asyncio.AbstractEventLoop, waiting: Waiting) -> None:
    for _ in range(min(FEW, len(waiting))):
        waiting[0]()
        # Only now: who comes meanwhile is not the first.
        waiting.popleft()
    if waiting:
        loop.call_later(PAUSE, _call_few, loop, waiting)
