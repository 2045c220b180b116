"""
Publish from anywhere in Django: a view, a task, a signal, a shell.

In a process that serves WebSockets the message goes through its hub. Elsewhere it
goes through one daemon thread with one event loop, made at the first publish (again
after a fork) and flushed when the process ends: never a loop per call.
"""

import asyncio
import atexit
import os
import socket
import threading
from concurrent.futures import Future
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.db import transaction

from .codecs.frames import text_event
from .conf import conf
from .connections.connection import Exclude, excluded_ids
from .exceptions import PublishError
from .hub.hub import Hub, get_hub
from .hub.registry import active_hub
from .layer.envelope import Item, check_group
from .layer.publish_queue import captures, new_item
from .logs import get_logger

logger = get_logger(__name__)


def publish(message: Any, group: str, *, exclude: Exclude = (), on_commit: bool = False) -> None:
    """
    Send ``message`` (str, bytes, dict or list) to every member of ``group``.

    Returns when it is queued. At most once, in order per process and group. Raises
    :exc:`~filtered_websocket.PublishError` for what is wrong with the call; what fails
    later is logged, counted, and reaches the consumer chain as ``publish_failed``.
    ``on_commit`` publishes when the transaction commits, and not at all if it does not.
    """
    item = new_item(message, exclude=excluded_ids(exclude), text=text_event.get())
    send = partial(_hand_over, check_group(group), item)
    if on_commit:
        transaction.on_commit(send)
    else:
        send()


async def apublish(
    message: Any, group: str, *, exclude: Exclude = (), on_commit: bool = False
) -> None:
    """
    :func:`publish`, returning when the channel layer has taken the message.

    Raises PublishError where it did not; it may have arrived all the same. With
    ``on_commit`` it returns when the publish is registered with the transaction of
    Django's thread for async code.
    """
    if on_commit:
        await sync_to_async(publish)(message, group, exclude=exclude, on_commit=True)
        return
    item = new_item(message, exclude=excluded_ids(exclude), text=text_event.get())
    told = _hand_over(check_group(group), item, wait=True)
    if told is not None:
        await asyncio.wrap_future(told)


def _hand_over(group: str, item: Item, wait: bool = False) -> "Future[None] | None":
    """Give ``item`` to this process's hub; with ``wait``, how to know it has left."""
    hub = active_hub()
    if hub is None:
        if captures:
            for capture in captures:
                capture(group, item)
            return None
        hub = _thread_hub()
        _warn_if_unheard(hub)
    hub.publish_queue.admit()
    if not wait:
        hub.call(hub.publish_queue.put_admitted, group, item)
        return None
    told: Future[None] = Future()
    hub.call(_put_and_tell, hub, group, item, told)
    return told


def is_heard() -> bool:
    """Whether what this process publishes can reach a connection."""
    return active_hub() is not None or get_channel_layer(conf.CHANNEL_LAYER) is not None


def is_shared() -> bool:
    """Whether what this process publishes can reach connections of others."""
    try:
        layer = get_channel_layer(conf.CHANNEL_LAYER)
    except Exception:
        # One that cannot be made, which manage.py check says.
        return False
    return layer is not None and not isinstance(layer, InMemoryChannelLayer)


def own_hub() -> Hub:
    """This process's hub, made where there is none."""
    return active_hub() or _thread_hub()


def any_hub() -> Hub:
    """A hub of this process that hears the layer, made to where none does yet."""
    hub = active_hub()
    if hub is None:
        hub = _thread_hub()
        hub.call(partial(hub.hold, quiet=True))
    return hub


def _put_and_tell(hub: Hub, group: str, item: Item, told: "Future[None]") -> None:
    done: asyncio.Future[None] = hub.loop.create_future()

    def tell(done: "asyncio.Future[None]") -> None:
        if told.set_running_or_notify_cancel():
            error = done.exception()
            if error is None:
                told.set_result(None)
            else:
                told.set_exception(error)

    done.add_done_callback(tell)
    hub.publish_queue.put_admitted(group, item, done)


def _warn_if_unheard(hub: Hub) -> None:
    # Not hub.link: that is for the hub's own thread to make.
    if get_channel_layer(conf.CHANNEL_LAYER) is None and not hub.counts["unheard"]:
        logger.warning(
            "published in a process without WebSockets and without CHANNEL_LAYERS:"
            " nobody can hear it; configure a Redis channel layer"
        )
        hub.counts["unheard"] += 1


class _Loop(asyncio.SelectorEventLoop):
    """Resolves names in its own thread: at exit, Python has closed the executor."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return socket.getaddrinfo(*args, **kwargs)


class _Publisher:
    """The daemon thread of a process that serves no WebSockets."""

    def __init__(self) -> None:
        self._loop = _Loop()
        self._ready: Future[Hub] = Future()
        self._thread = threading.Thread(target=self._run, name="fws-publish", daemon=True)
        self._thread.start()
        self.hub = self._ready.result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(lambda: self._ready.set_result(get_hub()))
        self._loop.run_forever()

    def close(self) -> None:
        """Send what is queued, ``LAYER_TIMEOUT`` at most, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        # channels_redis closes its connections when the loop is closed.
        self._loop.close()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self.hub.publish_queue.sent()
        except TimeoutError:
            logger.error("%d published messages were not sent at exit", self.hub.publish_queue.size)
            await self.hub.publish_queue.give_up()
        # Which takes its time from the layer's, too.
        await self.hub.release()


_publisher: _Publisher | None = None
_lock = threading.Lock()
#: Kept after a fork, so that nothing closes what the parent uses.
_orphans: list[_Publisher | None] = []


def _thread_hub() -> Hub:
    global _publisher
    with _lock:
        if _publisher is None:
            _publisher = _Publisher()
        return _publisher.hub


def _close() -> None:
    global _publisher
    with _lock:
        publisher, _publisher = _publisher, None
    if publisher is not None:
        publisher.close()


def _forget() -> None:
    """After a fork the thread is the parent's; its loop must not be touched."""
    global _publisher, _lock
    _orphans.append(_publisher)
    _publisher = None
    _lock = threading.Lock()


atexit.register(_close)
os.register_at_fork(after_in_child=_forget)

__all__ = ["PublishError", "apublish", "publish"]
