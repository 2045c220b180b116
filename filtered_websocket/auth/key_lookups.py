"""
Keys from addresses that guess, looked up together: one query a second, whoever and however
many they are, and a good key among them still gets in.
"""

import asyncio
import contextvars
import time

from ..threads.database import run_query
from .validity import token_rows

#: How long lies between two queries, seconds: the longest that a key waits for its turn.
EVERY = 1.0
#: How many keys wait for one query; more are refused unseen.
MAX_WAITING = 500


class Inquiries:
    """Digests that wait for the next query."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._next: asyncio.Task[frozenset[str]] | None = None
        self._asked_at = -EVERY

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
        await asyncio.sleep(self._asked_at + EVERY - time.monotonic())
        waiting, self._next = self._waiting, None
        self._asked_at = time.monotonic()
        known: frozenset[str] = await run_query(_known_among, waiting)
        return known


def _known_among(digests: set[str]) -> frozenset[str]:
    found: list[str] = token_rows().filter(digest__in=digests).values_list("digest", flat=True)
    return frozenset(found)
