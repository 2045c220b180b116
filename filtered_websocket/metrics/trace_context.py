"""
A trace from process to process: a published message carries the context of its publish in its
``meta``, as W3C Trace Context writes it. Baggage stays where it is: it may hold anything.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..layer.envelope import Item
from ..tracing import TRACE, TRACE_STATE

_w3c = TraceContextTextMapPropagator()
#: Key in a message -> header of W3C Trace Context.
_HEADERS = {TRACE: "traceparent", TRACE_STATE: "tracestate"}
#: The last digit of flags without that of what is sampled.
UNSAMPLED = frozenset("02468ace")
#: Longest value that is carried, in characters.
MAX_VALUE = 512


def carry(item: Item, span: Span) -> Item:
    """
    ``item`` with the context of ``span``, whether that is sampled or not: the processes that
    get it do as this one does. As it is, where there is no trace.
    """
    headers: dict[str, str] = {}
    _w3c.inject(headers, set_span_in_context(span, Context()))
    if not headers:
        return item
    meta = {key: value for key, value in item.meta.items() if key not in _HEADERS}
    for key, header in _HEADERS.items():
        value = headers.get(header, "")
        if 0 < len(value) <= MAX_VALUE:
            meta[key] = value
    return item._replace(meta=meta)


def context_of(meta: Mapping[str, Any]) -> Context:
    """The context that a message carries; an empty one where it carries none."""
    headers = {
        header: value
        for key, header in _HEADERS.items()
        if isinstance(value := meta.get(key), str) and len(value) <= MAX_VALUE
    }
    return _w3c.extract(headers, Context())


def is_sampled(meta: Mapping[str, Any]) -> bool:
    """False where its publish was not sampled. Cheaper than to read it: most may not be."""
    parent = meta.get(TRACE)
    return not (isinstance(parent, str) and parent[-1:] in UNSAMPLED)


def span_context_of(meta: Mapping[str, Any]) -> SpanContext:
    """The same, as links have it; not valid where it carries none."""
    return get_current_span(context_of(meta)).get_span_context()
