"""Logging: text from clients cannot add log lines, and repeated messages are limited."""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Any

#: At most one line per subject in this time, seconds.
EVERY = 10.0
#: How many subjects are remembered. One more, and all are forgotten and may be logged again.
MAX_SUBJECTS = 1024
#: Longest value in a line, and longest line of an exception, in characters.
MAX_LENGTH = 256


def get_logger(name: str) -> logging.Logger:
    """
    The logger of a module. Each record is one line: control characters in arguments and in
    exception messages are escaped, and both are cut at ``MAX_LENGTH``.
    """
    logger = logging.getLogger(name)
    logger.addFilter(make_one_line)
    return logger


def make_one_line(record: logging.LogRecord) -> bool:
    """Escape the arguments and the exception of ``record``; they may hold client input."""
    if isinstance(record.args, Mapping):
        record.args = {name: _one_line(value) for name, value in record.args.items()}
    else:
        record.args = tuple(map(_one_line, record.args or ()))
    if record.exc_info and record.exc_info[1] is not None:
        # Formatters print exc_text if it is set; error collectors still find exc_info.
        record.exc_text = safe_traceback(record.exc_info[1])
    return True


class OneLine:
    """A log argument whose ``str`` and ``repr`` are one line without control characters."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return printable(str(self.value)[:MAX_LENGTH])[:MAX_LENGTH]

    def __repr__(self) -> str:
        return printable(_repr(self.value)[:MAX_LENGTH])[:MAX_LENGTH]


def _repr(value: Any) -> str:
    text = repr(value)
    if isinstance(value, BaseException) and "(" not in text:
        # redis-py 8 leaves the message out: "network:ConnectionError".
        return f"{type(value).__name__}({str(value)!r})"
    return text


def _one_line(value: Any) -> Any:
    # Numbers keep their type, for %d and %.1f; they hold no control characters.
    return value if isinstance(value, int | float) else OneLine(value)


def safe_traceback(error: BaseException) -> str:
    """The traceback of ``error``; a message of an exception cannot add lines to it."""
    return "\n".join(map(_safe, traceback.format_exception(error)))


def _safe(chunk: str) -> str:
    # Frames are indented, and "The above exception was ..." begins with an empty line. Any
    # other chunk is an exception's name and message, which may hold client input.
    lines = chunk.split("\n") if chunk[0] in " \n" else [chunk.rstrip("\n")]
    return "\n".join(printable(line[:MAX_LENGTH])[:MAX_LENGTH] for line in lines).rstrip("\n")


def printable(data: Any) -> str:
    """
    ``data`` as text on one line. Bytes are read as UTF-8; control characters and other
    bytes are escaped as Python writes them, so client input cannot imitate other output.
    """
    if isinstance(data, bytes | bytearray):
        data = data.decode("utf-8", "backslashreplace")
    text = str(data)
    unprintable = (char for char in set(text) if not char.isprintable())
    return text.translate(
        {ord(char): char.encode("unicode_escape").decode() for char in unprintable}
    )


class LogThrottle:
    """Counts events per subject; at most one log line per subject every ``EVERY`` seconds."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, float] = {}

    def note(self, subject: str, count: int = 1) -> bool:
        """Add ``count`` to ``subject``. Returns whether to log a line now."""
        self.counts[subject] += count
        now = time.monotonic()
        if now - self._logged.get(subject, -EVERY) < EVERY:
            return False
        if len(self._logged) >= MAX_SUBJECTS:
            self._logged.clear()
        self._logged[subject] = now
        return True
