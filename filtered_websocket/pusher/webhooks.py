"""
Tells backends what happens in channels, by HTTP.

::

    a channel, a member comes or goes -> the ledger of presence: one process is told
    a client event, a cache miss      -> the process of its connection
                                             |
                        for each address: a queue and a thread, which sends batches, and each
                        of them again for 5 minutes until it is taken

Who has gone is told ``SETTLE`` seconds later, unless somebody has come back meanwhile.
"""

import asyncio
import atexit
import json
import math
import os
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from http.client import HTTPException
from typing import Any, NamedTuple

from django.db import connections

from ..codecs.frames import dump_json
from ..hub.registry import hubs
from ..logs import LogThrottle, get_logger
from ..presence import presence
from ..presence.base import Event, Info
from ..presence.of_hub import HubPresence
from .apps import App, Hook, app_of_id, apps_with_webhooks
from .channels import channel_of, is_channel, kind_of

logger = get_logger(__name__)
_throttle = LogThrottle()

#: How long what has ended may begin again, seconds.
SETTLE = 3.0
#: How long events wait for others at most, so that they are sent together, seconds.
GATHER = 0.05
#: How long a batch is sent again, and how long one attempt may take, seconds.
GIVE_UP, TIMEOUT = 300.0, 10.0
#: The longest pause between two attempts, seconds.
MAX_PAUSE = 60.0
MAX_BATCH, MAX_WAITING = 100, 1000
#: A thread without work ends, seconds.
IDLE = 5.0
#: How long the end of the process may wait, seconds.
AT_EXIT = 5.0
#: What is told when something begins, and when it ends.
OF_CHANNELS = ("channel_occupied", "channel_vacated")
OF_MEMBERS = ("member_added", "member_removed")

#: How many events were dropped, as nobody has taken them.
counts: Counter[str] = Counter()

#: A group of presence, and a user there.
Key = tuple[str, str]


