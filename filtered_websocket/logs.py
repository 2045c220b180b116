"""
Logging: text from clients cannot add log lines, repeated messages are limited, and the last
errors and warnings are remembered for the console.
"""

import hashlib
import json
import logging
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from .quoting import without_quotes

#: At most one line per subject in this time, seconds.
EVERY = 10.0
#: How many subjects are remembered. One more, and all are forgotten and may be logged again.
MAX_SUBJECTS = 1024
#: Longest value in a line, and longest line of an exception, in characters.
MAX_LENGTH = 256
#: Attributes of each record of this package: of the connection that it is about, else empty.
FIELDS = ("connection_id", "user_id", "client_address")
#: How a line hands them over. By their own names it could not, where a site's record factory
#: has set one of them: ``extra`` may overwrite nothing.
ABOUT = "fws_about"


def get_logger(name: str) -> logging.Logger:
    """
    The logger of a module. Each record is one line: control characters in arguments and in
    exception messages are escaped, and both are cut at ``MAX_LENGTH``. It has ``FIELDS``.
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
    fields = record.__dict__.pop(ABOUT, record.__dict__)
    for name in FIELDS:
        setattr(record, name, str(OneLine(fields.get(name, ""))))
    if record.exc_info and record.exc_info[1] is not None:
        # Formatters print exc_text if it is set; error collectors still find exc_info.
        record.exc_text = safe_traceback(record.exc_info[1])
    if record.levelno >= logging.WARNING and not hasattr(record, REMEMBERED):
        recent.logged(record)
    return True


class OneLine:
    """A log argument whose ``str`` and ``repr`` are one line without control characters."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return _shown(self.value, str)

    def __repr__(self) -> str:
        return _shown(self.value, _repr)


def _shown(value: Any, to_text: Callable[[Any], str]) -> str:
    """As ``to_text`` says it. An exception without a text is told as any other one."""
    try:
        text = to_text(value)
    except Exception as error:
        text = f"<{type(value).__name__}: its text raised {type(error).__name__}>"
    return printable(text[:MAX_LENGTH])[:MAX_LENGTH]


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
    """
    The traceback of ``error``; a message of an exception cannot add lines to it, and is left
    out where it quotes the data of a filter.
    """
    return "\n".join(map(_safe, without_quotes(traceback.format_exception(error), error)))


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
    if text.isprintable():
        return text
    unprintable = (char for char in set(text) if not char.isprintable())
    return text.translate(
        {ord(char): char.encode("unicode_escape").decode() for char in unprintable}
    )


def place_of(where: Any) -> str:
    """Where something happened, as words: ``where`` is a connection, or has words already."""
    return where if isinstance(where, str) else f"connection {where.id}"


def fields_of(what: Any) -> dict[str, Any]:
    """``extra`` of a line about ``what``: ``FIELDS`` of a connection, nothing of anything else."""
    fields = getattr(what, "log_fields", None)
    return {} if fields is None else {ABOUT: fields}


class JSONFormatter(logging.Formatter):
    """A JSON object in a line, of any logger's record; those of this package have ``FIELDS``."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, "")}
        if record.exc_info:
            entry["traceback"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(entry)


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
            self.counts = Counter({subject: self.counts[subject]})
        self._logged[subject] = now
        return True


# The last ones

#: An attribute of records about errors that :meth:`Incidents.failed` has been told of.
REMEMBERED = "fws_remembered"
#: How many are remembered. One more, and the one that was not seen for longest is forgotten.
MOST = 50
#: Of a traceback: how many of its innermost frames, and of the exceptions that caused others.
MAX_FRAMES, MAX_CAUSES = 12, 4


class Incident:
    """An error or warning, which may have come many times."""

    def __init__(self, key: str, what: str, kind: str, level: str) -> None:
        self.key = key
        #: A filter's dotted path, or the text of the log's line.
        self.what = what
        #: The class of the exception; empty where there is none.
        self.kind = kind
        self.level = level
        self.count = 0
        #: When it first and last came, Unix time; and where the last time.
        self.first = self.last = time.time()
        self.where = ""
        #: Of the first time: for each exception, the causes first, its class, message and frames.
        self.trace: list[dict[str, str]] = []

    def row(self) -> dict[str, Any]:
        """All of it but the traceback."""
        names = ("key", "what", "kind", "level", "count", "first", "last", "where")
        return {name: getattr(self, name) for name in names}


class Incidents:
    """Any thread."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, Incident] = OrderedDict()
        self._lock = threading.Lock()
        #: How often filters have raised.
        self.total = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def failed(self, path: str, error: BaseException, place: str, where: str) -> None:
        """A filter, or what ``path`` names, has raised ``error`` in the line ``place``."""
        self.total += 1
        self._note((path, type(error).__name__, place), path, error, "error", where)

    def logged(self, record: logging.LogRecord) -> None:
        """A line of the log, of level WARNING or above."""
        error = record.exc_info[1] if record.exc_info else None
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._note((record.name, str(record.msg)), str(OneLine(record.getMessage())), error, level)

    def _note(
        self,
        subject: tuple[str, ...],
        what: str,
        error: BaseException | None,
        level: str,
        where: str = "",
    ) -> None:
        key = hashlib.sha256("\0".join(subject).encode("utf-8", "replace")).hexdigest()[:16]
        with self._lock:
            found = self._by_key.get(key)
            if found is None:
                kind = "" if error is None else type(error).__name__
                found = self._by_key[key] = Incident(key, what, kind, level)
                found.trace = [] if error is None else trace_of(error)
                if len(self._by_key) > MOST:
                    self._by_key.popitem(last=False)
            found.count += 1
            found.last = time.time()
            # The text of a line says how often it came, for example.
            found.what, found.where = what, where
            self._by_key.move_to_end(key)

    def newest(self) -> list[Incident]:
        """Those that came last first."""
        with self._lock:
            return list(reversed(self._by_key.values()))

    def find(self, key: str) -> Incident | None:
        return self._by_key.get(key)


def trace_of(error: BaseException) -> list[dict[str, str]]:
    """Each exception of a chain, as Python prints them: class, message, the innermost frames."""
    found: list[dict[str, str]] = []
    next_one: BaseException | None = error
    while next_one is not None and len(found) < MAX_CAUSES:
        frames = traceback.extract_tb(next_one.__traceback__, limit=-MAX_FRAMES).format()
        found.append(
            {
                "kind": type(next_one).__name__,
                "message": str(OneLine(next_one)),
                "frames": "".join(frames).rstrip("\n"),
            }
        )
        hidden = None if next_one.__suppress_context__ else next_one.__context__
        next_one = next_one.__cause__ or hidden
    return found[::-1]


#: Those of this process. A filter that raises for every message is one of them.
recent = Incidents()
