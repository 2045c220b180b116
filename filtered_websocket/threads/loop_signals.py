"""
Signal handlers that a server has added to its event loop (granian, hypercorn).

asyncio has no function that returns them, and calls them beside any handler of the module
``signal``. Private attributes of its loops are used here: without them, such a handler stays
where it is.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple


class LoopHandler(NamedTuple):
    """A callback that was added by ``loop.add_signal_handler``; called like ``signal``'s."""

    loop: asyncio.AbstractEventLoop
    callback: Callable[..., object]
    args: tuple[Any, ...]

    def __call__(self, number: int, frame: object) -> None:
        self.loop.call_soon_threadsafe(self.callback, *self.args)


def loop_handler(loop: asyncio.AbstractEventLoop, number: int) -> LoopHandler | None:
    """The handler of ``loop`` for a signal; None without one, and where it cannot be found."""
    handle = getattr(loop, "_signal_handlers", {}).get(number)
    callback = getattr(handle, "_callback", None)
    args = getattr(handle, "_args", None)
    if not callable(callback) or not isinstance(args, tuple):
        return None
    return LoopHandler(loop, callback, args)
