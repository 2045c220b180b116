"""Spans of the events of chains, and of their filters."""

import asyncio
import inspect

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from filtered_websocket import (
    Close,
    Drop,
    NotAllowed,
    WebSocketCallFilter,
    WebSocketConsumerFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketJoinFilter,
    WebSocketLeaveFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
)
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.groups import group
from filtered_websocket.metrics import chain_spans
from filtered_websocket.publish import apublish
from filtered_websocket.quoting import HIDDEN
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect
from filtered_websocket.types import Call

from ..connections.test_connection import message_filter
from ..history.driver import route
from .spans import Spans, id_of, linked

KINDS = ["def", "async", "blocking"]
RULES = [group("room:<int:room>", publish=True)]


def filter_of(base, name, function=lambda connection, data: None, kind="def"):
    """A filter of any chain and kind, called ``name``."""

    async def in_async(web_socket_instance, data):
        await asyncio.sleep(0)
        result = function(web_socket_instance, data)
        return await result if inspect.isawaitable(result) else result

    chosen = in_async if kind == "async" else function
    made = message_filter(chosen, base, blocking=kind == "blocking")
    made.__qualname__ = made.__name__ = name
    return made


def raising(error):
    def function(connection, data):
        raise error

    return function


def outcome(span):
    return span.attributes.get("fws.outcome")


async def test_a_message_is_one_trace_from_the_frame_to_each_recipient(spans):
    shout = filter_of(WebSocketMessageFilter, "Shout", lambda _, data: data.upper())
    mark = filter_of(WebSocketGroupFilter, "Mark", lambda _, data: data + b"!")
    greet = filter_of(WebSocketSendFilter, "Greet", lambda _, data: b"you: " + data)
    filters = [shout, BroadcastMessagesFilter, mark, greet]
    async with connect(filters) as ann, connect(filters) as bob:
        spans.clear()
        await ann.send("hi")
        assert await bob.receive() == "you: HI!"
    assert spans.tree == [
        "message",
        "  Shout",
        "  BroadcastMessagesFilter",
        "    publish",
        "      process",
        "        group",
        "          Mark",
        "        send",
        "          Greet",
    ]
    assert len({span.context.trace_id for span in spans.all}) == 1


