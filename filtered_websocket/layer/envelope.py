"""
What crosses the channel layer: version, origin, sequence numbers, and how a group is
called there.

::

    {"v": 1, "o": origin, "g": group key, "s": first number, "m": [item, ...]}
    item = [id, kind, sender, payload, meta]

A batch has consecutive numbers per origin and group, stamped when it is built, so a
receiver can tell a batch it has seen from one it has missed. An unknown ``v`` is
skipped: during a rolling deploy two versions share the layer.
"""

import hashlib
import secrets
from collections import OrderedDict, deque
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from ..codecs.frames import Kind, Packed, is_utf8
from ..conf import conf

VERSION = 1
#: Longest group name, in characters.
MAX_GROUP_NAME = 1024
#: How many batches back a repeated one is recognised.
WINDOW = 64
#: How many origins a receiver remembers per group.
MAX_ORIGINS = 1024
#: Where the house talks to itself: no name that a site can give (see :func:`check_group`).
CONTROL = ""
#: ``meta`` key: ids of the connections that do not get the message.
EXCLUDE = "x"

_KINDS = frozenset(get_args(Kind))


class BadEnvelope(ValueError):
    """A dict from the layer that is no envelope of ours."""


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


class Batch(NamedTuple):
    """The content of one envelope."""

    origin: str
    key: str
    first: int
    items: list[Item]


def new_origin() -> str:
    """64 random bits that name one publishing hub of one process."""
    return secrets.token_hex(8)


def check_group(group: Any) -> str:
    """Return ``group``; TypeError or ValueError for what cannot name one."""
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

    Any Unicode name is safe there, and tells nothing to who lists Redis' channels.
    A lone surrogate hashes too.
    """
    if group == CONTROL:
        return f"{conf.NAMESPACE}.house"
    return f"{conf.NAMESPACE}.g.{_digest(check_group(group))}"


@lru_cache(1024)
def _digest(group: str) -> str:
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def seal(batch: Batch) -> dict[str, Any]:
    """The envelope for ``batch``."""
    return {
        "v": VERSION,
        "o": batch.origin,
        "g": batch.key,
        "s": batch.first,
        "m": [list(item) for item in batch.items],
    }


def _open_item(raw: Any) -> Item:
    number, kind, sender, payload, meta = raw
    if not (
        isinstance(number, int)
        and kind in _KINDS
        and isinstance(sender, str)
        and isinstance(payload, bytes)
        # A frame of text that is none would end every connection that it reaches.
        and (kind == "b" or is_utf8(payload))
        and isinstance(meta, dict)
        and (not meta or _is_list_of_ids(meta.get(EXCLUDE, [])))
    ):
        raise BadEnvelope(f"not an item: {raw!r:.80}")
    return Item(number, kind, sender, payload, meta)


def _is_list_of_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(key, str) for key in value)


def unseal(envelope: Any) -> Batch:
    """The batch in ``envelope``; :exc:`BadEnvelope` for anything else."""
    try:
        if envelope["v"] != VERSION:
            raise BadEnvelope(f"envelope version {envelope['v']!r}")
        origin, key, first = envelope["o"], envelope["g"], envelope["s"]
        items = [_open_item(raw) for raw in envelope["m"]]
    except (TypeError, KeyError, ValueError) as error:
        raise BadEnvelope(f"not an envelope: {error}") from error
    if not (isinstance(origin, str) and isinstance(key, str) and isinstance(first, int)):
        raise BadEnvelope("not an envelope: its origin, group or number")
    return Batch(origin, key, first, items)


class Stamper:
    """Numbers the messages of one origin, group by group."""

    def __init__(self, max_groups: int = 65_536) -> None:
        self.origin = new_origin()
        self._max_groups = max_groups
        self._next: dict[str, int] = {}

    def stamp(self, key: str, items: list[Item]) -> Batch:
        """The batch of ``items``, the next numbers of this group."""
        if key not in self._next and len(self._next) >= self._max_groups:
            # A forgotten group would start at 0 again and look like a repetition.
            # Under a new origin every receiver starts afresh.
            self.origin = new_origin()
            self._next.clear()
        first = self._next.get(key, 0)
        self._next[key] = first + len(items)
        return Batch(self.origin, key, first, items)


class _Seen(NamedTuple):
    recent: deque[int]
    expected: int


class Sequence:
    """
    What a receiver has seen of one group. Bounded: the oldest origin is forgotten.

    Starts with the first batch that arrives: what was published before this process
    listened was not missed.
    """

    def __init__(self, max_origins: int = MAX_ORIGINS) -> None:
        self._max_origins = max_origins
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def note(self, batch: Batch) -> int | None:
        """
        How many messages were missed just before ``batch``; ``None`` if it is one of
        the last 64 batches again. A late one, on a layer that reorders, is not.
        """
        end = batch.first + len(batch.items)
        seen = self._seen.get(batch.origin)
        if seen is None:
            seen = _Seen(deque(maxlen=WINDOW), batch.first)
            if len(self._seen) >= self._max_origins:
                self._seen.popitem(last=False)
        elif batch.first in seen.recent:
            return None
        seen.recent.append(batch.first)
        self._seen[batch.origin] = _Seen(seen.recent, max(seen.expected, end))
        self._seen.move_to_end(batch.origin)
        return max(0, batch.first - seen.expected)
