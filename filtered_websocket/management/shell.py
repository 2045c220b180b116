"""
What the commands of a shell have in common: a line for each thing, flushed at once; a quiet end
on Ctrl-C and where nobody reads any more; and one line, with the cure, when something is wrong.
"""

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.core.management.base import BaseCommand, CommandError

from ..conf import conf, describe
from ..logs import printable

#: The exit status after Ctrl-C, as of shells.
INTERRUPTED = 130
#: So much may wait for what reads the lines, bytes. Then lines are dropped and counted.
MAX_WAITING = 64 * 1024 * 1024
#: About the most bytes of one write.
MAX_WRITE = 65_536
#: How long the end waits for what reads the lines, seconds.
LINGER = 1.0


class ShellCommand(BaseCommand):
    """Its :meth:`run` may raise :exc:`CommandError`, KeyboardInterrupt and BrokenPipeError."""

    #: Looking at a site must work even if a check fails.
    requires_system_checks: list[str] = []
    name = ""
    #: Called with the options.
    run: Callable[..., None]

    def handle(self, *args: Any, **options: Any) -> None:
        if sys.stdout is None or sys.stderr is None:
            raise CommandError("standard output and standard error must be open")
        try:
            self.run(**options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            drop_output(self.stdout)

    def note(self, text: str) -> None:
        """One line on standard error, if that is still read."""
        with contextlib.suppress(OSError):
            # Without str as its style, Django prints it in red, as an error.
            self.stderr.write(f"{self.name}: {printable(text)}", str)


def drop_output(stream: Any) -> None:
    """Nobody reads standard output any more: Python must not fail on that again at exit."""
    with contextlib.suppress(OSError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def took(seconds: float) -> str:
    """How long something took, for people."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} us"


def check_layer() -> None:
    """:exc:`CommandError` where no channel layer leads to other processes."""
    alias = conf.CHANNEL_LAYER
    try:
        layer = get_channel_layer(alias)
    except Exception as error:
        raise CommandError(
            f"the channel layer {alias!r} cannot be made: {describe(error)}"
        ) from None
    if layer is None:
        raise CommandError(
            f"CHANNEL_LAYERS has no {alias!r}: configure channels_redis.pubsub, which leads to the"
            " processes that serve"
        )
    if isinstance(layer, InMemoryChannelLayer):
        raise CommandError(
            f"the channel layer {alias!r} is in memory, and leads to no other process: configure"
            " channels_redis.pubsub in CHANNEL_LAYERS"
        )


class LineWriter:
    """
    Writes lines from a thread of its own: what reads them may be slow, and must not keep the
    event loop from its connections. ``on_closed`` is called in that thread when nobody reads, or
    it cannot write.
    """

    def __init__(self, stream: Any, on_closed: Callable[[], object]) -> None:
        self._stream = stream
        self._on_closed = on_closed
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._change = threading.Condition()
        self._is_over = False
        self._error: OSError | None = None
        #: Lines that were not written because too many waited.
        self.dropped = 0
        # Not joined where what reads does not read.
        self._thread = threading.Thread(target=self._run, name="fws-lines", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Write ``line``, later."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._change:
            if self._size + len(data) > MAX_WAITING:
                self.dropped += 1
                return
            self._waiting.append(data)
            self._size += len(data)
            self._change.notify()

    def close(self) -> None:
        """Wait for what reads, but not for long."""
        with self._change:
            self._is_over = True
            self._change.notify()
        self._thread.join(LINGER)

    def _run(self) -> None:
        try:
            while some := self._next():
                self._write(some)
        except OSError as error:
            self._error = error
            self._on_closed()

    def stop_reason(self) -> Exception:
        """Why nothing more is written: nobody reads, or what the system says, as of a full disk."""
        if self._error is None or isinstance(self._error, BrokenPipeError):
            return BrokenPipeError()
        return CommandError(f"cannot write to standard output: {self._error.strerror}")

    def _next(self) -> bytes:
        """What is written at once; nothing at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._is_over)
            some, size = [], 0
            while self._waiting and size < MAX_WRITE:
                some.append(self._waiting.popleft())
                size += len(some[-1])
            self._size -= size
        return b"".join(some)

    def _write(self, data: bytes) -> None:
        try:
            number = self._stream.fileno()
        except OSError:
            self._stream.write(data.decode())
            return
        # Not by Python's buffer: a thread that waits in there would break the end of the process.
        while data:
            data = data[os.write(number, data) :]


@contextlib.contextmanager
def told_when_closed(stream: Any, on_closed: Callable[[], object]) -> Iterator[None]:
    """
    ``with``: ``on_closed`` is called once nobody reads ``stream``, if that is a pipe, also while
    nothing is written. On an event loop.
    """
    loop = asyncio.get_running_loop()
    number = -1
    # No file; or one that cannot be waited for.
    with contextlib.suppress(OSError, NotImplementedError):
        number = stream.fileno()
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            # Of the end that is written to, only that the other one is closed can be read.
            loop.add_reader(number, on_closed)
    try:
        yield
    finally:
        if number >= 0:
            loop.remove_reader(number)
