"""
Everything this package raises on purpose::

    Exception
    └── FilteredWebSocketError
        ├── Drop             by a filter: no later filter sees this event
        │   ├── NotAllowed   by the package: this connection may not do that
        │   └── InvalidData  by the package: not what the annotation of a filter says
        ├── Close            by a filter: close this connection
        ├── FilterError      by the package: a filter raised something else
        ├── NoSuchMethod     by the package: no filter answers this call
        ├── AuthFault        by the package: authentication does not work now
        └── PublishError     by publish: this message was not published

Mistakes in settings raise :exc:`django.core.exceptions.ImproperlyConfigured`.
"""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

#: How much an :exc:`InvalidData` says, in characters.
LONGEST_TEXT = 200
#: Of a close frame, in bytes: RFC 6455 section 5.5.
LONGEST_REASON = 123


class FilteredWebSocketError(Exception):
    """The base of every exception of this package."""


class Drop(FilteredWebSocketError):
    """
    Raised by a filter: no later filter of this or the next chain sees the event.

    In the connect chain it refuses the connection.
    """


class NotAllowed(Drop):
    """
    Raised where a connection may not do what it asks for, as ``connection.join(group)``.

    A filter that does not catch it ends as with :exc:`Drop`; it is counted, and logged in one
    line. In the connect chain it refuses the connection.
    """

    def __init__(self, reason: str = "not allowed", group: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        #: The group it is about, or None.
        self.group = group

    def __str__(self) -> str:
        return self.reason if self.group is None else f"{self.reason}: {self.group!r:.80}"


class Problem(NamedTuple):
    """What is wrong with a message: in which field, with dots, and what."""

    field: str
    words: str

    def __str__(self) -> str:
        return f"{self.field}: {self.words}" if self.field else self.words


class InvalidData(Drop):
    """
    A client's data is not what the annotation of a filter says; the client is told so.

    ``problems`` are the first ones, each with ``field`` and ``words``; the text has them all.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems))[:LONGEST_TEXT])

    @property
    def reason(self) -> str:
        """The text as the reason of a close, which is shorter."""
        return str(self).encode("utf-8", "replace")[:LONGEST_REASON].decode(errors="ignore")


class Close(FilteredWebSocketError):
    """
    Raised by a filter: the event is dropped and the connection is closed.

    ``code`` is 1000 or 3000-4999, what RFC 6455 section 7.4.2 leaves to
    applications; ``reason`` is at most 123 bytes of UTF-8 (section 5.5).
    Anything else is a :exc:`ValueError`.
    """

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def check_close(code: int, reason: str) -> None:
    """ValueError if an application may not send this close code or reason."""
    if code != 1000 and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code!r}: an application may send 1000 or 3000-4999")
    if len(reason.encode()) > LONGEST_REASON:
        raise ValueError(f"close reason {reason!r} is over {LONGEST_REASON} bytes of UTF-8")


class FilterError(FilteredWebSocketError):
    """
    A filter raised. ``path`` is the filter's dotted path; the cause is chained.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class NoSuchMethod(FilteredWebSocketError):
    """A client has called ``method``, which no call filter answers."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method


class AuthFault(FilteredWebSocketError):
    """
    Authentication does not work now, for example because the database does not answer; the
    credential may be good.

    Raised without its cause, whose stack frames hold the credential.
    """


class PublishError(FilteredWebSocketError):
    """
    A publish that cannot be carried out: too large or not encodable (nothing was
    queued), no room in the queue, or the layer did not take it (from ``apublish``, and
    from ``publish`` in a process without WebSocket connections).
    """


def ends_the_task(error: BaseException) -> bool:
    """
    Whether an exception that came out of a site's code is not that code's own error, and has
    to go on: Ctrl-C, a cancellation of this task, or the close of the coroutine that waits.

    Any other, of whatever class, must cost one event only: a SystemExit that leaves a task
    would end the process.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    if isinstance(error, GeneratorExit):
        # close() raises it in this frame; one that a filter raised has frames below.
        return error.__traceback__ is not None and error.__traceback__.tb_next is None
    return isinstance(error, KeyboardInterrupt)


class only_exceptions:
    """
    ``with`` some code of a site: an exception that is no :exc:`Exception`, but for those of
    :func:`ends_the_task`, becomes a RuntimeError. A SystemExit that leaves a task or a
    callback of an event loop would end the process.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception) and not ends_the_task(error):
            raise RuntimeError(f"{self.name} raised {type(error).__name__}: {error}") from error
