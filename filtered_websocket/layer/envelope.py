"""
The format of messages on the channel layer: version, origin, sequence numbers, group names.

::

    {"v": 1, "o": origin, "g": group key, "s": first number, "m": [item, ...]}
    {"v": 2, "o": origin, "g": group key, "m": [item, ...], "e": epoch, "s": first offset}
    item = [id, kind, sender, payload, meta]

A batch of version 1 has consecutive numbers per origin and group, so a receiver recognises
repeated and missed batches. One of version 2 is in the history of its group, and has its
place there instead. An unknown ``v`` is skipped: during a rolling deploy two versions share
the layer.
"""

import hashlib
import secrets
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from ..codecs.frames import Kind, Packed, is_utf8
from ..conf import conf
from ..threads.budget import OVERHEAD

VERSION = 1
#: The version of a batch that is in the history of its group.
HISTORY_VERSION = 2
#: Longest group name, in characters.
MAX_GROUP_NAME = 1024
#: The hashes of names up to this length, in characters, are kept for the next message.
MAX_KEPT_NAME = 128
#: So many holes are remembered of what one origin published: what fills one has come late,
#: and everything else below the highest number is a repetition.
MAX_HOLES = 64
#: How many origins a receiver remembers per group.
MAX_ORIGINS = 1024
#: The group of control events: a name that :func:`check_group` refuses to sites.
CONTROL = ""
#: Longest origin, and longest epoch, in characters: receivers remember many of them.
MAX_ORIGIN = 64
#: The key of joins and leaves in their envelope, which ``presence`` knows.
EVENTS = "p"
#: ``meta`` key: ids of connections that must not get the message.
EXCLUDE = "x"
#: ``meta`` key: the name of the publication, if it has one.
EVENT = "e"
#: ``meta`` key: texts by name that its publisher gave it, for clients of the Centrifuge protocol.
TAGS = "t"
#: ``meta`` key: who published, as JSON, for clients of a protocol that shows it.
INFO = "i"

#: About the bytes of memory that such an id takes.
ID_SIZE = 90

_KINDS = frozenset(get_args(Kind))


class BadEnvelope(ValueError):
    """A message on the channel layer that does not have this package's format."""


class Item(NamedTuple):
    """One published message."""

    id: int
    kind: Kind
    sender: str
    payload: bytes
    meta: dict[str, Any]

    @property
    def packed(self) -> Packed:
        return self.kind, self.payload

    @property
    def size(self) -> int:
        """About the bytes of memory that it takes in a queue."""
        size = OVERHEAD + len(self.payload)
        if self.meta:
            size += ID_SIZE * len(self.meta.get(EXCLUDE, ())) + len(self.meta.get(INFO, ""))
        return size


class Batch(NamedTuple):
    """The content of one envelope."""

    origin: str
    key: str
    first: int
    items: list[Item]
    #: Not empty where ``first`` is an offset in the history of the group: its epoch.
    epoch: str = ""


def new_origin() -> str:
    """64 random bits that identify one publishing hub of one process."""
    return secrets.token_hex(8)


def check_group(group: Any) -> str:
    """Return ``group``; raises TypeError or ValueError if it is no group name."""
    if not isinstance(group, str):
        raise TypeError(f"a group name is a str, not {group!r}")
    if not 0 < len(group) <= MAX_GROUP_NAME:
        raise ValueError(
            f"a group name has 1 to {MAX_GROUP_NAME} characters, not {len(group)}: {group!r:.80}"
        )
    return group


def group_key(group: str) -> str:
    """
    The group's name on the layer: ``<NAMESPACE>.g.`` and 32 hex digits of SHA-256.

    So any Unicode name is safe there, lone surrogates included, and a list of Redis'
    channels does not show the names.
    """
    if group == CONTROL:
        return control_key(conf.NAMESPACE)
    return f"{conf.NAMESPACE}.g.{_digest(check_group(group))}"


def control_key(namespace: str) -> str:
    """The name on the layer of the control group of ``namespace``."""
    return f"{namespace}.house"


def _digest(group: str) -> str:
    # Long names are not kept: a client that chooses them would choose how much memory.
    return _short_digest(group) if len(group) <= MAX_KEPT_NAME else _hash(group)


@lru_cache(16_384)
def _short_digest(group: str) -> str:
    return _hash(group)


def _hash(group: str) -> str:
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def seal(batch: Batch) -> dict[str, Any]:
    """The envelope for ``batch``: of version 2 where it has an epoch."""
    if batch.epoch:
        return {
            "v": HISTORY_VERSION,
            "o": batch.origin,
            "g": batch.key,
            "m": [list(item) for item in batch.items],
            "e": batch.epoch,
            "s": batch.first,
        }
    items = [list(item) for item in batch.items]
    return {"v": VERSION, "o": batch.origin, "g": batch.key, "s": batch.first, "m": items}


