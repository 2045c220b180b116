"""
Watchdog thread: reports which filter blocks the event loop.

A filter that computes or blocks without awaiting stops every connection of its process, and
no code on the loop can report it meanwhile. The loop increments a counter every 0.5 s; the
thread reads it. If the counter stops, the stack of the loop's thread shows which filter runs.
Handling a message costs nothing extra.
"""

import asyncio
import sys
import threading
from collections import Counter, deque
from types import FrameType
from typing import Any

from .. import observe
from ..logs import LogThrottle, get_logger
from .chain import Chain

logger = get_logger(__name__)

#: Time between two increments of the counter, and between two reads of it, seconds.
INTERVAL = 0.5
#: After so many reads of the same value the loop counts as blocked. Reads are counted, not
#: seconds: while the whole process is stopped (SIGSTOP, a paused machine) nothing is read.
MAX_SAME_READS = 3
#: So many increments are about a minute.
LAGS = 120

_CHAIN_RUNS = (Chain.run.__code__, Chain.arun.__code__)


class Watchdog:
    """One per hub, for the loop whose thread calls :meth:`start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counts: Counter[str]) -> None:
        self._loop = loop
        self._counts = counts
        self._throttle = LogThrottle()
        self._ticks = 0
        self._due = 0.0
        #: How late the loop was, seconds: for its last increment, and at most in the last minute.
        self.lag = 0.0
        self._lags: deque[float] = deque([0.0], maxlen=LAGS)
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch until :meth:`stop`. Call it on the loop's thread."""
        self._stopped = threading.Event()
        self._due = self._loop.time()
        self._tick()
        threading.Thread(
            target=self._watch,
            args=(threading.get_ident(), self._stopped),
            name="fws-watchdog",
            daemon=True,
        ).start()

    def stop(self) -> None:
        """Stop watching. Call it on the loop's thread."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        self._tell_tick(is_last=True)

    @property
    def worst_lag(self) -> float:
        """How late the loop was at most in the last minute, seconds."""
        return max(self._lags)

    def _tick(self) -> None:
        self._ticks += 1
        now = self._loop.time()
        self.lag = max(0.0, now - self._due)
        self._lags.append(self.lag)
        observe.loop_lag.note(self.lag)
        self._due = now + INTERVAL
        self._timer = self._loop.call_later(INTERVAL, self._tick)
        self._tell_tick()

    def _tell_tick(self, is_last: bool = False) -> None:
        for call in observe.on_tick:
            try:
                call(is_last)
            except Exception:
                self._counts["task_failed"] += 1
                if self._throttle.note("tick"):
                    logger.exception("cannot call %r", call)

    def _watch(self, thread: int, stopped: threading.Event) -> None:
        last = same_reads = 0
        while not stopped.wait(INTERVAL) and not self._loop.is_closed():
            # A loop that is not running blocks nobody.
            is_late = self._ticks == last and self._loop.is_running()
            same_reads = same_reads + 1 if is_late else 1
            last = self._ticks
            if same_reads == MAX_SAME_READS:
                try:
                    self._report(sys._current_frames().get(thread))
                except Exception:
                    # The stack may change while it is read; the thread has to go on.
                    self._counts["task_failed"] += 1
                    logger.exception("the watchdog cannot tell what blocks the event loop")

    def _report(self, frame: FrameType | None) -> None:
        blocker = find_blocker(frame)
        self._counts["blocked"] += 1
        if self._throttle.note(blocker):
            logger.warning(
                "the event loop is blocked by %s: every connection of this process waits", blocker
            )


def find_blocker(frame: FrameType | None) -> str:
    """The running filter if the stack of ``frame`` has one, and the current line."""
    if frame is None:
        return "a thread that has ended"
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    below: FrameType | None = frame
    while below is not None:
        if path := _filter_in(below):
            return f"{path} ({where})"
        below = below.f_back
    return where


def _filter_in(frame: FrameType) -> str:
    """The filter that ``frame`` runs, empty if none: a watched chain is run by one more frame."""
    return str(frame.f_locals["path"]) if frame.f_code in _CHAIN_RUNS else ""


def filter_of_error(error: BaseException) -> str:
    """The filter that raised ``error``, empty if none did."""
    step = error.__traceback__
    while step is not None:
        if path := _filter_in(step.tb_frame):
            return path
        step = step.tb_next
    return ""


def filter_of_task(task: "asyncio.Task[Any]") -> str:
    """The filter that ``task`` awaits, if it awaits one."""
    step: Any = task.get_coro()
    while step is not None:
        frame: FrameType | None = getattr(step, "cr_frame", None)
        if frame is not None and (path := _filter_in(frame)):
            return path
        step = getattr(step, "cr_await", None)
    return "what the application awaits"
