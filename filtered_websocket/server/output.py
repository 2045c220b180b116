"""
Standard output and error written by a thread, so that a pipe that nobody reads, a full disk
or a stopped terminal cannot block the event loop, and with it every connection.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ..logs import get_logger

logger = get_logger(__name__)

#: Characters that may wait to be written. Lines beyond that are dropped and counted.
MAX_WAITING = 1_048_576
#: How long the program waits at its end for output to be written, seconds.
END_TIMEOUT = 1.0


class BufferedStream:
    """Replaces ``sys.stdout`` or ``sys.stderr``. Lines are written whole or dropped whole."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name
        self._file: int = stream.fileno()
        self._encoding: str = stream.encoding
        self._changed = threading.Condition()
        self._line = ""
        self._waiting: list[str] = []
        #: Characters that wait or are being written.
        self._size = 0
        #: Lines that were dropped since the last log line about it.
        self._dropped = 0
        self._is_busy = False
        self._is_closed = False
        threading.Thread(target=self._write_all, name=f"fws-{name}", daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Queue ``text``; never waits."""
        with self._changed:
            lines, newline, rest = (self._line + text).rpartition("\n")
            self._line = rest
            if newline and not self._is_closed:
                lines += newline
                if self._size + len(lines) > MAX_WAITING:
                    self._dropped += lines.count("\n")
                else:
                    self._waiting.append(lines)
                    self._size += len(lines)
                    self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing to do: complete lines are queued already."""

    def finish(self) -> None:
        """Return when everything is written, or after ``END_TIMEOUT``."""
        if self._line:
            self.write("\n")
        with self._changed:
            self._changed.wait_for(lambda: not self._size and not self._is_busy, END_TIMEOUT)
            self._is_closed = True
            self._changed.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                text, self._waiting = "".join(self._waiting), []
                self._is_busy = True
            try:
                self._write(text.encode(self._encoding, "backslashreplace"))
            except OSError:
                text = self._reader_gone(text)
            with self._changed:
                self._size -= len(text)
                dropped, self._dropped = self._dropped, 0
            if dropped:
                logger.warning(
                    "dropped %d lines for %s: it was read too slowly", dropped, self._name
                )
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        # Not by the stream itself, whose lock this thread would hold at the program's end.
        while data:
            data = data[os.write(self._file, data) :]

    def _reader_gone(self, text: str) -> str:
        """Nobody can read the output any more: drop what waits. Returns all unwritten text."""
        with self._changed:
            self._is_closed = True
            text += "".join(self._waiting)
            self._waiting = []
        return text


@contextlib.contextmanager
def buffered_output() -> Iterator[None]:
    """Replace standard output and error by :class:`BufferedStream`, where they are files."""
    before = sys.stdout, sys.stderr
    streams = []
    for attribute, name in (("stdout", "standard output"), ("stderr", "standard error")):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream = BufferedStream(getattr(sys, attribute), name)
            setattr(sys, attribute, stream)
            streams.append(stream)
    try:
        yield
    finally:
        for stream in streams:
            stream.finish()
        sys.stdout, sys.stderr = before
