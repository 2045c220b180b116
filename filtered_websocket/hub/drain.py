"""
The end of a process that serves: every client is told, and its disconnect chain runs.

A server's own shutdown cancels what serves a connection, without a close frame. So a
hub of the main thread stands in front of the server's signal handlers::

    SIGTERM -> Drain -> no new connections, /health/ready says 503
                        4200 to every client, spread over DRAIN_WINDOW
                        all are over, or DRAIN_DEADLINE has passed
                     -> the server's own handler, which ends it

A second signal goes to the server's handler at once.
"""

import asyncio
import contextvars
import signal
import threading
from types import FrameType
from typing import Any, Protocol

from ..close_codes import RESTART
from ..conf import conf
from ..connections.connection import Connection
from ..logs import get_logger

logger = get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Pause between two looks whether all are over, seconds.
LOOK_AGAIN = 0.01

#: Code and reason for who is here, and for who comes, when the process ends.
DRAINING = (RESTART, "the server ends")
#: Set when this process is on its way out, whatever a server then makes of it.
ending = threading.Event()


class Host(Protocol):
    """The part of a hub that is used here."""

    loop: asyncio.AbstractEventLoop
    connections: dict[str, Connection]

    @property
    def over(self) -> bool: ...


class Drain:
    """One per hub. On the hub's loop unless it says otherwise."""

    def __init__(self, host: Host) -> None:
        self._host = host
        #: Signal -> the handler that was there before ours.
        self._before: dict[int, Any] = {}
        self._watching = False
        self._task: asyncio.Task[None] | None = None

    # Signals

    def watch(self) -> None:
        """Stand in front of the handlers of the main thread; nothing in any other."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._watching = True
        for number in SIGNALS:
            before = signal.getsignal(number)
            if self._before.get(number, before) != before:
                continue  # who stands in front of us since then, and calls us
            # What is ignored stays so; what is no Python's could not be called.
            if before not in (signal.SIG_IGN, None):
                self._before[number] = before
                signal.signal(number, self._asked)

    def unwatch(self) -> None:
        """Put back what was there, unless somebody stands in front of us."""
        if not self._watching:
            return
        self._watching = False
        for number, before in self._before.items():
            if signal.getsignal(number) == self._asked:
                signal.signal(number, before)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """A signal came; between any two instructions of the main thread."""
        before = self._before[number]
        if not self._watching or ending.is_set():
            _pass_on(before, number, frame)
            return
        ending.set()
        # Nothing else here: what it interrupted may be half-way through a write to the log.
        try:
            self._host.loop.call_soon_threadsafe(self._begin, before, number)
        except RuntimeError:  # its loop was closed under it
            _pass_on(before, number, frame)

    def _begin(self, before: Any, number: int) -> None:
        logger.warning("%s: closing every connection", signal.Signals(number).name)
        # In a context of its own, not that of what the signal interrupted.
        self._task = self._host.loop.create_task(
            self.run(), name="fws-drain", context=contextvars.Context()
        )
        # Not in the task, as the handler may raise KeyboardInterrupt or SystemExit.
        self._task.add_done_callback(lambda task: _pass_on(before, number, None))

    # The end

    async def run(self) -> None:
        """Take no new connections, end all there are; return when they are over."""
        ending.set()
        await self.close_all(*DRAINING, conf.DRAIN_DEADLINE, conf.DRAIN_WINDOW)

    async def close_all(self, code: int, reason: str, timeout: float, window: float = 0.0) -> None:
        """
        Close every connection, spread over ``window`` s, and return when the last is over
        and its close frame has left, or after ``timeout`` s.
        """
        loop = self._host.loop
        started = loop.time()
        connections = list(self._host.connections.values())
        try:
            async with asyncio.timeout(timeout):
                for number, connection in enumerate(connections):
                    # All at once they would come back all at once.
                    wait = started + window * number / len(connections) - loop.time()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    connection.close(code, reason)
                # A socket tells nobody when it is empty.
                while (  # noqa: ASYNC110
                    not self._host.over or any(one.transport.leaving for one in connections)
                ):
                    await asyncio.sleep(LOOK_AGAIN)
        except TimeoutError:
            for connection in connections:
                connection.close(code, reason)
            logger.warning(
                "%d connections were not over within %s s", len(self._host.connections), timeout
            )


def _pass_on(handler: Any, number: int, frame: FrameType | None) -> None:
    """What would have happened without us."""
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, handler)
        signal.raise_signal(number)
