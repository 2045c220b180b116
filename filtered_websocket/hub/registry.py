"""The hubs of this process by event loop, and which of them have connections now."""

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hub import Hub

#: Event loop -> its hub, which may not have begun.
hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()
#: Hubs with connections, for publishers on other threads; replaced, never changed.
_active: "tuple[Hub, ...]" = ()
_lock = threading.Lock()


def announce(hub: "Hub") -> None:
    """``hub`` has connections from now on."""
    global _active
    with _lock:
        _active = (*_active, hub)


def withdraw(hub: "Hub") -> None:
    """``hub`` ends: :func:`active_hub` does not return it any more."""
    global _active
    with _lock:
        _active = tuple(other for other in _active if other is not hub)
    # A hub refers to its loop: the entry of the weak dict would never be removed.
    hubs.pop(hub.loop, None)


def active_hub() -> "Hub | None":
    """A hub that has connections, preferably that of the running loop. Any thread."""
    active = _active
    try:
        mine = hubs.get(asyncio.get_running_loop())
    except RuntimeError:
        mine = None
    if mine in active:
        return mine
    return active[-1] if active else None


def _forget() -> None:
    """After a fork: the hubs and their event loops belong to the parent process."""
    global _active
    _active = ()
    hubs.clear()


os.register_at_fork(after_in_child=_forget)