class Waiting(NamedTuple):
    """An event that is to be told."""

    due: float
    fields: dict[str, Any]
    #: Of one that is not told if this user is there again.
    gone: Key | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is signed goes where the site has said, or nowhere."""

    def redirect_request(self, *about: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)

#: Of each app and hook that is told something now; by what they are, as apps are read again.
_senders: dict[Any, "Sender"] = {}
_lock = threading.RLock()


class Sender:
    """Tells one hook of an app, by a thread that runs while there is something, and as long."""

    def __init__(self, app: App, hook: Hook) -> None:
        self._app, self._hook = app, hook
        self._waiting: list[Waiting] = []
        # None gets an event while it ends.
        self._changed = threading.Condition(_lock)
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def put(self, fields: dict[str, Any], gone: Key | None = None) -> None:
        """Tell of an event; later, and perhaps not at all, of somebody who has ``gone``."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._drop(1, "too many wait")
                return
            pause = GATHER if gone is None else SETTLE
            self._waiting.append(Waiting(time.monotonic() + pause, fields, gone))
            self._changed.notify()
            if self._thread is None:
                name = f"fws-webhook {self._hook.url:.40}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def take_back(self, key: Key) -> bool:
        """Whether it was to tell that this user has gone; it does not."""
        with self._changed:
            before = len(self._waiting)
            self._waiting = [one for one in self._waiting if one.gone != key]
            return len(self._waiting) < before

    def close(self) -> threading.Thread | None:
        """Send what is due now, and end; the thread, if there is one."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
            return self._thread

    # The thread

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                batch = self._that_are_true(batch)
                if batch:
                    self._deliver([one.fields for one in batch])
            except Exception as error:
                if _throttle.note("webhook"):
                    logger.exception("webhook %s failed", self._hook.url)
                self._drop(len(batch), repr(error))

    def _next(self) -> list[Waiting] | None:
        """What is due, once anything is; None where nothing has come for a while."""
        with self._changed:
            while True:
                now = math.inf if self._is_closing else time.monotonic()
                if any([one.due <= now for one in self._waiting]):
                    # What does not have to wait for anything goes with it.
                    due = [one for one in self._waiting if one.due <= now or one.gone is None]
                    batch = due[:MAX_BATCH]
                    taken = set(map(id, batch))
                    self._waiting = [one for one in self._waiting if id(one) not in taken]
                    return batch
                pause = min([one.due - now for one in self._waiting], default=IDLE)
                if self._is_closing or not (self._changed.wait(pause) or self._waiting):
                    self._thread = None
                    for key in [key for key, one in _senders.items() if one is self]:
                        del _senders[key]
                    return None

    def _that_are_true(self, batch: list[Waiting]) -> list[Waiting]:
        """Without those who have come back by way of another process."""
        groups = {one.gone[0] for one in batch if one.gone is not None}
        try:
            found = {group: presence(group).values() for group in groups}
            here = {(group, str(one.user)) for group, infos in found.items() for one in infos}
        except OSError:  # Redis does not answer: nobody can know
            here = set()
        return [one for one in batch if one.gone not in here]

    def _deliver(self, events: list[dict[str, Any]]) -> None:
        """Send a batch until it is taken, for ``GIVE_UP`` seconds, or its app has changed."""
        body = dump_json({"time_ms": int(time.time() * 1000), "events": events})
        until, pause = time.monotonic() + GIVE_UP, min(1.0, MAX_PAUSE)
        while self._renew():
            try:
                self._post(body)
                return
            except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
                if self._is_closing or time.monotonic() + pause > until:
                    self._drop(len(events), repr(error))
                    return
                if _throttle.note(self._hook.url):
                    logger.warning("webhook %s: %r; it is sent again", self._hook.url, error)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, pause)
            pause = min(2 * pause, MAX_PAUSE)

    def _renew(self) -> bool:
        """Take the app as it is now, to sign with its secret; whether it still has the address."""
        try:
            app = app_of_id(self._app.id)
            connections.close_all()
        except Exception:  # the database does not answer: what is known stays
            return True
        self._app = app or self._app
        hooks = app.webhooks if app is not None and app.enabled else ()
        return self._hook.url in [hook.url for hook in hooks]

    def _post(self, body: str) -> None:
        headers = {
            **self._hook.headers,
            "Content-Type": "application/json",
            "X-Pusher-Key": self._app.key,
            "X-Pusher-Signature": self._app.sign(body),
        }
        request = urllib.request.Request(self._hook.url, body.encode(), headers, method="POST")
        with _opener.open(request, timeout=TIMEOUT) as answer:
            answer.read(1024)

    def _drop(self, count: int, why: str) -> None:
        counts["dropped"] += count
        if _throttle.note(f"drop {self._hook.url}"):
            words = "webhook %s: events were not told: %s (%d so far)"
            logger.error(words, self._hook.url, why, counts["dropped"])


def tell(app: App, fields: dict[str, Any], gone: Key | None = None) -> None:
    """Tell of an event, whoever is to be told of it. Never waits."""
    for hook in app.webhooks:
        if hook.takes(fields):
            about = [hook.events, hook.prefix, hook.suffix, sorted(hook.headers.items())]
            key = app.id, hook.url, json.dumps(about)
            with _lock:
                sender = _senders[key] = _senders.get(key) or Sender(app, hook)
                sender.put(fields, gone)


# Channels and their members


def index_of(app: App) -> str:
    """The group of presence whose users are the channels of an app that have subscribers."""
    return f"{app.id}:#channels"


def note_presence(group: str, events: Iterable[Event]) -> None:
    """Joins and leaves that this process has made: no other one is told of them."""
    for app in apps_with_webhooks(hubs.get(asyncio.get_running_loop())):
        channel = channel_of(app, group)
        for event in events:
            user = event.info.user
            if user is None or not event.is_users:
                continue
            if group == index_of(app):
                _note(app, OF_CHANNELS, event.kind, (group, user), {"channel": user})
            elif channel is not None and kind_of(channel).has_presence:
                fields = {"channel": channel, "user_id": user}
                _note(app, OF_MEMBERS, event.kind, (group, user), fields)


def _note(app: App, names: tuple[str, str], kind: str, key: Key, fields: dict[str, Any]) -> None:
    if kind == "leave":
        tell(app, {"name": names[1], **fields}, gone=key)
        return
    # All are asked, as each hook has been told of its own events.
    with _lock:
        senders = [sender for (app_id, *_), sender in _senders.items() if app_id == app.id]
        is_back = any([sender.take_back(key) for sender in senders])
    if not is_back:
        tell(app, {"name": names[0], **fields})


def occupy(host: HubPresence, app: App, process: str, channel: str, is_occupied: bool) -> None:
    """Note in the index that this process has subscribers of a channel, or no longer."""
    if not app.webhooks or not is_channel(channel):
        return
    host.observers.add(note_presence)
    entry = f"{process}:{channel}"
    if is_occupied:
        host.enter(index_of(app), entry, Info(channel), False)
    else:
        host.leave(index_of(app), entry)


# The end of the process


def close() -> None:
    """Send what waits, for ``AT_EXIT`` seconds at most."""
    with _lock:
        senders = list(_senders.values())
        _senders.clear()
    until = time.monotonic() + AT_EXIT
    for thread in filter(None, [sender.close() for sender in senders]):
        thread.join(max(0.0, until - time.monotonic()))


def _forget() -> None:
    """After a fork the threads are the parent's."""
    global _lock
    _senders.clear()
    _lock = threading.RLock()


atexit.register(close)
# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)
