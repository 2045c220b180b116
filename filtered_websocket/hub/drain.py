"""
Drain: when a server process ends, every client gets close code 4200 and its disconnect
chain runs.

Servers end connections on SIGTERM without a close frame. So a hub of the main thread
installs signal handlers that run before the server's own::

    SIGTERM -> Drain -> the listening socket is closed, late handshakes are refused,
                        /health/ready says 503
                        4200 to every client, spread over DRAIN_WINDOW
                        all have ended, or DRAIN_DEADLINE has passed
                     -> the server's own handler, which ends the process

A second signal goes to the server's handler at once.
"""

import asyncio
import atexit
import contextvars
import gc
import signal
import threading
from types import FrameType
from typing import Any, Protocol

from ..close_codes import RESTART
from ..conf import conf
from ..connections.connection import Connection
from ..logs import get_logger
from ..threads.loop_signals import LoopHandler, loop_handler
from ..transports.listening import end_pauses, stop_listening

logger = get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Pause between two checks whether all connections have ended, seconds.
POLL = 0.01
#: Where closing takes longer than it may, so many connections are closed in one iteration of
#: the event loop, until half of the deadline has passed: the others are served meanwhile.
BATCH = 32

#: With no ``DRAIN_WINDOW``, so many connections are closed a second, as by Phoenix, whose drainer
#: ends 10 000 every two seconds (``Phoenix.Socket``); more than that in the same two seconds.
PER_SECOND, LONGEST = 5000, 2.0

#: Close code and reason while the process drains.
DRAINING = (RESTART, "the server ends")
#: Set when this process has begun to end.
ending = threading.Event()


@atexit.register
def skip_collections() -> None:
    """
    Have Python end without looking for garbage, if this process has drained: among what
    5 000 connections leave behind that takes two seconds, during which nobody serves.
    """
    if ending.is_set():
        gc.freeze()


class Host(Protocol):
    """The part of a hub that is used here."""

    loop: asyncio.AbstractEventLoop
    connections: dict[str, Connection]

    @property
    def over(self) -> bool: ...


class Drain:
    """One per hub. Methods run on the hub's loop unless they say otherwise."""

    def __init__(self, host: Host) -> None:
        self._host = host
        #: Signal -> the handler that was there before ours.
        self._before: dict[int, Any] = {}
        self._watching = False
        self._task: asyncio.Task[None] | None = None

    # Signals

    def watch(self) -> None:
        """Install signal handlers, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._watching = True
        for number in SIGNALS:
            before = loop_handler(self._host.loop, number) or signal.getsignal(number)
            if self._before.get(number, before) != before:
                continue  # installed after our handler, and calls it
            # An ignored signal stays ignored; a handler that is not Python's (None) could
            # not be called afterwards.
            if before not in (signal.SIG_IGN, None):
                self._before[number] = before
                if isinstance(before, LoopHandler):
                    self._host.loop.remove_signal_handler(number)
                signal.signal(number, self._on_signal)

    def unwatch(self) -> None:
        """Restore the former handlers, unless another one was installed since."""
        if not self._watching:
            return
        self._watching = False
        for number, before in self._before.items():
            if signal.getsignal(number) != self._on_signal:
                continue
            if isinstance(before, LoopHandler):
                self._host.loop.add_signal_handler(number, before.callback, *before.args)
            else:
                signal.signal(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; it runs between any two instructions of the main thread."""
        before = self._before[number]
        if not self._watching or ending.is_set():
            _pass_on(before, number, frame)
            return
        ending.set()
        # Nothing else here: the interrupted code may be in the middle of a write to the log.
        try:
            self._host.loop.call_soon_threadsafe(self._begin, before, number)
        except RuntimeError:  # the loop was closed meanwhile
            _pass_on(before, number, frame)

    def _begin(self, before: Any, number: int) -> None:
        logger.warning("%s: closing every connection", signal.Signals(number).name)
        stop_listening(self._before.values())
        # In a context of its own, not that of the code that the signal interrupted.
        self._task = self._host.loop.create_task(
            self.run(), name="fws-drain", context=contextvars.Context()
        )
        # Not in the task: the server's handler may raise KeyboardInterrupt or SystemExit.
        self._task.add_done_callback(lambda task: _end(before, number))

    # Closing all

    async def run(self) -> None:
        """Refuse new connections and close all; return when they have ended."""
        ending.set()
        window = conf.DRAIN_WINDOW
        if window is None:
            window = min(len(self._host.connections) / PER_SECOND, LONGEST)
        await self.close_all(*DRAINING, conf.DRAIN_DEADLINE, window)

    async def close_all(self, code: int, reason: str, timeout: float, window: float = 0.0) -> None:
        """
        Close every connection, spread over ``window`` seconds. Returns when the last has
        ended and its close frame was sent, or after ``timeout`` seconds.
        """
        loop = self._host.loop
        started = loop.time()
        connections = list(self._host.connections.values())
        try:
            async with asyncio.timeout(timeout):
                for number, connection in enumerate(connections):
                    # Clients that are closed together would reconnect together.
                    wait = started + window * number / len(connections) - loop.time()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    elif number % BATCH == 0 and loop.time() < started + timeout / 2:
                        await asyncio.sleep(0)
                    connection.close(code, reason)
                # No server tells when a socket's buffer is empty.
                while (  # noqa: ASYNC110
                    not self._host.over or any(one.transport.leaving for one in connections)
                ):
                    await asyncio.sleep(POLL)
        except TimeoutError:
            for connection in connections:
                connection.close(code, reason)
            logger.warning(
                "%d connections had not ended within %s s", len(self._host.connections), timeout
            )


def _end(handler: Any, number: int) -> None:
    """Nobody is left: the server gets its signal, and need not wait."""
    _pass_on(handler, number, None)
    end_pauses(handler)


def _pass_on(handler: Any, number: int, frame: FrameType | None) -> None:
    """Do what the former handler would have done."""
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, handler)
        signal.raise_signal(number)
