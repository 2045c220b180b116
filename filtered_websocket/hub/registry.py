"""The hubs of this process by event loop, and which of them have connections now."""

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING

from asgiref.sync import SyncToAsync

from ..pipelines.route import known_routes
from ..threads.tasks import runs_a_loop

if TYPE_CHECKING:
    from .hub import Hub

#: Event loop -> its hub, which may not have begun.
hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()
#: Hubs with connections, for publishers on other threads; replaced, never changed.
_active: "tuple[Hub, ...]" = ()
_lock = threading.Lock()
#: Whether a server has called this package's application in this process.
_serves = False


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


def note_serving() -> None:
    """A server calls this package's application: nobody may be connected yet."""
    global _serves
    _serves = True


def may_serve() -> bool:
    """
    Whether this process is likely to answer WebSockets, though nobody is connected now.

    Behind a router of the site's own, HTTP does not come through this package: a process
    with WebSocket routes that publishes under an event loop is taken for one that serves.
    """
    # asgiref's note, in a thread, of the loop that waits for it.
    notes = getattr(SyncToAsync, "threadlocal", None)
    loop = getattr(notes, "main_event_loop", None)
    # The note stays when that loop has ended.
    is_under_a_loop = runs_a_loop() or (loop is not None and loop.is_running())
    return _serves or (is_under_a_loop and bool(known_routes()))


def _forget() -> None:
    """After a fork: the hubs and their event loops belong to the parent process."""
    global _active, _serves
    _active = ()
    _serves = False
    hubs.clear()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)