async def test_spans_have_kinds_and_attributes_by_the_conventions(spans):
    mark = filter_of(WebSocketGroupFilter, "Mark")
    app = route(BroadcastMessagesFilter, mark, codec=None)
    async with connect(app) as ann:
        spans.clear()
        number = ann.connection.id
        await ann.send('["publish", "plain:1", "hello"]')
        await ann.settle()
    home = {"messaging.destination.name": "home", "messaging.message.body.size": 31}
    ours = {"messaging.system": "filtered_websocket"}
    message = spans.one("message")
    assert message.kind is SpanKind.CONSUMER and dict(message.attributes) == {
        **ours,
        "fws.chain": "message",
        "fws.route": "home group 'home'",
        "fws.connection.id": number,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.body.size": 31,
    }
    assert spans.one("BroadcastMessagesFilter").attributes == {
        "code.function.name": "filtered_websocket.filters.broadcast_messages"
        ".BroadcastMessagesFilter.filter"
    }
    published = spans.named("publish")[1]
    assert published.kind is SpanKind.PRODUCER and dict(published.attributes) == {
        **ours,
        **home,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    process = spans.one("process")  # nobody is in plain:1
    assert process.kind is SpanKind.CONSUMER and dict(process.attributes) == {
        **ours,
        **home,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }
    assert dict(spans.one("group").attributes) == {
        "fws.chain": "group",
        "fws.route": "home group 'home'",
        **home,
    }


async def test_the_path_of_a_route_is_in_the_names(spans):
    from django.urls import path

    served = path("chat/", route(BroadcastMessagesFilter))
    async with connect(websocket_application([served]), "/chat/") as ann:
        await ann.send('["publish", "plain:1", "hello"]')
        await ann.settle()
    assert spans.one("GET /chat/").attributes["http.route"] == "/chat/"
    assert spans.one("message /chat/").attributes["fws.route"] == "/chat/"


async def test_each_event_is_a_trace_with_a_link_to_the_handshake(spans):
    async with connect([BroadcastMessagesFilter]) as ann:
        await ann.send("one")
        await ann.send("two")
        await ann.settle()
    handshake = spans.one("GET")
    one, two = spans.named("message")
    assert linked(one) == linked(two) == [id_of(handshake)]
    assert one.parent is two.parent is None
    assert len({span.context.trace_id for span in (handshake, one, two)}) == 3


async def test_a_span_that_a_site_has_around_the_connection_is_around_its_events(spans):
    """As opentelemetry-instrumentation-asgi has; the handshake is below it as well."""
    app = route()

    async def around(scope, receive, send):
        with spans.tracer.start_as_current_span("whole connection"):
            await app(scope, receive, send)

    async with connect(around) as ann:
        await ann.send('["leave", "plain:1"]')
        await ann.settle()
    assert spans.tree[:3] == ["whole connection", "  GET", "  message"]
    assert linked(spans.one("message")) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_the_span_of_a_filter_is_current_while_it_runs(spans, kind):
    seen = []

    def look(connection, data):
        with spans.tracer.start_as_current_span("a query"):
            seen.append(get_current_span())

    async with connect([filter_of(WebSocketMessageFilter, "Look", look, kind)]) as ann:
        spans.clear()
        await ann.send("hi")
        await ann.settle()
        assert not get_current_span().get_span_context().is_valid
    assert len(seen) == 1 and spans.tree == ["message", "  Look", "    a query"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_a_filter_is_on_its_span_with_its_traceback(spans, kind):
    fail = filter_of(WebSocketMessageFilter, "Fail", raising(KeyError("no such\nroom")), kind)
    async with connect([fail]) as ann:
        await ann.send("hi")
        await ann.settle()
    chain, stage = spans.one("message"), spans.one("Fail")
    for span in (chain, stage):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "KeyError"
    [event] = stage.events
    assert event.name == "exception" and event.attributes["exception.type"] == "KeyError"
    assert event.attributes["exception.message"] == r"'no such\nroom'"
    assert "in function" in event.attributes["exception.stacktrace"]
    assert chain.events == ()


@pytest.mark.parametrize("kind", KINDS)
async def test_neither_a_span_nor_the_log_quotes_the_message(spans, caplog, kind):
    read = filter_of(WebSocketMessageFilter, "Read", lambda _, data: int(data), kind)
    async with connect([read]) as ann:
        await ann.send("what-ann-says")
        await ann.settle()
    [event] = spans.one("Read").events
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == HIDDEN
    assert event.attributes["exception.stacktrace"].endswith(f"ValueError: {HIDDEN}")
    [line] = [one for one in caplog.records if "raised ValueError" in one.getMessage()]
    assert "in <lambda>" in line.exc_text and line.exc_text.endswith(f"ValueError: {HIDDEN}")
    told = "".join(str(event.attributes) for span in spans.all for event in span.events)
    assert "what-ann" not in told + line.exc_text


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


async def test_an_exception_without_a_text_is_noted_by_its_class(spans):
    async with connect([filter_of(WebSocketMessageFilter, "Fail", raising(Unprintable()))]) as ann:
        await ann.send("hi")
        await ann.settle()
    [event] = spans.one("Fail").events
    assert event.attributes["exception.type"] == f"{__name__}.Unprintable"
    assert event.attributes["exception.message"] == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Drop(), {"fws.outcome": "drop"}),
        (NotAllowed("members only"), {"fws.outcome": "drop"}),
        (
            Close(4402, "pay first"),
            {"fws.outcome": "close", "fws.close.code": 4402},
        ),
    ],
)
async def test_an_event_that_a_filter_ends_is_no_error(spans, error, words):
    async with connect([filter_of(WebSocketMessageFilter, "End", raising(error))]) as ann:
        await ann.send("hi")
        await ann.settle()
    for span in (spans.one("message"), spans.one("End")):
        assert words.items() <= dict(span.attributes).items()
        assert span.status.status_code is StatusCode.UNSET and span.events == ()


async def test_a_filter_that_is_cancelled_says_so(spans):
    def cancel(connection, data):
        asyncio.current_task().cancel()
        return asyncio.sleep(0)

    ann = await connect([filter_of(WebSocketMessageFilter, "Wait", cancel, "async")])
    await ann.send("hi")
    assert await ann.closed() == 4500
    with pytest.raises(asyncio.CancelledError):
        await ann.close()
    assert outcome(spans.one("Wait")) == outcome(spans.one("message")) == "cancelled"


async def test_what_is_not_sampled_has_no_spans_and_nothing_below_has(no_traces):
    spans = Spans(sampler=ALWAYS_OFF)
    spans.begin()
    seen = []
    look = filter_of(
        WebSocketMessageFilter,
        "Look",
        lambda *_: seen.append(get_current_span().get_span_context()),
    )
    fail = filter_of(WebSocketMessageFilter, "Fail", raising(KeyError("no")))
    async with connect([look, BroadcastMessagesFilter, fail]) as ann:
        await ann.send("hi")
        await ann.settle()
    assert spans.all == []
    # What the filter asks of others belongs to this trace, of which nothing is kept.
    assert seen[0].is_valid and not seen[0].trace_flags.sampled


# Several chains of one event


async def test_the_data_and_the_message_chain_of_a_frame_are_one_trace(spans):
    strip = filter_of(WebSocketDataFilter, "Strip", lambda _, data: data.strip())
    async with connect([strip, filter_of(WebSocketMessageFilter, "Read")]) as ann:
        spans.clear()
        await ann.send(" one")
        await ann.send(" two")
        await ann.settle()
    assert spans.tree == ["data", "  Strip", "  message", "    Read"] * 2
    assert spans.named("data")[0].kind is SpanKind.CONSUMER


