"""
Who blocks the event loop: a filter that never awaits stops every connection of its process,
and nothing on the loop can say so meanwhile.

A thread looks at a beat that the loop makes twice a second. Where the beat has stopped, the
stack of the loop's thread tells what runs there. Messages cost nothing of this.
"""

import asyncio
import sys
import threading
from collections import Counter
from types import FrameType

from ..logs import LogThrottle, get_logger
from .chain import Chain

logger = get_logger(__name__)

#: Pause between two beats, and between two looks, seconds.
EVERY = 0.5
#: Looks at one and the same beat until it has stopped. Looks are counted and not seconds:
#: a process that was stopped as a whole has not been looked at.
LOOKS = 3

_CHAIN_RUNS = (Chain.run.__code__, Chain.arun.__code__)


class Watchdog:
    """One per hub, for the loop whose thread calls :meth:`start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counts: Counter[str]) -> None:
        self._loop = loop
        self._counts = counts
        self._throttle = LogThrottle()
        self._beats = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch, until :meth:`stop`; on the loop."""
        self._stopped = threading.Event()
        self._beat()
        threading.Thread(
            target=self._look,
            args=(threading.get_ident(), self._stopped),
            name="fws-watchdog",
            daemon=True,
        ).start()

    def stop(self) -> None:
        """On the loop."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(EVERY, self._beat)

    def _look(self, thread: int, stopped: threading.Event) -> None:
        seen = looks = 0
        while not stopped.wait(EVERY) and not self._loop.is_closed():
            # One that is not run at all has nobody to serve.
            is_late = self._beats == seen and self._loop.is_running()
            looks = looks + 1 if is_late else 1
            seen = self._beats
            if looks == LOOKS:
                self._report(sys._current_frames().get(thread))

    def _report(self, frame: FrameType | None) -> None:
        who = culprit(frame)
        self._counts["blocked"] += 1
        if self._throttle.note(who):
            logger.warning("the event loop is blocked by %s: nobody is served meanwhile", who)


def culprit(frame: FrameType | None) -> str:
    """The filter that runs in ``frame``, if one does, and the line that it is at."""
    if frame is None:
        return "a thread that has ended"
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    below: FrameType | None = frame
    while below is not None:
        if below.f_code in _CHAIN_RUNS:
            return f"{below.f_locals['path']} ({where})"
        below = below.f_back
    return where
