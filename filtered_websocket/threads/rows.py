"""
What a table of the database has, kept in memory while an event loop is told of its changes.

::

    find -> known, and no older than RECHECK -> at once
         -> else                             -> one query, for all who wait
"""

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from ..conf import conf
from ..logs import LogThrottle, get_logger
from .database import run_query

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

logger = get_logger(__name__)
_throttle = LogThrottle()


class Observer(Protocol[T_contra]):
    """Is told what the table has whenever it was read."""

    def rows_read(self, rows: Mapping[str, T_contra]) -> None: ...


class KnownRows(Generic[T]):
    """
    Belongs to an event loop.

    ``read(known)`` asks the database, in a thread: it returns what there is, by key, and takes
    from ``known`` what has not changed. ``is_told()`` says whether changes are told now.
    """

    def __init__(
        self,
        what: str,
        read: Callable[[Mapping[str, T]], Mapping[str, T]],
        is_told: Callable[[], bool],
    ) -> None:
        self._what = what
        self._read_rows = read
        self._is_told = is_told
        #: Replaced, never changed.
        self.rows: Mapping[str, T] = {}
        self.observers: WeakSet[Observer[T]] = WeakSet()
        self._was_read = False
        self._read_at = -math.inf
        #: How often the table has changed.
        self._changes = 0
        self._reading: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to read again. From any thread."""
        return time.monotonic() - self._read_at < conf.RECHECK and self._is_told()

    async def find(self, key: str) -> T | None:
        """
        What has this key. Raises what the database raises, if it has never answered; later,
        what is known stays.
        """
        if not self.is_current:
            # Not awaited directly: who is cancelled must not cancel it for the others.
            await asyncio.wait([self._refresh()])
            if not self._was_read and self._error is not None:
                raise self._error
        return self.rows.get(key)

    def changed(self) -> None:
        """The table has changed: read it again, unless nobody has asked for it yet."""
        self._changes += 1
        self._read_at = -math.inf
        if self._was_read:
            self._refresh()

    def _refresh(self) -> "asyncio.Task[None]":
        if self._reading is None or self._reading.done():
            # Not in the context of who asks first.
            self._reading = asyncio.get_running_loop().create_task(
                self._read(), name="fws-rows", context=contextvars.Context()
            )
        return self._reading

    async def _read(self) -> None:
        try:
            changes = -1
            while changes != self._changes:
                changes = self._changes
                rows = await run_query(self._read_rows, self.rows)
        except Exception as error:
            self._error = error
            if self._was_read:
                if _throttle.note(self._what):
                    logger.error("cannot read %s: %r; those that are known stay", self._what, error)
                self._read_later()
            return
        self._was_read, self._read_at, self.rows = True, time.monotonic(), rows
        for observer in tuple(self.observers):
            observer.rows_read(rows)
        self._read_later()

    def _read_later(self) -> None:
        """While anybody is told: a change that nobody has told is found, too."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(conf.RECHECK, self._look)

    def _look(self) -> None:
        if self.observers:
            self._refresh()
