"""
What spans say: attributes by OpenTelemetry's semantic conventions, and errors.

Never a payload, a header, a cookie, a credential or a query string. Names that clients or
sites choose are one line and short.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import attach, detach
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from ..auth.keys import shorten
from ..exceptions import Close, Drop, FilterError
from ..groups import PERSONAL_PREFIX, TOKEN_PREFIX
from ..layer.envelope import Item
from ..logs import LogThrottle, get_logger, printable, safe_traceback
from ..pipelines.keeping import site_rules
from ..quoting import HIDDEN, is_quoted, secrets_of

logger = get_logger(__name__)
_throttle = LogThrottle()

Attributes = dict[str, AttributeValue]

#: Longest name of a group, path or method, and longest text of an exception, in characters.
MAX_NAME, MAX_TEXT = 128, 256
#: Longest traceback, of which the end is kept, in characters.
MAX_TRACEBACK = 8192

#: The name of this library, and the prefix of its attributes that no convention knows.
LIBRARY, OWN = "filtered_websocket", "fws"


def short(text: Any, length: int = MAX_NAME) -> str:
    """
    ``text`` on one line that every exporter can encode, cut at ``length``; of a key of a token
    in it, only what may be shown.
    """
    return printable(shorten(str(text)[: 2 * length])[:length])[:length]


def route_name(operation: str, route: str) -> str:
    """The name of a span: with the route where its path is known, else the group that it has."""
    return f"{operation} {route}" if route.startswith("/") else operation


def messaging(name: str, kind: str) -> Attributes:
    """What every span of an operation on messages has."""
    return {
        "messaging.system": LIBRARY,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def of_message(name: str, kind: str, group: str, item: Item) -> Attributes:
    """Of an operation on one message to a group."""
    return {
        **messaging(name, kind),
        "messaging.destination.name": short(group),
        "messaging.message.body.size": len(item.payload),
    }


def name_by_rule(span: Span, operation: str, group: str) -> None:
    """Name a recorded span by the pattern of the group, of which there are few."""
    template = template_of(group)
    if template:
        span.update_name(f"{operation} {template}")
        span.set_attribute("messaging.destination.template", template)


def template_of(group: str) -> str:
    """The pattern of the site's group rule that matches ``group``; empty if none does."""
    for prefix in (PERSONAL_PREFIX, TOKEN_PREFIX):
        if group.startswith(prefix):
            return f"{prefix}<id>"
    try:
        rules = site_rules()
    except Exception:
        return ""  # manage.py check reports it
    match = None if rules is None else rules.find(group)
    return "" if match is None else match.rule.pattern or ""


def start(tracer: Tracer, name: str, **options: Any) -> Span:
    """A span that begins. A sampler or processor of the site that raises costs a log line."""
    try:
        return tracer.start_span(name, **options)
    except Exception:
        log_failed("the tracer")
        return INVALID_SPAN


def end(span: Span) -> None:
    """It ends; what raises costs a log line."""
    try:
        span.end()
    except Exception:
        log_failed("a span processor")


def log_failed(what: str) -> None:
    """In an ``except`` block: a part of OpenTelemetry or of the site has raised."""
    if _throttle.note(what):
        logger.exception("%s failed, which costs traces (%d so far)", what, _throttle.counts[what])


@contextmanager
def current(span: Span) -> Iterator[None]:
    """``with``: ``span`` is the current one; an exception is noted. It is not ended."""
    token = attach(set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        note_error(span, error)
        raise
    finally:
        detach(token)


def note_error(span: Span, error: BaseException, *, whole: bool = True) -> None:
    """How an operation has ended; with text and traceback, unless another span has them."""
    if not span.is_recording():
        return
    if isinstance(error, Drop):
        span.set_attribute(f"{OWN}.outcome", "drop")
    elif isinstance(error, Close):
        span.set_attribute(f"{OWN}.outcome", "close")
        span.set_attribute(f"{OWN}.close.code", error.code)
    elif isinstance(error, asyncio.CancelledError):
        span.set_attribute(f"{OWN}.outcome", "cancelled")
    else:
        cause = (error.__cause__ or error) if isinstance(error, FilterError) else error
        kind = _class_of(cause)
        span.set_status(Status(StatusCode.ERROR, kind))
        span.set_attribute("error.type", kind)
        if whole:
            span.add_event("exception", _exception(cause, kind))


def _class_of(error: BaseException) -> str:
    cls = type(error)
    module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
    return f"{module}{cls.__qualname__}"


def _exception(error: BaseException, kind: str) -> Attributes:
    try:
        quoting = is_quoted(str(error), secrets_of(error))
        text = HIDDEN if quoting else short(error, MAX_TEXT)
    except Exception:
        text = ""  # its own __str__ fails
    return {
        "exception.type": kind,
        "exception.message": text,
        "exception.stacktrace": shorten(safe_traceback(error))[-MAX_TRACEBACK:],
    }