def open_item(raw: Any) -> Item:
    """The item that :func:`seal` made a list of; raises for anything else."""
    number, kind, sender, payload, meta = raw
    if not (
        isinstance(number, int)
        and kind in _KINDS
        and isinstance(sender, str)
        and isinstance(payload, bytes)
        # A text frame that is not UTF-8 would end every connection that receives it.
        and (kind == "b" or is_utf8(payload))
        and isinstance(meta, dict)
        and (not meta or _is_meta(meta))
    ):
        raise BadEnvelope(f"not an item: {raw!r:.80}")
    return Item(number, kind, sender, payload, meta)


def _is_meta(meta: dict[str, Any]) -> bool:
    if len(meta) == 1 and INFO in meta:
        return isinstance(meta[INFO], str)  # most that have any
    left_out, tags = meta.get(EXCLUDE, []), meta.get(TAGS, {})
    return (
        isinstance(left_out, list)
        and all(isinstance(key, str) for key in left_out)
        and isinstance(meta.get(EVENT, ""), str)
        and isinstance(tags, dict)
        and all(isinstance(text, str) for pair in tags.items() for text in pair)
        and isinstance(meta.get(INFO, ""), str)
    )


def unseal(envelope: Any) -> Batch:
    """The batch in ``envelope``; raises :exc:`BadEnvelope` for anything else."""
    try:
        version = envelope["v"]
        # With a type it is an event of Channels, whose other keys a client may have chosen.
        if version not in (VERSION, HISTORY_VERSION) or "type" in envelope:
            raise BadEnvelope(f"envelope version {version!r:.80}")
        origin, key, first = envelope["o"], envelope["g"], envelope["s"]
        epoch = "" if version == VERSION else _open_epoch(envelope["e"], first)
        items = [open_item(raw) for raw in envelope["m"]]
    except Exception as error:
        # Of any class: repr() of data that is nested deeply raises RecursionError, say.
        raise BadEnvelope(f"not an envelope: {error!r:.200}") from error
    if not (isinstance(origin, str) and isinstance(key, str) and isinstance(first, int)):
        raise BadEnvelope("not an envelope: its origin, group or number")
    if len(origin) > MAX_ORIGIN:
        raise BadEnvelope(f"not an envelope: an origin of {len(origin)} characters")
    return Batch(origin, key, first, items, epoch)


def _open_epoch(epoch: Any, first: Any) -> str:
    if not (isinstance(epoch, str) and 0 < len(epoch) <= MAX_ORIGIN and first > 0):
        raise BadEnvelope("its epoch or offset")
    return epoch


class Stamper:
    """Numbers the messages of one origin, group by group."""

    def __init__(self, max_groups: int = 65_536) -> None:
        self.origin = new_origin()
        self._max_groups = max_groups
        self._next: dict[str, int] = {}

    def stamp(self, key: str, items: list[Item]) -> Batch:
        """A batch of ``items`` with the next numbers of this group."""
        if key not in self._next and len(self._next) >= self._max_groups:
            # A group that starts at 0 again would look like a repetition; under a new
            # origin receivers start again, too.
            self.origin = new_origin()
            self._next.clear()
        first = self._next.get(key, 0)
        self._next[key] = first + len(items)
        return Batch(self.origin, key, first, items)


class _Seen:
    """What has arrived of one origin: all below ``expected`` except for the holes."""

    __slots__ = ("expected", "holes")

    def __init__(self, first: int) -> None:
        self.expected = first
        #: The numbers from the first one up to the second one; the oldest hole first.
        self.holes: list[tuple[int, int]] = [(0, first)] if first else []

    def skip_to(self, first: int) -> None:
        """What is expected has not arrived: ``first`` has."""
        self.holes.append((self.expected, first))
        if len(self.holes) > MAX_HOLES:
            del self.holes[0]

    def fill(self, first: int, end: int) -> bool:
        """Whether the numbers from ``first`` up to ``end`` were missing; they are not now."""
        for at, (begin, stop) in enumerate(self.holes):
            if begin <= first < stop:
                rest = [(begin, first), (end, stop)]
                self.holes[at : at + 1] = [hole for hole in rest if hole[0] < hole[1]]
                return True
        return False


class Sequence:
    """
    What a receiver has seen of one group, for the latest origins.

    Starts with the first batch that arrives: what was published before this process
    subscribed does not count as missed.
    """

    __slots__ = ("_max_origins", "_seen")

    def __init__(self, max_origins: int = MAX_ORIGINS) -> None:
        self._max_origins = max_origins
        #: The origin that was heard last is the last one.
        self._seen: dict[str, _Seen] = {}

    def record(self, batch: Batch) -> int | None:
        """
        Record ``batch``. Returns how many messages are missing directly before it, or None
        if it repeats what has arrived. A batch that the layer delivered late is no
        repetition.
        """
        first = batch.first
        end = first + len(batch.items)
        seen = self._seen.get(batch.origin)
        if seen is None:
            seen = _Seen(first)
            if len(self._seen) >= self._max_origins:
                del self._seen[next(iter(self._seen))]
        elif len(self._seen) > 1:
            del self._seen[batch.origin]
        self._seen[batch.origin] = seen
        missing = first - seen.expected
        if missing < 0:
            return 0 if seen.fill(first, end) else None
        if missing:
            seen.skip_to(first)
        seen.expected = end
        return missing
