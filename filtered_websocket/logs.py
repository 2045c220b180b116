"""Log lines: no client forges one, and none comes in a flood."""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Any

#: One line per subject in this many seconds.
EVERY = 10.0
#: How many subjects are told apart; then all are forgotten, and may be logged again.
MAX_SUBJECTS = 1024
#: Longest value in a line, and longest line of an exception, in characters.
MAX_LENGTH = 256


def get_logger(name: str) -> logging.Logger:
    """
    The logger of a module. What it logs stays on its line: control characters of values
    and of exceptions are escaped, and both are cut at ``MAX_LENGTH``.
    """
    logger = logging.getLogger(name)
    logger.addFilter(make_one_line)
    return logger


def make_one_line(record: logging.LogRecord) -> bool:
    """Have ``record`` print values and exceptions that may be a client's words safely."""
    if isinstance(record.args, Mapping):
        record.args = {name: _one_line(value) for name, value in record.args.items()}
    else:
        record.args = tuple(map(_one_line, record.args or ()))
    if record.exc_info and record.exc_info[1] is not None:
        # What formatters print where it is there; exc_info stays for who collects errors.
        record.exc_text = safe_traceback(record.exc_info[1])
    return True


class OneLine:
    """A value that prints on one line."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return printable(str(self.value)[:MAX_LENGTH])[:MAX_LENGTH]

    def __repr__(self) -> str:
        return printable(repr(self.value)[:MAX_LENGTH])[:MAX_LENGTH]


def _one_line(value: Any) -> Any:
    # Numbers are formatted as such, and forge nothing.
    return value if isinstance(value, int | float) else OneLine(value)


def safe_traceback(error: BaseException) -> str:
    """The traceback of ``error``, in which no line is made by a message of an exception."""
    return "\n".join(map(_safe, traceback.format_exception(error)))


def _safe(chunk: str) -> str:
    # Frames are indented, links between exceptions begin with an empty line; the rest is
    # the name of an exception and its message, which may hold what a client sent.
    lines = chunk.split("\n") if chunk[0] in " \n" else [chunk.rstrip("\n")]
    return "\n".join(printable(line[:MAX_LENGTH])[:MAX_LENGTH] for line in lines).rstrip("\n")


def printable(data: Any) -> str:
    """
    ``data`` as text on one line: bytes as UTF-8, control characters and what is not
    UTF-8 escaped as Python escapes them, so that output cannot be forged.
    """
    if isinstance(data, bytes | bytearray):
        data = data.decode("utf-8", "backslashreplace")
    text = str(data)
    strange = (char for char in set(text) if not char.isprintable())
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in strange})


class LogThrottle:
    """Counts what happens to a subject, and says when to log it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, float] = {}

    def note(self, subject: str, count: int = 1) -> bool:
        """Count; whether the subject's last line is old enough for another."""
        self.counts[subject] += count
        now = time.monotonic()
        if now - self._logged.get(subject, -EVERY) < EVERY:
            return False
        if len(self._logged) >= MAX_SUBJECTS:
            self._logged.clear()
        self._logged[subject] = now
        return True
