"""
Digests of all tokens, in memory while somebody guesses: so that a guess costs no query,
and a good key is still told from a bad one.
"""

import asyncio
import contextvars
import logging
import time

from .conf import conf
from .judging import token_model
from .queries import run_query

logger = logging.getLogger(__name__)

#: Above this many tokens they are not kept in memory.
MAX_KNOWN = 100_000


class KnownTokens:
    """As the database had them ``RECHECK`` seconds ago, or since one was last changed."""

    def __init__(self) -> None:
        self._digests: frozenset[str] | None = None
        self._loaded_at: float | None = None
        self._loading: asyncio.Task[None] | None = None
        self._changes = 0

    async def has(self, digest: str) -> bool:
        """Whether it may be one; True where that cannot be known."""
        if self._loaded_at is None or time.monotonic() - self._loaded_at > conf.RECHECK:
            await self._load()
        return self._digests is None or digest in self._digests

    def forget(self) -> None:
        """Tokens have changed."""
        self._changes += 1
        self._digests = None
        self._loaded_at = None

    async def _load(self) -> None:
        """One query for all who ask meanwhile."""
        loop = asyncio.get_running_loop()
        if self._loading is None or self._loading.get_loop() is not loop:
            self._loading = loop.create_task(self._fetch(), context=contextvars.Context())
        await asyncio.wait([self._loading])

    async def _fetch(self) -> None:
        changes = self._changes
        digests = await run_query(_all_digests)
        self._loading = None
        if changes == self._changes:
            self._digests, self._loaded_at = digests, time.monotonic()


def _all_digests() -> frozenset[str] | None:
    try:
        digests = token_model().objects.values_list("digest", flat=True)[: MAX_KNOWN + 1]
        known = frozenset(digests)
    except Exception as error:
        # Then each is looked up, as without guessing.
        logger.error("cannot load which tokens there are: %r", error)
        return None
    return known if len(known) <= MAX_KNOWN else None
