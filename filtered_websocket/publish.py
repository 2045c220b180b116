"""
Publish from anywhere in Django: a view, a task, a signal, a shell.

::

    the process serves WebSockets   -> its hub's queue, which sends
    this thread runs an event loop  -> the queue of a thread's hub, which sends
    else                            -> Redis, before publish returns (publishing.direct)
                                       or, on layers that take an event loop, that thread

The thread is made at its first publish, again after a fork; flushed when the process ends.
"""

import asyncio
import atexit
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
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
from .hub.registry import active_hub, may_serve, runs_a_loop
from .layer.envelope import CONTROL, Item, Stamper, check_group, group_key
from .layer.health import LOST
from .logs import LogThrottle, get_logger
from .publishing.direct import close_senders, sender_for
from .publishing.items import captures, new_item
from .threads.tasks import pause

logger = get_logger(__name__)

#: Counts of failures that raised no exception.
counts: Counter[str] = Counter()
_throttle = LogThrottle()


def publish(message: Any, group: str, *, exclude: Exclude = (), on_commit: bool = False) -> None:
    """
    Send ``message`` (str, bytes, dict or list) to every member of ``group``. At most once,
    in order per process and group.

    In a process that serves WebSockets, or on a thread that runs an event loop, it returns
    when the message is queued: what fails later is logged, counted, and reaches the
    consumer chain as ``publish_failed``. Elsewhere it returns when Redis has the message.

    Raises :exc:`~filtered_websocket.PublishError` for what is wrong with the call, and
    where it waits for Redis, when that has not answered within ``LAYER_TIMEOUT``: the
    message may have arrived. ``on_commit`` publishes when the transaction commits, and not
    at all if it does not; what fails then is logged and counted.
    """
    item = new_item(message, exclude=excluded_ids(exclude), text=text_event.get())
    send = partial(_hand_over, check_group(group), item)
    if on_commit:
        transaction.on_commit(partial(_send_committed, send))
    else:
        send()


def _send_committed(send: Callable[[], object]) -> None:
    """An error must not prevent other hooks: the transaction is committed already."""
    try:
        send()
    except Exception as error:
        counts["publish_failed"] += 1
        if _throttle.note("publish_failed"):
            total = counts["publish_failed"]
            logger.error("not published after a commit: %r (%d messages so far)", error, total)


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
    """Send ``item``, or queue it; with ``wait``, returns a future of a queued one."""
    if captures and active_hub() is None:
        for capture in captures:
            capture(group, item)
        return None
    hub = queueing_hub()
    if hub is None:
        send_now(group, item)
        return None
    hub.publish_queue.admit(item)
    if not wait:
        hub.call(hub.publish_queue.put_admitted, group, item)
        return None
    told: Future[None] = Future()
    hub.call(_put_and_tell, hub, group, item, told)
    return told


def queueing_hub() -> Hub | None:
    """
    The hub that queues what this thread publishes: one that serves, or the publisher
    thread's where this thread runs an event loop, which must not wait. None: :func:`send_now`.
    """
    hub = active_hub()
    if hub is not None and not (_publisher is not None and hub is _publisher.hub):
        return hub
    return _the_publisher().hub if runs_a_loop() and is_shared() else None


def send_now(group: str, item: Item) -> None:
    """Return when the channel layer has ``item``; PublishError after ``LAYER_TIMEOUT``."""
    layer = get_channel_layer(conf.CHANNEL_LAYER)
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        if group != CONTROL:
            _warn_not_received()
        return
    sender = sender_for(layer)
    if sender is not None:
        sender.send(group, item)
    else:
        _the_publisher().send(group, item)


def reaches_connections() -> bool:
    """Whether what this process publishes can reach a connection."""
    return active_hub() is not None or get_channel_layer(conf.CHANNEL_LAYER) is not None


def is_shared() -> bool:
    """Whether what this process publishes can reach connections of others."""
    try:
        layer = get_channel_layer(conf.CHANNEL_LAYER)
    except Exception:
        # The layer cannot be made; manage.py check reports that.
        return False
    return layer is not None and not isinstance(layer, InMemoryChannelLayer)


def any_hub() -> Hub:
    """A hub of this process that receives from the layer; it is made to, if none does yet."""
    hub = active_hub()
    if hub is None:
        hub = _the_publisher().hub
        hub.call(partial(hub.hold, quiet=True))
    return hub


def _put_and_tell(hub: Hub, group: str, item: Item, told: "Future[None]") -> None:
    done: asyncio.Future[None] = hub.loop.create_future()

    def tell(done: "asyncio.Future[None]") -> None:
        error = done.exception()
        if not told.set_running_or_notify_cancel():
            return
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(error)

    done.add_done_callback(tell)
    hub.publish_queue.put_admitted(group, item, done)


def _warn_not_received() -> None:
    # Not a mistake: a serving process has no receiver before its first connection.
    if may_serve() or counts["not_received"]:
        return
    counts["not_received"] += 1
    logger.warning(
        "published in a process that has no WebSocket connections and no channel layer to other"
        " processes: nobody receives it; configure a Redis channel layer (CHANNEL_LAYERS)"
    )


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
        # Numbers messages that are sent at once, without the queue.
        self._stamper = Stamper()
        self._turn = asyncio.Lock()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(lambda: self._ready.set_result(get_hub()))
        self._loop.run_forever()

    def send(self, group: str, item: Item) -> None:
        """As :meth:`DirectSender.send <filtered_websocket.publishing.direct.DirectSender.send>`."""
        sending = asyncio.run_coroutine_threadsafe(self._send(group, item), self._loop)
        try:
            sending.result()
        except (*LOST, TypeError, ValueError) as error:
            raise PublishError(
                f"the channel layer did not confirm the message: {type(error).__name__}: {error}"
            ) from error
        except BaseException:
            sending.cancel()
            raise

    async def _send(self, group: str, item: Item) -> None:
        failures = 0
        async with asyncio.timeout(conf.LAYER_TIMEOUT), self._turn:
            batch = self._stamper.stamp(group_key(group), [item])
            while True:
                try:
                    return await self.hub.link.send(batch)
                except LOST:
                    failures += 1
                    await asyncio.sleep(pause(failures))

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
        # Its time is limited by ``LAYER_TIMEOUT``, too.
        await self.hub.release()


_publisher: _Publisher | None = None
_lock = threading.Lock()
#: Publishers of the parent, kept after a fork: their end would close its connections.
_orphans: list[_Publisher | None] = []


def _the_publisher() -> _Publisher:
    global _publisher
    with _lock:
        if _publisher is None:
            _publisher = _Publisher()
        return _publisher


def _close() -> None:
    global _publisher
    close_senders()
    with _lock:
        publisher, _publisher = _publisher, None
    if publisher is not None:
        publisher.close()


def _forget() -> None:
    """After a fork the thread is the parent's; its loop must not be touched."""
    global _publisher, _lock
    counts.clear()
    _orphans.append(_publisher)
    _publisher = None
    _lock = threading.Lock()


atexit.register(_close)
# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)

__all__ = ["PublishError", "apublish", "publish"]
