"""
A span for each event of a chain, and one for each filter below it, which is current while the
filter runs: what a filter publishes, or asks the database, is below it.

::

    message /chat/            an event of a connection: a trace of its own, with a link to
      RateLimitFilter         the handshake
      BroadcastFilter
        publish default

    process default           a group message, in each process: below its publish
      group /chat/            once for each pipeline
        Shout
      send /chat/             once for each recipient, the first of them
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from ..chains.current import About, about_event
from ..codecs.frames import BYTES
from ..connections.subscription import Subscription
from ..observe import WatchedChain
from ..pipelines.route import name_of
from ..tracing import TRACE
from ..types import Call
from .handshake_spans import handshake_of
from .spans import OWN, Attributes, end, messaging, note_error, route_name, short, start
from .trace_context import context_of, is_sampled

#: So many chains have spans below one delivery of a message, or one page of a history: a send
#: chain runs for each recipient, and there may be thousands.
MAX_BELOW = 32
#: Of so many deliveries they are counted.
MAX_COUNTED = 256
#: Where a chain comes after another one of the same event, both are in one trace.
FOLLOWS = {
    "message": "data",
    "call": "call",
    "join": "join",
    "leave": "leave",
    "disconnect": "disconnect",
}
KINDS = {
    "data": SpanKind.CONSUMER,
    "message": SpanKind.CONSUMER,
    "call": SpanKind.SERVER,
}

#: The chain that has ended last in this context, on what and with what data, and its span.
_last: ContextVar[tuple[str, int, int, SpanContext] | None] = ContextVar(
    "fws_last_chain", default=None
)


class ChainSpans:
    """Watches all chains."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        #: traceparent of a delivery -> how many chains have spans below it.
        self._below: dict[str, int] = {}
        self._names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def begin(self, chain: WatchedChain, instance: Any, data: Any) -> "EventSpan | None":
        about = about_event.get() if chain.name in ("group", "send") else None
        place = _place_of(chain.name, instance, data)
        links: Sequence[Link] = ()
        if about is None or TRACE not in about.meta:
            if chain.name == "send":
                return None  # of what no publish began, as hub.fan_out: one for each recipient
            parent, links = _parent_of(place, instance)
        elif self._is_full(about.meta[TRACE]):
            return None
        elif not is_sampled(about.meta):
            return EventSpan(self._tracer, get_current_span(context_of(about.meta)), place)
        else:
            parent = context_of(about.meta)
        route = self._route_of(chain)
        span = self._tracer.start_span(
            route_name(chain.name, route),
            context=parent,
            kind=KINDS.get(chain.name, SpanKind.INTERNAL),
            attributes=_attributes(chain.name, route, instance, data, about),
            links=links,
        )
        return EventSpan(self._tracer, span, place)

    def _is_full(self, delivery: str) -> bool:
        below = self._below.get(delivery, 0)
        if below >= MAX_BELOW:
            return True
        if not below and len(self._below) >= MAX_COUNTED:
            del self._below[next(iter(self._below))]
        self._below[delivery] = below + 1
        return False

    def _route_of(self, chain: WatchedChain) -> str:
        pipeline = chain.pipeline()
        if pipeline is None:
            return ""
        name = self._names.get(pipeline)
        if name is None:
            name = self._names[pipeline] = short(name_of(pipeline))
        return name


class EventSpan:
    """The watch of one event. Unless it is recorded, its filters have no spans."""

    def __init__(self, tracer: Tracer, span: Span, place: tuple[str, int, int]) -> None:
        self._tracer = tracer
        self._span = span
        self._place = place
        self._stage: tuple[Span, Any] | None = None
        # Current also where it is not recorded: then nothing below it is.
        self._token = attach(set_span_in_context(span))

    def begin_stage(self, path: str, data: Any) -> None:
        if self._span.is_recording():
            code = {"code.function.name": f"{path}.filter"}
            span = start(self._tracer, path.rpartition(".")[2], attributes=code)
            self._stage = span, attach(set_span_in_context(span))

    def end_stage(self, data: Any, seconds: float, error: BaseException | None) -> None:
        if self._stage is not None:
            span, token = self._stage
            self._stage = None
            detach(token)
            if error is not None:
                note_error(span, error)
            end(span)

    def end(self, data: Any, error: BaseException | None) -> None:
        detach(self._token)
        if error is not None:
            note_error(self._span, error, whole=False)
        end(self._span)
        _last.set((*self._place, self._span.get_span_context()))


def _place_of(name: str, instance: Any, data: Any) -> tuple[str, int, int]:
    """What is equal where two chains belong to one event."""
    return name, id(instance), id(data) if name in ("join", "leave") else 0


def _parent_of(place: tuple[str, int, int], instance: Any) -> tuple[Context, list[Link]]:
    """Below the chain before, the handshake, or whatever is current; else a new trace."""
    last, before = _last.get(), FOLLOWS.get(place[0])
    if last is not None and last[:3] == (before, *place[1:]):
        return set_span_in_context(NonRecordingSpan(last[3])), []
    handshake = handshake_of(getattr(instance, "scope", None))
    if handshake is None:
        return get_current(), []
    if handshake.span is not None:
        return set_span_in_context(handshake.span), []
    is_linked = handshake.is_sampled and not get_current_span().get_span_context().is_valid
    return get_current(), [Link(handshake.context)] if is_linked else []


def _attributes(name: str, route: str, instance: Any, data: Any, about: About | None) -> Attributes:
    found: Attributes = {f"{OWN}.chain": name, f"{OWN}.route": route}
    if hasattr(instance, "scope"):
        found[f"{OWN}.connection.id"] = instance.id
    if name in ("data", "message"):
        found |= messaging("process", "process")
    if isinstance(data, BYTES):
        found["messaging.message.body.size"] = len(data)
    if about is not None:
        found["messaging.destination.name"] = short(about.group)
    elif isinstance(data, Subscription):
        found["messaging.destination.name"] = short(data.group)
    elif isinstance(data, Call):
        found[f"{OWN}.method"] = short(data.method)
    return found
