"""
Traces by OpenTelemetry: the package's spans, and the trace from a publish to the members of the
group in all processes.

::

    GET /chat/                       handshake_spans
    message /chat/ -> filters        chain_spans
      publish room:<int:room>        here
        process room:<int:room>      here, in each process
          group /chat/ -> filters    chain_spans

Needs the extra ``[otel]``, and a tracer provider that the site has set.
"""

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current
from opentelemetry.trace import (
    Link,
    NoOpTracer,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanKind,
    Tracer,
)

from .. import __version__, observe, tracing
from ..history.base import Page, Publication
from ..layer.envelope import CONTROL, Item
from . import handshake_spans
from .chain_spans import ChainSpans
from .spans import (
    LIBRARY,
    current,
    end,
    log_failed,
    messaging,
    name_by_rule,
    note_error,
    of_message,
    short,
    start,
)
from .trace_context import carry, context_of, is_sampled, span_context_of

T = TypeVar("T")

#: Links of a page of a history, to what published it; the SDK keeps no more by default.
MAX_LINKS = 128
#: So many messages that one error has kept from being sent have a span each.
MAX_FAILED = 32


class Traces(tracing.Tracing):
    """Traces with one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.chains = ChainSpans(tracer)

    # Handshakes

    def handshake(self, scope: Any) -> Any:
        return handshake_spans.begin(self._tracer, scope)

    def within(self, scope: Any, steps: Awaitable[T]) -> Awaitable[T]:
        return handshake_spans.within(scope, steps)

    def opening(self, steps: Awaitable[T], connection: Any, route: Any) -> Awaitable[T]:
        return handshake_spans.opening(steps, connection, route)

    def refused(self, scope: Any, code: int, reason: str) -> None:
        handshake_spans.refused(scope, code, reason)

    # Publish

    def _publish(self, group: str, item: Item) -> Span:
        span = start(
            self._tracer,
            "publish",
            kind=SpanKind.PRODUCER,
            attributes=of_message("publish", "send", group, item),
        )
        if span.is_recording():
            name_by_rule(span, "publish", group)
        return span

    def publish(self, send: Callable[..., T], group: str, item: Any, *rest: Any) -> T:
        if group == CONTROL:
            return send(group, item, *rest)
        span = self._publish(group, item)
        try:
            with current(span):
                return send(group, carry(item, span), *rest)
        finally:
            end(span)

    def published(self, group: str, item: Any) -> Any:
        span = self._publish(group, item)
        end(span)
        return carry(item, span)

    def bind(self, function: Callable[[], T]) -> Callable[[], T]:
        context = get_current()

        def bound() -> T:
            token = attach(context)
            try:
                return function()
            finally:
                detach(token)

        return bound

    def unsent(self, group: str, items: Sequence[Any], error: BaseException) -> None:
        for item in items[:MAX_FAILED]:
            if span_context_of(item.meta).is_valid:
                span = start(
                    self._tracer,
                    "not published",
                    context=context_of(item.meta),
                    attributes=of_message("publish", "send", group, item),
                )
                note_error(span, error)
                end(span)

    # Receive

    def deliver(self, hand_on: Callable[..., None], group: str, items: Any, *rest: Any) -> None:
        spans, carried = [], []
        for item in items:
            if is_sampled(item.meta):
                spans.append(span := self._process(group, item))
                item = carry(item, span)
            carried.append(item)
        try:
            hand_on(carried, *rest)
        finally:
            for span in spans:
                end(span)

    def _process(self, group: str, item: Item) -> Span:
        span = start(
            self._tracer,
            "process",
            context=context_of(item.meta),
            kind=SpanKind.CONSUMER,
            attributes=of_message("process", "process", group, item),
        )
        if span.is_recording():
            name_by_rule(span, "process", group)
        return span

    async def recover(
        self, prepare: Callable[[str, Any], Awaitable[T]], group: str, page: Page
    ) -> T:
        if not page.publications:
            return await prepare(group, page)
        # Links, as the publishes may have ended long ago.
        contexts = [span_context_of(one.item.meta) for one in page.publications]
        links = [Link(one) for one in contexts if one.is_valid and one.trace_flags.sampled]
        count = len(page.publications)
        attributes = {
            **messaging("recover", "receive"),
            "messaging.destination.name": short(group),
            "messaging.batch.message_count": count,
        }
        span = start(
            self._tracer,
            "recover",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=links[-MAX_LINKS:],
        )
        if span.is_recording():
            name_by_rule(span, "recover", group)
        own = [Publication(one.offset, carry(one.item, span)) for one in page.publications]
        try:
            with current(span):
                return await prepare(group, page._replace(publications=own))
        finally:
            end(span)


# When


class Looking(tracing.Tracing):
    """Traces nothing, and looks whether the site has set a tracer provider."""

    def handshake(self, scope: Any) -> Any:
        return look().handshake(scope)

    def publish(self, send: Callable[..., T], group: str, item: Any, *rest: Any) -> T:
        return look().publish(send, group, item, *rest)

    def bind(self, function: Callable[[], T]) -> Callable[[], T]:
        return look().bind(function)


UNTRACED = tracing.Tracing()
_lock = threading.Lock()


def set_up() -> None:
    """
    From now on look for a tracer provider: at once, at each handshake, and at each publish by
    ``filtered_websocket.publish``, until there is one.
    """
    tracing.active = Looking()
    look()


def look() -> tracing.Tracing:
    """What traces now; begins to, if the site has set a tracer provider."""
    try:
        provider = trace.get_tracer_provider()
    except Exception:
        # OTEL_PYTHON_TRACER_PROVIDER names none.
        log_failed("the tracer provider")
        tracing.active = UNTRACED
        return UNTRACED
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return UNTRACED
    with _lock:
        if isinstance(tracing.active, Looking):
            begin(provider.get_tracer(LIBRARY, __version__))
    # Still looking where OTEL_SDK_DISABLED has disabled the SDK.
    return UNTRACED if isinstance(tracing.active, Looking) else tracing.active


def begin(tracer: Tracer) -> None:
    """Trace with ``tracer``."""
    if not isinstance(tracer, NoOpTracer):
        tracing.active = traces = Traces(tracer)
        observe.watch(traces.chains)


def stop() -> None:
    """Trace no longer, until a provider is found again."""
    with _lock:
        if isinstance(tracing.active, Traces):
            observe.unwatch(tracing.active.chains)
        tracing.active = Looking()
