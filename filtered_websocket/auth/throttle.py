"""
Bad credentials, counted by the address they come from.

Each process counts for itself: a site of several processes allows several times the limit.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..conf import conf
from ..threads.database import run_query
from .tenants import load_tenant
from .validity import token_rows

#: Seconds between two queries for addresses over the limit: the longest that a key waits.
LOOKUP_EVERY = 1.0
#: How many keys wait for one query; more are refused without one.
MAX_WAITING = 500

#: How long a bad credential is remembered against its address, seconds.
WINDOW = 10.0
#: The longest delay before the answer to a bad credential, seconds.
MAX_DELAY = 1.0
#: How many addresses are remembered; then the one whose window ends first is forgotten.
MAX_ADDRESSES = 10_000


class _Count(NamedTuple):
    bad: int
    until: float


class Throttle:
    """Its memory is bounded by ``MAX_ADDRESSES``, however many attackers there are."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        #: Address -> how many credentials are being looked up; they count as bad meanwhile.
        self._pending: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def _count(self, address: str) -> _Count:
        now = time.monotonic()
        count = self._counts.get(address)
        return count if count is not None and now < count.until else _Count(0, now + WINDOW)

    def note(self, address: str) -> float:
        """Count a bad credential. Returns how many seconds to delay the answer."""
        bad, until = self._count(address)
        if not bad:
            # Kept in the order in which windows end; a new one ends last.
            self._counts.pop(address, None)
            if len(self._counts) >= MAX_ADDRESSES:
                self._counts.popitem(last=False)
        self._counts[address] = _Count(bad + 1, until)
        limit = conf.GUESS_LIMIT
        if limit is None or bad >= limit:
            # Over the limit it is refused without a query: a delay would only keep a socket open.
            return 0.0
        return MAX_DELAY * (bad + 1) / float(limit)

    def is_over(self, address: str) -> bool:
        """Whether this address has reached the limit, those being looked up included."""
        limit = conf.GUESS_LIMIT
        bad = self._count(address).bad + self._pending[address]
        return limit is not None and bad >= limit

    @contextmanager
    def looking_up(self, address: str) -> Iterator[None]:
        """While the database looks up a credential from ``address``."""
        self._pending[address] += 1
        try:
            yield
        finally:
            self._pending[address] -= 1
            if not self._pending[address]:
                del self._pending[address]


class KeyLookups:
    """Looks many keys of a tenant up in one query per ``LOOKUP_EVERY``."""

    def __init__(self) -> None:
        #: Tenant -> the query that comes next, and the digests that wait for it.
        self._next: dict[Hashable, tuple[asyncio.Task[frozenset[str]], set[str]]] = {}
        #: Tenant -> when its last query was.
        self._last_query: dict[Hashable, float] = {}

    async def is_known(self, digest: str) -> bool:
        """Whether a token has this digest. Raises what the database raises."""
        loop = asyncio.get_running_loop()
        tenant = load_tenant()()
        query, waiting = self._next.get(tenant, (None, set()))
        # A query that is done here was cancelled while it waited.
        if query is None or query.done() or query.get_loop() is not loop:
            waiting = set()
            # In the context of the first caller: any of the same tenant would do.
            query = loop.create_task(self._query(tenant, waiting))
            self._next[tenant] = query, waiting
        if len(waiting) >= MAX_WAITING:
            return False
        waiting.add(digest)
        # Not awaited directly: a caller that is cancelled must not cancel it for the others.
        await asyncio.wait([query])
        return digest in query.result()

    async def _query(self, tenant: Hashable, waiting: set[str]) -> frozenset[str]:
        due = self._last_query.get(tenant, -LOOKUP_EVERY) + LOOKUP_EVERY
        await asyncio.sleep(due - time.monotonic())
        self._next.pop(tenant, None)
        now = time.monotonic()
        recent = {name: at for name, at in self._last_query.items() if now - at < LOOKUP_EVERY}
        self._last_query = {**recent, tenant: now}
        known: frozenset[str] = await run_query(_known_among, waiting)
        return known


def _known_among(digests: set[str]) -> frozenset[str]:
    found: list[str] = token_rows().filter(digest__in=digests).values_list("digest", flat=True)
    return frozenset(found)
