"""
Presence where no channel layer leads to other processes: a store in memory, which all hubs of
this process share, as several simulated processes do in tests.
"""

import asyncio
import contextvars
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from .base import MAX_CHANGES, Answer, Call, Entry, Event, Members, Stats, user_of

#: Called with a group and what happened in it, in order, before the call returns.
OnEvents = Callable[[str, list[Event]], object]


class _Group:
    """One group: the same data as in Redis, with the same rules."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.entries: dict[str, Entry] = {}
        self.users: Counter[str] = Counter()
        #: Origin -> when its lease ends, and how many entries it has.
        self.leases: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.ends = 0.0

    def put(self, connection: str, entry: Entry) -> Event:
        self.entries[connection] = entry
        self.counts[entry.origin] += 1
        user = user_of(entry.packed)
        self.users[user] += 1
        return self._event("join", connection, entry, self.users[user] == 1)

    def remove(self, connection: str) -> Event:
        entry = self.entries.pop(connection)
        self.counts[entry.origin] -= 1
        user = user_of(entry.packed)
        self.users[user] -= 1
        is_last = not self.users[user]
        if is_last:
            del self.users[user]
        return self._event("leave", connection, entry, is_last)

    def _event(
        self, kind: Literal["join", "leave"], connection: str, entry: Entry, is_users: bool
    ) -> Event:
        self.revision += 1
        return Event(self.revision, kind, connection, entry.packed, is_users)


class MemoryStore:
    """``clock`` gives seconds. ``on_events`` is called for calls that tell."""

    publishes = True

    def __init__(
        self,
        on_events: OnEvents,
        lease: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._on_events = on_events
        self.lease = lease
        self._clock = clock
        self._groups: dict[str, _Group] = {}

    async def change(self, origin: str, calls: Sequence[Call]) -> list[Answer | Exception]:
        """As :meth:`.Store.change`."""
        return self.apply(origin, calls)

    def apply(self, origin: str, calls: Sequence[Call]) -> list[Answer | Exception]:
        """:meth:`change`, at once."""
        return [self._change(origin, call) for call in calls]

    def _change(self, origin: str, call: Call) -> Answer:
        now = self._clock()
        group = self._find(call.group) or _Group(int(now * 1_000_000))
        before = group.counts[origin]
        events: list[Event] = []
        for connection, packed in call.changes:
            entry = group.entries.get(connection)
            if entry is not None and entry.packed != packed:
                events.append(group.remove(connection))
            if packed is not None and (entry is None or entry.packed != packed):
                events.append(group.put(connection, Entry(origin, packed)))
        group.leases[origin] = now + self.lease
        if call.expires:
            events += self._expire(group, now)
        self._keep(call.group, group, now)
        if call.tells and events:
            self._on_events(call.group, events)
        has_more = call.expires and 0.0 in group.leases.values()
        return Answer(before, group.counts[origin], group.revision, events, has_more)

    def _expire(self, group: _Group, now: float) -> list[Event]:
        """Remove some entries of ended leases; a lease of which some are left ends at 0."""
        dead = {origin for origin, end in group.leases.items() if end <= now}
        if not dead:
            return []
        keys = [key for key, entry in group.entries.items() if entry.origin in dead]
        group.leases.update(dict.fromkeys(dead, 0.0))
        return [group.remove(key) for key in keys[:MAX_CHANGES]]

    def _keep(self, name: str, group: _Group, now: float) -> None:
        for origin in [one for one in group.leases if not group.counts[one]]:
            del group.leases[origin], group.counts[origin]
        self._groups.pop(name, None)
        if group.entries:
            group.ends = now + self.lease * 4 / 3
            self._groups[name] = group
        # The one that was called last is the last one.
        while self._groups and next(iter(self._groups.values())).ends <= now:
            del self._groups[next(iter(self._groups))]

    def _find(self, name: str) -> _Group | None:
        group = self._groups.get(name)
        if group is not None and group.ends <= self._clock():
            del self._groups[name]
            return None
        return group

    async def close(self) -> None:
        """As :meth:`.Store.close`."""

    async def members(self, group: str) -> Members:
        """As :meth:`.Store.members`."""
        return self.find_members(group)

    def find_members(self, group: str) -> Members:
        """:meth:`members`, at once."""
        found = self._find(group)
        return Members(found.revision, dict(found.entries)) if found else Members(0, {})

    async def stats(self, group: str) -> Stats:
        """As :meth:`.Store.stats`."""
        return self.find_stats(group)

    def find_stats(self, group: str) -> Stats:
        """:meth:`stats`, at once."""
        found = self._find(group)
        return Stats(len(found.entries), len(found.users)) if found else Stats(0, 0)


# For all hubs of this process

#: The store, while a hub uses it: with the last one it forgets everything.
_store: MemoryStore | None = None
#: Those that hubs use; replaced, never changed.
_open: "tuple[ProcessStore, ...]" = ()
_lock = threading.Lock()


class ProcessStore:
    """
    One hub's access to the process's store, until :meth:`close`. Belongs to the event loop
    that makes it, on which ``on_events`` gets every group's joins and leaves, in order.
    """

    publishes = True

    def __init__(self, on_events: Callable[[str, list[Event]], object], lease: float) -> None:
        global _store, _open
        self._on_events = on_events
        self._loop = asyncio.get_running_loop()
        with _lock:
            # A loop that was closed with connections, as in a test, has left its own behind.
            _open = tuple(one for one in _open if not one._loop.is_closed())
            if _store is None or not _open:
                _store = MemoryStore(_hand_over, lease, time.monotonic)
            _open = (*_open, self)
        self.lease = _store.lease

    async def change(self, origin: str, calls: Sequence[Call]) -> list[Answer | Exception]:
        """As :meth:`.Store.change`."""
        with _lock:
            return [] if _store is None else _store.apply(origin, calls)

    async def members(self, group: str) -> Members:
        """As :meth:`.Store.members`."""
        return members_here(group)

    async def stats(self, group: str) -> Stats:
        """As :meth:`.Store.stats`."""
        return stats_here(group)

    async def close(self) -> None:
        """The hub has ended."""
        global _store, _open
        with _lock:
            _open = tuple(one for one in _open if one is not self)
            if not _open:
                _store = None


def _hand_over(group: str, events: list[Event]) -> None:
    """Under the lock, so that every hub gets them in the same order."""
    for one in _open:
        if not one._loop.is_closed():
            context = contextvars.Context()
            one._loop.call_soon_threadsafe(one._on_events, group, events, context=context)


def members_here(group: str) -> Members:
    """Everyone in ``group`` in this process. Any thread."""
    with _lock:
        return Members(0, {}) if _store is None else _store.find_members(group)


def stats_here(group: str) -> Stats:
    """How many are in ``group`` in this process. Any thread."""
    with _lock:
        return Stats(0, 0) if _store is None else _store.find_stats(group)


def _forget() -> None:
    """After a fork the connections are the parent's."""
    global _store, _open, _lock
    _store, _open, _lock = None, (), threading.Lock()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)
