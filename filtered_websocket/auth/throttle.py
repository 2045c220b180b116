"""
Bad credentials, counted by the address they come from.

In the memory of one process: a site of many processes grants as many times the limit.
"""

import asyncio
import contextvars
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..conf import conf
from ..threads.database import run_query
from .validity import token_rows

#: How long lies between two queries, seconds: the longest that a key waits for its turn.
LOOKUP_EVERY = 1.0
#: How many keys wait for one query; more are refused unseen.
MAX_WAITING = 500

#: How long a bad credential is remembered against its address, seconds.
WINDOW = 10.0
#: The longest that a bad credential is kept waiting for its answer, seconds.
MAX_DELAY = 1.0
#: How many addresses are remembered; then the one whose window ends first is forgotten.
MAX_ADDRESSES = 10_000


class _Count(NamedTuple):
    bad: int
    until: float


class Throttle:
    """Bounded: the memory of it does not grow with the number of attackers."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        #: Address -> credentials that are being looked up: bad, until one is found good.
        self._asked: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def _count(self, address: str) -> _Count:
        now = time.monotonic()
        count = self._counts.get(address)
        return count if count is not None and now < count.until else _Count(0, now + WINDOW)

    def note(self, address: str) -> float:
        """Count a bad credential; how long its answer should wait, seconds."""
        bad, until = self._count(address)
        if not bad:
            # A new window ends last, also that of an address seen before.
            self._counts.pop(address, None)
            if len(self._counts) >= MAX_ADDRESSES:
                self._counts.popitem(last=False)
        self._counts[address] = _Count(bad + 1, until)
        limit = conf.GUESS_LIMIT
        if limit is None or bad >= limit:
            # Off; or refused for nothing, so that waiting would only cost us a socket.
            return 0.0
        return MAX_DELAY * (bad + 1) / float(limit)

    def is_over(self, address: str) -> bool:
        """Whether this address has had its share of bad credentials, or may soon."""
        limit = conf.GUESS_LIMIT
        bad = self._count(address).bad + self._asked[address]
        return limit is not None and bad >= limit

    @contextmanager
    def looking_up(self, address: str) -> Iterator[None]:
        """While the database is asked about a credential from there."""
        self._asked[address] += 1
        try:
            yield
        finally:
            self._asked[address] -= 1
            if not self._asked[address]:
                del self._asked[address]


class KeyLookups:
    """Digests that wait for the next query."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._next: asyncio.Task[frozenset[str]] | None = None
        self._asked_at = -LOOKUP_EVERY

    async def is_known(self, digest: str) -> bool:
        """Whether a token has this digest. Raises what the database raises."""
        loop = asyncio.get_running_loop()
        if self._next is None or self._next.get_loop() is not loop:
            self._waiting = set()
            self._next = loop.create_task(self._ask(), context=contextvars.Context())
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.add(digest)
        asking = self._next
        # Not awaited itself: who gives up does not end it for the others.
        await asyncio.wait([asking])
        return digest in asking.result()

    async def _ask(self) -> frozenset[str]:
        await asyncio.sleep(self._asked_at + LOOKUP_EVERY - time.monotonic())
        waiting, self._next = self._waiting, None
        self._asked_at = time.monotonic()
        known: frozenset[str] = await run_query(_known_among, waiting)
        return known


def _known_among(digests: set[str]) -> frozenset[str]:
    found: list[str] = token_rows().filter(digest__in=digests).values_list("digest", flat=True)
    return frozenset(found)
