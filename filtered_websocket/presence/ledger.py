"""
The entries of one process: which are wanted in the store, and which of them it has.

Changes are noted at once and sent by :meth:`Ledger.flush`, together with those that came while
another call was under way. Where an answer was lost, or the store has another number of
entries than it should (the process slept past its lease, Redis was restarted), what the store
has is read and the difference is sent: nothing is told twice.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from .base import MAX_CHANGES, Answer, Call, Event, Info, Members, Store, pack_info

#: So many groups are read at once.
AT_ONCE = 100


class Report(NamedTuple):
    """What calls of a ledger have found."""

    #: Joins and leaves by group, in order: to be published where the store does not do it.
    events: list[tuple[str, list[Event]]]
    #: Group -> its revision: for :meth:`.Roster.check`.
    revisions: dict[str, int]
    #: Groups whose calls failed, and why. Their changes are kept for the next flush.
    errors: dict[str, BaseException]


class Ledger:
    """
    Guarantees: after a flush without errors the store has exactly the wanted entries of this
    process. :meth:`flush` and :meth:`renew` are called by one task, one after the other.
    """

    def __init__(
        self, store: Store, origin: str, tells: Callable[[str], bool] = lambda group: True
    ) -> None:
        self._store = store
        self.origin = origin
        self._tells = tells
        #: Group -> connection -> its packed info.
        self._wanted: dict[str, dict[str, str]] = {}
        #: Group -> connections that may be in the store in another way than is wanted; True
        #: for those that have left and come back, which is told.
        self._changed: dict[str, dict[str, bool]] = {}
        #: Group -> how many entries the store has of this process.
        self._counts: dict[str, int] = {}
        #: Groups of which it is not known what the store has.
        self._unsure: set[str] = set()

    @property
    def groups(self) -> list[str]:
        """Those with members in this process."""
        return list(self._wanted)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to flush."""
        return not (self._changed or self._unsure)

    @property
    def changed_groups(self) -> set[str]:
        """Those with something to flush."""
        return self._unsure.union(self._changed)

    def is_changed(self, group: str) -> bool:
        """Whether there is something to flush in ``group``."""
        return group in self._changed or group in self._unsure

    def members(self, group: str) -> Collection[str]:
        """The connections of this process in ``group``."""
        return self._wanted.get(group, {}).keys()

    def add(self, group: str, connection: str, info: Info, shown: str = "") -> None:
        """Note a member, or its new info. Raises as :func:`.pack_info`."""
        packed = pack_info(info, shown)
        members = self._wanted.setdefault(group, {})
        has_left = connection not in members and connection in self._changed.get(group, ())
        members[connection] = packed
        self._change(group, connection, has_left)

    def remove(self, group: str, connection: str) -> None:
        """Note that a member has left."""
        members = self._wanted.get(group, {})
        members.pop(connection, None)
        if not members:
            self._wanted.pop(group, None)
        self._change(group, connection)

    def _change(self, group: str, connection: str, has_left: bool = False) -> None:
        changed = self._changed.setdefault(group, {})
        changed[connection] = has_left or changed.get(connection, False)

    def rejoin(self) -> None:
        """The store may have lost anything: compare all groups at the next flush."""
        self._unsure.update(self._wanted, self._counts)

    # Calls

    async def flush(self) -> Report:
        """Send what has changed; renews the leases of these groups."""
        report = Report([], {}, {})
        while waiting := self._waiting(report):
            await self._compare([one for one in waiting if one in self._unsure], report)
            waiting = self._waiting(report)
            calls = [self._next_call(group) for group in waiting if group in self._changed]
            await self._make(calls, report)
        return report

    async def renew(self) -> Report:
        """
        Renew the leases of all groups, every third of a lease, and remove entries of processes
        whose lease has ended. Changes are left to :meth:`flush`, which is to follow where the
        ledger is not settled.
        """
        report = Report([], {}, {})
        groups: Iterable[str] = self._wanted
        while calls := [Call(group, (), True, self._tells(group)) for group in groups]:
            groups = await self._make(calls, report)
        return report

    def _waiting(self, report: Report) -> list[str]:
        groups = dict.fromkeys((*self._unsure, *self._changed))
        return [group for group in groups if group not in report.errors]

    def _next_call(self, group: str) -> Call:
        """Takes some changes of the group."""
        changed, wanted = self._changed[group], self._wanted.get(group, {})
        changes: list[tuple[str, str | None]] = []
        for connection in list(changed)[:MAX_CHANGES]:
            if changed.pop(connection) and connection in wanted:
                changes.append((connection, None))
            changes.append((connection, wanted.get(connection)))
        if not changed:
            del self._changed[group]
        return Call(group, changes, False, self._tells(group))

    async def _make(self, calls: list[Call], report: Report) -> list[str]:
        """Make the calls; returns the groups in which ended leases are left."""
        more = []
        try:
            answers = await self._store.change(self.origin, calls)
        except BaseException:
            # Cancelled, say: it is not known which calls were made.
            self._unsure.update(call.group for call in calls)
            raise
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                self._fail(call.group, answer, report)
                continue
            report.revisions[call.group] = answer.revision
            if answer.events:
                report.events.append((call.group, answer.events))
            self._take(call.group, answer)
            if answer.has_more:
                more.append(call.group)
        return more

    def _take(self, group: str, answer: Answer) -> None:
        if answer.before != self._counts.pop(group, 0):
            self._unsure.add(group)
        if answer.after:
            self._counts[group] = answer.after

    def _fail(self, group: str, error: BaseException, report: Report) -> None:
        # The call may have been made: what the store has is compared later.
        self._unsure.add(group)
        report.errors[group] = error

    async def _compare(self, groups: list[str], report: Report) -> None:
        """Note what the store has of this process in another way than is wanted."""
        for at in range(0, len(groups), AT_ONCE):
            some = groups[at : at + AT_ONCE]
            reads = map(self._store.members, some)
            for group, members in zip(
                some, await asyncio.gather(*reads, return_exceptions=True), strict=True
            ):
                if isinstance(members, BaseException):
                    self._fail(group, members, report)
                else:
                    self._compare_one(group, members)

    def _compare_one(self, group: str, members: Members) -> None:
        entries = members.entries.items()
        ours = {key: entry.packed for key, entry in entries if entry.origin == self.origin}
        self._unsure.discard(group)
        self._counts.pop(group, None)
        if ours:
            self._counts[group] = len(ours)
        wanted = self._wanted.get(group, {})
        for connection in (*ours, *wanted):
            if ours.get(connection) != wanted.get(connection):
                self._change(group, connection)
