"""
A span for each handshake, from its check until it is accepted or refused: it does not last as
long as the connection. Its context stays in the scope, for links from later events.

Whose trace it is in: see docs/traces.md. In short, a stranger's ``traceparent`` is a link only.
"""

from collections.abc import Awaitable
from typing import Any, TypeVar

from opentelemetry import propagate
from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from ..auth.addresses import address_of
from ..close_codes import FILTER_ERROR
from ..conf import conf
from ..pipelines.route import Route
from ..types import Scope
from .spans import MAX_TEXT, OWN, Attributes, current, end, log_failed, short, start

T = TypeVar("T")

#: The key of the scope.
HANDSHAKE = "filtered_websocket.handshake_span"


class HandshakeSpan:
    """In the scope of a connection."""

    __slots__ = ("context", "is_opening", "refusal", "span")

    def __init__(self, span: Span) -> None:
        #: None once the handshake was answered.
        self.span: Span | None = span
        self.context: SpanContext = span.get_span_context()
        #: Whether there is a connection, which decides what comes of it.
        self.is_opening = False
        #: Code and reason.
        self.refusal: tuple[int, str] | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether it can be found where the spans are kept."""
        return self.context.trace_flags.sampled

    def end(self, status: int | None) -> None:
        """It was answered with this HTTP status; None: the client had left."""
        span, self.span = self.span, None
        if span is None:
            return
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if self.refusal is not None:
            code, reason = self.refusal
            span.set_attribute(f"{OWN}.close.code", code)
            span.set_attribute(f"{OWN}.refusal", short(reason, MAX_TEXT))
            if code == FILTER_ERROR:
                span.set_status(Status(StatusCode.ERROR, short(reason)))
        answered = "accepted" if self.refusal is None else "refused"
        span.set_attribute(f"{OWN}.outcome", "lost" if status is None else answered)
        end(span)


def handshake_of(scope: Any) -> HandshakeSpan | None:
    """The handshake that this scope is of, if it is traced."""
    return None if scope is None else scope.get(HANDSHAKE)


def begin(tracer: Tracer, scope: Scope) -> Scope:
    """``scope`` of a handshake that begins, in a copy that knows its span."""
    if HANDSHAKE in scope:
        return scope
    outer = get_current_span().get_span_context()
    span = start(
        tracer,
        "GET",
        kind=SpanKind.SERVER,
        attributes=_attributes(scope),
        links=[] if outer.is_valid else _sent_along(scope),
    )
    if outer.is_remote:
        # Of the handshake, and not of all that the connection does later.
        attach(set_span_in_context(INVALID_SPAN))
    return {**scope, HANDSHAKE: HandshakeSpan(span)}


async def within(scope: Scope, steps: Awaitable[T]) -> T:
    """Await ``steps``, which are part of the handshake."""
    handshake = handshake_of(scope)
    if handshake is None or handshake.span is None:
        return await steps
    with current(handshake.span):
        return await steps


async def opening(steps: Awaitable[T], connection: Any, route: Route) -> T:
    """Await ``steps``, which accept or refuse ``connection``; with them the handshake ends."""
    handshake = handshake_of(connection.scope)
    if handshake is None or handshake.span is None:
        return await steps
    handshake.is_opening = True
    if handshake.span.is_recording():
        if len(route.paths) == 1:
            path = short(route.paths[0])
            handshake.span.update_name(f"GET {path}")
            handshake.span.set_attribute("http.route", path)
        handshake.span.set_attribute(f"{OWN}.connection.id", connection.id)
    try:
        return await within(connection.scope, steps)
    finally:
        status = None
        if connection.transport.is_open:
            status = 101
        elif handshake.refusal is not None:
            status = 101 if conf.REFUSE_WITH == "close" else 403
        handshake.end(status)


def refused(scope: Scope, code: int, reason: str) -> None:
    """The handshake of ``scope`` is refused; its connection, if there is one, ends the span."""
    handshake = handshake_of(scope)
    if handshake is not None:
        handshake.refusal = code, reason
        if not handshake.is_opening:
            handshake.end(403)


def _attributes(scope: Scope) -> Attributes:
    found: Attributes = {
        "http.request.method": "GET",
        "url.scheme": short(scope.get("scheme", "ws")),
        "url.path": short(scope["path"], MAX_TEXT),
        "network.protocol.name": "http",
        "network.protocol.version": short(scope.get("http_version", "1.1")),
    }
    if address := address_of(scope):
        found["client.address"] = address
    host, port = (*(scope.get("client") or ()), None, None)[:2]
    if host:
        found["network.peer.address"] = short(host)
    if port:
        found["network.peer.port"] = port
    for name, value in scope.get("headers", ()):
        if name == b"user-agent":
            found["user_agent.original"] = short(value.decode("latin-1"), MAX_TEXT)
    return found


def _sent_along(scope: Scope) -> list[Link]:
    """
    The trace that the client names, as a link: it decides nothing. A site that trusts whoever
    sends it makes it current before, by a middleware of its own.
    """
    try:
        propagator = propagate.get_global_textmap()
        names = {field.encode("latin-1"): field for field in propagator.fields}
        headers = {
            names[name]: value.decode("latin-1")
            for name, value in scope.get("headers", ())
            if name in names and len(value) <= MAX_TEXT
        }
        extracted = propagator.extract(headers, Context()) if headers else Context()
    except Exception:
        log_failed("the propagator")
        return []
    found = get_current_span(extracted).get_span_context()
    if not found.is_valid:
        return []
    # Without its tracestate, which is any text.
    return [Link(SpanContext(found.trace_id, found.span_id, True, found.trace_flags))]
