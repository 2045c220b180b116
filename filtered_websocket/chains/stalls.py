"""
Filters that have not returned when the socket of their connection is gone.

While a filter runs nothing is read from its socket, so nobody notices that the client has
left. Handlers that take long are therefore watched::

    Stalls   every CHECK_INTERVAL -> the readers whose handler runs for that long look ahead
    Reader   looks ahead          -> finds the disconnect behind what is still to be handled
    Grace    FILTER_GRACE later   -> the filter is cancelled, again and again until it ends
"""

import asyncio
from typing import Any, Protocol

from ..conf import conf
from ..logs import LogThrottle, fields_of, get_logger
from .watchdog import filter_of_task

logger = get_logger(__name__)
_throttle = LogThrottle()

#: How long a handler runs before its reader looks ahead, seconds.
CHECK_INTERVAL = 1.0
#: This part of FILTER_GRACE passes between the end of the socket, once it is noticed, and the
#: cancellation; to notice it may take CHECK_INTERVAL.
GRACE_PART = 0.8


def check_interval() -> float:
    """Seconds."""
    return float(min(CHECK_INTERVAL, conf.FILTER_GRACE / 10))


class LooksAhead(Protocol):
    """A reader, as :class:`Stalls` sees it."""

    def look_ahead(self) -> None: ...


class Stalls:
    """The handlers that run now, of one pipeline; has a timer only while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: Reader -> when its handler began, by the loop's clock.
        self._running: dict[LooksAhead, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, reader: LooksAhead) -> None:
        """A handler of ``reader`` begins."""
        self._running[reader] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(check_interval(), self._check)

    def end(self, reader: LooksAhead) -> None:
        """It has ended."""
        del self._running[reader]

    def _check(self) -> None:
        interval = check_interval()
        before = self._loop.time() - interval / 2
        for reader, since in tuple(self._running.items()):
            if since <= before:
                reader.look_ahead()
        self._timer = self._loop.call_later(interval, self._check) if self._running else None


class Grace:
    """Cancels ``task``, whose filter has not returned, once ``FILTER_GRACE`` is over."""

    def __init__(self, task: "asyncio.Task[Any]", connection: Any) -> None:
        self._task = task
        self._connection = connection
        self._cancelled = 0
        self._loop = task.get_loop()
        self._timer = self._loop.call_later(GRACE_PART * conf.FILTER_GRACE, self._cancel)

    def _cancel(self) -> None:
        if not self._cancelled:
            name = filter_of_task(self._task)
            if _throttle.note(name):
                logger.warning(
                    "cancelled %s: connection %s has ended, and it has not returned within"
                    " FILTER_GRACE (%s s; %d so far)",
                    name,
                    self._connection.id,
                    conf.FILTER_GRACE,
                    _throttle.counts[name],
                    extra=fields_of(self._connection),
                )
        self._cancelled += 1
        self._task.cancel()
        # Again for a filter that goes on, and for the next one of its chain.
        self._timer = self._loop.call_later(check_interval(), self._cancel)

    def stop(self) -> bool:
        """The filter has ended; whether it was cancelled, by this and by nobody else."""
        self._timer.cancel()
        for _ in range(self._cancelled):
            self._task.uncancel()
        return bool(self._cancelled) and not self._task.cancelling()