async def test_a_call_is_one_trace_whichever_filter_answers(spans):
    def answer(connection, call):
        return {"sum": 3} if call.method == "add" else None

    filters = [
        filter_of(WebSocketCallFilter, "Others"),
        filter_of(WebSocketCallFilter, "Add", answer, "async"),
    ]
    async with connect(filters) as ann:
        spans.clear()
        assert await ann.call("add", "secret numbers") == {"sum": 3}
        assert await ann.call("add", "secret numbers") == {"sum": 3}
    assert spans.tree == ["call", "  Others", "  call", "    Add"] * 2
    for span in spans.named("call"):
        assert span.kind is SpanKind.SERVER
        assert span.attributes["fws.method"] == "add"
    assert "secret" not in "".join(span.to_json() for span in spans.all)


@pytest.mark.parametrize("kind", KINDS[:2])
async def test_join_leave_and_disconnect_chains_are_one_trace_for_each_event(spans, kind):
    filters = [
        filter_of(base, f"{number}", kind=kind)
        for base in (WebSocketJoinFilter, WebSocketLeaveFilter, WebSocketDisconnectFilter)
        for number in ("First", "Second")
    ]
    async with connect(route(*filters)) as ann:
        await ann.send('["join", "plain:1"]')
        await ann.receive()
        spans.clear()
        await ann.send('["join", "plain:2"]')
        await ann.receive()
        await ann.send('["leave", "plain:1"]')
        await ann.receive()
        await ann.settle()
        for name, place in (("join", "plain:2"), ("leave", "plain:1")):
            first, second = spans.named(name)
            assert second.parent.span_id == id_of(first)
            assert first.attributes["messaging.destination.name"] == place
        spans.clear()
    assert spans.named("leave")  # of the groups that it was in
    first, second = spans.named("disconnect")
    assert second.parent.span_id == id_of(first) and first.parent is None


async def test_two_joins_in_a_row_are_two_traces(spans):
    filters = [filter_of(WebSocketJoinFilter, name) for name in ("First", "Second")]
    async with connect(route(*filters)) as ann:
        spans.clear()
        for room in "12":
            await ann.send(f'["join", "plain:{room}"]')
            await ann.receive()
    first, second = (
        {span.context.trace_id for span in spans.named("join") if room in str(span.attributes)}
        for room in ("plain:1", "plain:2")
    )
    assert len(first) == len(second) == 1 and first != second


async def test_an_event_of_the_consumer_chain_has_a_span(spans):
    heard = filter_of(WebSocketConsumerFilter, "Heard")
    async with connect([heard]) as ann:
        spans.clear()
        ann.connection.queue.put({"type": "anything", "data": "secret"})
        await ann.settle()
    assert spans.tree == ["consumer", "  Heard"]
    assert "fws.connection.id" not in spans.one("consumer").attributes


# Group messages


async def test_of_thousands_of_recipients_the_first_have_spans(spans, monkeypatch):
    monkeypatch.setattr(chain_spans, "MAX_BELOW", 2)
    filters = [filter_of(WebSocketGroupFilter, "Mark"), filter_of(WebSocketSendFilter, "Greet")]
    async with connect(filters) as one, connect(filters) as two, connect(filters) as three:
        spans.clear()
        for text in ("a", "b"):
            await apublish(text, one.connection.home)
            for client in (one, two, three):
                assert await client.receive() == text
    each = ["publish", "  process", "    group", "      Mark", "    send", "      Greet"]
    assert spans.tree == each * 2


async def test_no_more_deliveries_are_counted_than_are_of_use(spans, monkeypatch):
    monkeypatch.setattr(chain_spans, "MAX_COUNTED", 2)
    from filtered_websocket import tracing

    async with connect([filter_of(WebSocketGroupFilter, "Mark")]) as ann:
        for _ in range(5):
            await apublish("a", ann.connection.home)
            await ann.receive()
    assert len(tracing.active.chains._below) == 2 and len(spans.named("group")) == 5


async def test_what_a_hub_fans_out_without_a_publish_has_no_span_for_each_recipient(spans):
    filters = [filter_of(WebSocketSendFilter, "Greet")]
    async with connect(filters) as ann:
        spans.clear()
        view = ann.connection._view
        view.fan_out(ann.connection.home, "hi")
        assert await ann.receive() == "hi"
    assert spans.all == []


def test_a_chain_of_no_pipeline_is_traced_too(spans):
    from filtered_websocket.chains.chain import Chain

    chain = Chain("message", [filter_of(WebSocketMessageFilter, "Read")])
    assert chain.run(None, Call("add")) == Call("add")
    assert spans.tree == ["message", "  Read"]
