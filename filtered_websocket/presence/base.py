"""
What the stores of presence have in common: the interface, and what goes through it.

::

    ledger -> store.change -> joins and leaves -> the group, in order of their revisions
                                                    |
    roster of each process  <-----------------------+
    roster <- store.members, at first and where a revision is missing

A process is known by its *origin*. Each connection in a group is an *entry*; each join or
leave of one raises the group's *revision* by 1. A revision is never used again for a group,
also not after everything was lost: the first one is the store's time in microseconds.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ..codecs.frames import dump_json
from ..layer.envelope import BadEnvelope

#: Version of the envelope of joins and leaves: processes that do not know it skip it.
VERSION = 2
#: Most characters of one connection's user and info, as JSON.
MAX_ENTRY = 4096
#: Most changes of one call; so many expired entries are removed by one call.
MAX_CHANGES = 500
#: The count of a call that found the store's data damaged, and removed it.
UNKNOWN = -1


class Info(NamedTuple):
    """Who a connection is: its user (None: anonymous), and a JSON value that its site chose."""

    user: str | None
    info: Any = None


class Stats(NamedTuple):
    """How many connections a group has, and of how many users; all anonymous ones are one."""

    connections: int
    users: int


class Entry(NamedTuple):
    """A connection in the store: the process that holds it, and its :func:`pack_info`."""

    origin: str
    packed: str


class Event(NamedTuple):
    """A join or a leave."""

    revision: int
    kind: Literal["join", "leave"]
    connection: str
    packed: str
    #: Whether it is the first connection of its user in the group, or was the last one.
    is_users: bool

    @property
    def info(self) -> Info:
        return unpack_info(self.packed)


def describe(group: str, events: Sequence[Event]) -> dict[str, Any]:
    """Joins and leaves of a group, as consumer chains get them."""
    changes = [
        {
            "is": event.kind,
            "connection": event.connection,
            "user": event.info.user,
            "info": event.info.info,
            "first" if event.kind == "join" else "last": event.is_users,
        }
        for event in events
    ]
    return {"type": "presence", "data": {"group": group, "changes": changes}}


class Members(NamedTuple):
    """Everyone in a group at a revision."""

    revision: int
    entries: dict[str, Entry]

    @property
    def infos(self) -> dict[str, Info]:
        """Connection -> its info."""
        return {key: unpack_info(entry.packed) for key, entry in self.entries.items()}


class Call(NamedTuple):
    """What one process changes in one group."""

    group: str
    #: Connections and their :func:`pack_info`, or None for those that leave; at most
    #: ``MAX_CHANGES``.
    changes: Sequence[tuple[str, str | None]] = ()
    #: Whether to remove entries of processes whose lease has ended.
    expires: bool = False
    #: Whether joins and leaves are published to the group.
    tells: bool = True


class Answer(NamedTuple):
    """What a :class:`Call` has found and done."""

    #: How many entries the process had before the call, and has after it. Another number
    #: than it expects before means that its lease had ended, or that the store lost data.
    before: int
    after: int
    #: The group's revision after the call.
    revision: int
    #: Joins and leaves that happened by this call, and by no other.
    events: list[Event]
    #: Whether entries of ended leases are left for another call.
    has_more: bool


class Store(Protocol):
    """
    Guarantees: a call is one step for all processes. It changes only what is not yet as the
    call says, so that a call sent again (its answer was lost) changes and tells nothing
    twice. Each call renews the lease of its process in that group; without calls its entries
    stay for one lease at least, and are removed by the next call that ``expires``, or when
    nobody calls for another third of a lease.
    """

    #: Whether the store publishes joins and leaves, in order with what else the process
    #: sends, and in the same step. Otherwise the caller sends the events of answers.
    publishes: bool
    #: Seconds; each group's lease is to be renewed every third of it.
    lease: float

    async def change(self, origin: str, calls: Sequence[Call]) -> list[Answer | Exception]:
        """
        Make the calls of one process, an answer for each. The calls go out together; of one
        group there is one call at a time. After an exception it may have been made.
        """
        ...

    async def members(self, group: str) -> Members:
        """Everyone in ``group``, whose lease may have ended meanwhile."""
        ...

    async def stats(self, group: str) -> Stats: ...

    async def close(self) -> None:
        """Nobody uses it any more; what it has stays."""
        ...


# Entries


def pack_info(info: Info, shown: str = "") -> str:
    """
    Two lines of JSON, the user and the info, as an entry is stored; a third one where the
    connection has something that is ``shown`` in all its groups, as JSON. Raises TypeError or
    ValueError for what is no user, no JSON, or longer than ``MAX_ENTRY``.
    """
    user, value = info
    if user is not None and not isinstance(user, str):
        raise TypeError(f"the user of a presence entry is a str or None, not {user!r:.80}")
    try:
        # ASCII, so that no store has to know about lone surrogates.
        packed = f"{json.dumps(user)}\n{json.dumps(json.loads(dump_json(value)))}"
        if shown:
            packed += f"\n{json.dumps(json.loads(shown))}"
    except RecursionError:
        raise ValueError("the info of a presence entry is nested too deeply") from None
    if len(packed) > MAX_ENTRY:
        raise ValueError(
            f"the user and info of a presence entry are {len(packed)} characters of JSON;"
            f" at most {MAX_ENTRY} are kept"
        )
    return packed


def unpack_info(packed: str) -> Info:
    user, value, *_ = packed.split("\n")
    return Info(json.loads(user), json.loads(value))


def shown_of(packed: str) -> str:
    """What is shown of the connection in all its groups, as JSON; empty: nothing."""
    return packed.partition("\n")[2].partition("\n")[2]


def user_of(packed: str) -> str:
    """The user's line of a packed entry: the same for the same user."""
    return packed.partition("\n")[0]


# Joins and leaves on the channel layer


def seal_events(key: str, events: Sequence[Event]) -> dict[str, Any]:
    """The envelope of a group's events; ``key`` is the group's name on the layer."""
    return {
        "v": VERSION,
        "g": key,
        "p": [[event.revision, event.kind, *event[2:4], int(event.is_users)] for event in events],
    }


def unseal_events(envelope: Any) -> tuple[str, list[Event]]:
    """The key and the events in ``envelope``; raises :exc:`BadEnvelope` for anything else."""
    try:
        if envelope["v"] != VERSION or not isinstance(envelope["g"], str):
            raise BadEnvelope(f"not of version {VERSION}, or without a group")
        return envelope["g"], [open_event(*raw) for raw in envelope["p"]]
    except Exception as error:
        # Of any class: repr() of data that is nested deeply raises RecursionError, say.
        raise BadEnvelope(f"not joins and leaves: {error!r:.200}") from error


def open_event(revision: Any, kind: Any, connection: Any, packed: Any, is_users: Any) -> Event:
    """An event of its parts; raises TypeError or ValueError for anything else."""
    if not (
        isinstance(revision, int)
        and kind in ("join", "leave")
        and isinstance(connection, str)
        and isinstance(packed, str)
    ):
        raise TypeError(f"not a join or leave: {(revision, kind, connection, packed)!r:.200}")
    unpack_info(packed)
    return Event(revision, kind, connection, packed, bool(is_users))
