"""
What one process has told its subscribers about who is in a group, and what it has to tell.

::

    joins and leaves, without a gap  -> told at once
    a revision is missing            -> stale: the group has to be read
    while it is read                 -> held
    the group was read               -> the difference to what was told, then what was held

So what a subscriber was told adds up to who is there, whatever was lost on the way.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from .base import Event, Members, user_of

#: So many events are held while a group is read; after more it is read once more.
MAX_HELD = 1000


class Roster:
    """
    The members of one group, as this process has told them. Until the first
    :meth:`refresh` it has told nobody.
    """

    def __init__(self) -> None:
        #: Connection -> its packed info: what a new subscriber is to be given.
        self.members: dict[str, str] = {}
        self._users: Counter[str] = Counter()
        self._revision = 0
        #: Whether the group has to be read, between :meth:`begin` and :meth:`refresh`.
        self.is_stale = True
        #: Events that arrived since the reading began; None while nobody reads.
        self._held: list[Event] | None = None
        #: Revisions at the last check: of the store, and of this roster.
        self._expected = self._had = 0

    @property
    def users(self) -> int:
        """How many users there are; all anonymous ones are one."""
        return len(self._users)

    def apply(self, events: list[Event]) -> list[Event]:
        """Events have arrived: which ones to tell."""
        if self._held is not None:
            self._held += events
            if len(self._held) > MAX_HELD:
                self._held.clear()
                self.miss()
            return []
        told: list[Event] = []
        for event in events:
            if event.revision > self._revision + 1:
                self.miss()
            # What arrives before a reading begins, that one includes.
            if not self.is_stale and event.revision > self._revision:
                self._revision = event.revision
                told += self._tell(event)
        return told

    def miss(self) -> None:
        """Something may be lost: the layer was away, a batch is missing, a reading failed."""
        self.is_stale = True

    def begin(self) -> None:
        """The group is read from here on."""
        self.is_stale = False
        self._held = []

    def refresh(self, members: Members) -> list[Event]:
        """
        The group was read: what to tell. If :attr:`is_stale` is true again, something was
        missed meanwhile: read it once more.
        """
        revision = self._revision = members.revision
        self._expected = self._had = 0
        held, self._held = self._held or [], None
        present = {key: entry.packed for key, entry in members.entries.items()}
        told: list[Event] = []
        for key, packed in tuple(self.members.items()):
            if present.get(key) != packed:
                told += self._tell(Event(revision, "leave", key, packed, False))
        for key, packed in present.items():
            told += self._tell(Event(revision, "join", key, packed, False))
        return told + self.apply(held)

    def check(self, revision: int) -> None:
        """
        The store has this revision: to be called at each renewal. What it had at the last
        one must have arrived by now, and it must have what had arrived then.
        """
        if self._expected > self._revision or revision < self._had:
            self.miss()
        self._expected, self._had = revision, self._revision

    def _tell(self, event: Event) -> list[Event]:
        """The event as subscribers have to be told it; nothing if they know it."""
        key = event.connection
        if (key in self.members) == (event.kind == "join"):
            return []
        if event.kind == "join":
            self.members[key] = event.packed
            user = user_of(event.packed)
            self._users[user] += 1
            return [event._replace(is_users=self._users[user] == 1)]
        packed = self.members.pop(key)
        user = user_of(packed)
        self._users[user] -= 1
        is_last = not self._users[user]
        if is_last:
            del self._users[user]
        return [event._replace(packed=packed, is_users=is_last)]


class Rosters:
    """
    Those of one process, by group. The first time that a group is read, only the joins of
    ``ours`` are to be told: its connections of this process.
    """

    def __init__(self, ours: Callable[[str], Collection[str]]) -> None:
        self._ours = ours
        self._by_group: dict[str, Roster] = {}
        #: Those that have told nothing yet, and those that may have to be read.
        self._new: set[str] = set()
        self._stale: set[str] = set()

    def __contains__(self, group: str) -> bool:
        return group in self._by_group

    def add(self, group: str) -> None:
        """Tell joins and leaves of the group from now on."""
        if group not in self._by_group:
            self._by_group[group] = Roster()
            self._new.add(group)
            self._stale.add(group)

    def remove(self, group: str) -> None:
        """Nobody is to be told any more."""
        self._by_group.pop(group, None)
        self._new.discard(group)
        self._stale.discard(group)

    def present(self, group: str) -> Mapping[str, str]:
        """Connection -> its packed info; empty before the group was read."""
        return {} if group in self._new or group not in self else self._by_group[group].members

    def apply(self, group: str, events: list[Event]) -> list[Event]:
        """As :meth:`Roster.apply`."""
        return self._look_at(group, self._by_group[group].apply(events)) if group in self else []

    def miss(self, group: str) -> None:
        """As :meth:`Roster.miss`."""
        if group in self:
            self._by_group[group].miss()
            self._stale.add(group)

    def miss_all(self) -> None:
        """:meth:`miss`, for every group."""
        for group in self._by_group:
            self.miss(group)

    def check(self, group: str, revision: int) -> None:
        """As :meth:`Roster.check`."""
        if group in self:
            self._by_group[group].check(revision)
            self._look_at(group)

    def begin(self, may_read: Callable[[str], bool], only_new: bool) -> list[str]:
        """The groups that are to be read now."""
        found = self._stale & self._new if only_new else self._stale
        groups = [group for group in found if may_read(group)]
        self._stale.difference_update(groups)
        for group in groups:
            self._by_group[group].begin()
        return groups

    def is_stale(self, group: str) -> bool:
        """Whether the group has to be read."""
        return group in self._stale

    def refresh(self, group: str, members: Members) -> list[Event]:
        """As :meth:`Roster.refresh`."""
        roster = self._by_group[group]
        if group not in self._new:
            return self._look_at(group, roster.refresh(members))
        self._new.discard(group)
        ours = self._ours(group)
        # The others first, so that it is known whose user was there before.
        entries = dict(sorted(members.entries.items(), key=lambda pair: pair[0] in ours))
        told: dict[str, Event] = {}
        for event in self._look_at(group, roster.refresh(Members(members.revision, entries))):
            if event.kind == "join" and event.connection in ours:
                told[event.connection] = event
        return list(told.values())

    def _look_at(self, group: str, told: Sequence[Event] = ()) -> list[Event]:
        """Note whether the group has to be read; returns ``told``."""
        if self._by_group[group].is_stale:
            self._stale.add(group)
        return list(told)
