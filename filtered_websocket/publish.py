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
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias

from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.db import transaction

from . import tracing
from .auth.tenants import group_of_user
from .codecs.frames import text_event
from .conf import conf
from .connections.connection import Exclude, excluded_ids
from .exceptions import PublishError
from .history.base import Position
from .hub.hub import Hub, get_hub
from .hub.registry import active_hub, may_serve
from .layer.envelope import CONTROL, Item, check_group, group_key
from .logs import LogThrottle, get_logger
from .observe import HubCounts
from .pipelines.keeping import site_keep
from .publishing.batches import Keep, append_here
from .publishing.direct import close_senders, sender_for
from .publishing.items import captures, new_item, with_event
from .publishing.queue import forward_here
from .publishing.thread import PublisherThread
from .threads.tasks import runs_a_loop

logger = get_logger(__name__)

#: What :func:`hand_over` returns: the position, or a future of it.
Told: TypeAlias = Future[Position | None] | Position | None

#: Counts of failures that raised no exception.
counts: Counter[str] = HubCounts()
_throttle = LogThrottle()


def publish(
    message: Any,
    group: str,
    *,
    exclude: Exclude = (),
    on_commit: bool = False,
    idempotency_key: str = "",
    event: str = "",
) -> None:
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

    Where the rule of ``group`` in ``GROUPS`` keeps a history, the message gets its place
    there. With an ``idempotency_key`` that was used for this group in the last five minutes,
    nothing is published: so a publish that may have arrived can be repeated. ``event`` is the
    name of the message for clients of Pusher, and in ``current.event``.
    """
    item = _item(message, exclude, event)
    send = partial(hand_over, check_group(group), item, site_keep(group, idempotency_key))
    if on_commit:
        transaction.on_commit(partial(_send_committed, tracing.active.bind(send)))
    else:
        send()


def _item(message: Any, exclude: Exclude, event: str) -> Item:
    ids, text = excluded_ids(exclude), text_event.get()
    return new_item(message, exclude=ids, text=text, meta=with_event(event))


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
    message: Any,
    group: str,
    *,
    exclude: Exclude = (),
    on_commit: bool = False,
    idempotency_key: str = "",
    event: str = "",
) -> Position | None:
    """
    :func:`publish`, returning when the channel layer has taken the message: its position in
    the history of the group, with ``repeated`` where the ``idempotency_key`` was known; None
    where nothing is kept.

    Raises PublishError where it did not; it may have arrived all the same. With
    ``on_commit`` it returns when the publish is registered with the transaction of
    Django's thread for async code.
    """
    if on_commit:
        key = idempotency_key
        await sync_to_async(publish)(
            message, group, exclude=exclude, on_commit=True, idempotency_key=key, event=event
        )
        return None
    item = _item(message, exclude, event)
    keep = site_keep(check_group(group), idempotency_key)
    told = hand_over(group, item, keep, wait=True)
    return await asyncio.wrap_future(told) if isinstance(told, Future) else told


def publish_to_user(
    user: Any,
    message: Any,
    *,
    exclude: Exclude = (),
    on_commit: bool = False,
    idempotency_key: str = "",
    event: str = "",
) -> None:
    """
    :func:`publish` to every connection of ``user`` (or of the user with that primary key), on
    routes with ``personal=True``, in all processes.

    Nothing happens where the user is not connected. ValueError for a user who has no primary
    key, and for a text that cannot be one, as a name. Where a site has several tenants, that of
    this context is meant.
    """
    group = group_of_user(user)
    more: dict[str, Any] = {"idempotency_key": idempotency_key, "event": event}
    publish(message, group, exclude=exclude, on_commit=on_commit, **more)


async def apublish_to_user(
    user: Any,
    message: Any,
    *,
    exclude: Exclude = (),
    on_commit: bool = False,
    idempotency_key: str = "",
    event: str = "",
) -> Position | None:
    """:func:`publish_to_user`, returning as :func:`apublish` does."""
    group = group_of_user(user)
    more: dict[str, Any] = {"idempotency_key": idempotency_key, "event": event}
    return await apublish(message, group, exclude=exclude, on_commit=on_commit, **more)


def hand_over(group: str, item: Item, keep: Keep | None, wait: bool = False) -> Told:
    """Send or queue ``item``, for this package; with ``wait``, returns a future of a queued one."""
    return tracing.active.publish(_hand_over, group, item, keep, wait)


def _hand_over(group: str, item: Item, keep: Keep | None, wait: bool) -> Told:
    if captures and active_hub() is None:
        for capture in captures:
            capture(group, item)
        return None
    hub = queueing_hub()
    if hub is None:
        return send_now(group, item, keep)
    hub.publish_queue.admit(item)
    if not wait:
        hub.call(hub.publish_queue.put_admitted, group, item, None, keep)
        return None
    told: Future[Position | None] = Future()
    hub.call(hub.publish_queue.put_and_tell, group, item, keep, told)
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


def send_now(group: str, item: Item, keep: Keep | None = None) -> Position | None:
    """
    Return when the channel layer has ``item``, or the history of this process where no layer
    leads to others; PublishError after ``LAYER_TIMEOUT``.
    """
    layer = get_channel_layer(conf.CHANNEL_LAYER)
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        if group != CONTROL:
            _warn_not_received()
        position = None if keep is None else append_here(group_key(group), item, keep)
        if conf.CHANNELS_GROUPS and layer and not (position and position.repeated):
            forward_here(group, item, layer, get_hub)
        return position
    sender = sender_for(layer)
    if sender is not None:
        return sender.send(group, item, keep)
    return _the_publisher().send(group, item, keep)


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


def _warn_not_received() -> None:
    # Not a mistake: a serving process has no receiver before its first connection.
    if may_serve() or counts["not_received"]:
        return
    counts["not_received"] += 1
    logger.warning(
        "published in a process that has no WebSocket connections and no channel layer to other"
        " processes: nobody receives it; configure a Redis channel layer (CHANNEL_LAYERS)"
    )


_publisher: PublisherThread | None = None
_lock = threading.Lock()
#: Publishers of the parent, kept after a fork: their end would close its connections.
_orphans: list[PublisherThread | None] = []


def _the_publisher() -> PublisherThread:
    global _publisher
    with _lock:
        if _publisher is None:
            _publisher = PublisherThread(get_hub)
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

__all__ = ["PublishError", "apublish", "apublish_to_user", "publish", "publish_to_user"]
