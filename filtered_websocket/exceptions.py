"""
Everything this package raises on purpose::

    Exception
    └── FilteredWebSocketError
        ├── Drop             by a filter: no later filter sees this event
        ├── Close            by a filter: close this connection
        ├── FilterError      by the package: a filter raised something else
        ├── AuthFault        by the package: authentication does not work now
        └── PublishError     by publish: this message was not published

Mistakes in settings raise :exc:`django.core.exceptions.ImproperlyConfigured`.
"""


class FilteredWebSocketError(Exception):
    """The base of every exception of this package."""


class Drop(FilteredWebSocketError):
    """
    Raised by a filter: no later filter of this or the next chain sees the event.

    In the connect chain it refuses the connection.
    """


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
    if len(reason.encode()) > 123:
        raise ValueError(f"close reason {reason!r} is over 123 bytes of UTF-8")


class FilterError(FilteredWebSocketError):
    """
    A filter raised. ``path`` is the filter's dotted path; the cause is chained.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class AuthFault(FilteredWebSocketError):
    """
    Authentication does not work now, for example because the database does not answer; the
    credential may be good.

    Raised without its cause, whose stack frames hold the credential.
    """


class PublishError(FilteredWebSocketError):
    """
    A publish that cannot be carried out: too large or not encodable (nothing was
    queued), no room in the queue, or (from ``apublish``) the layer did not take it.
    """
