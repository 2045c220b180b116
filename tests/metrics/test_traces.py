"""Traces: publishes, deliveries, histories; and when they begin."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from django.db import transaction
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import NoOpTracer, NoOpTracerProvider, StatusCode

from filtered_websocket import (
    PublishError,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
    metrics,
    tracing,
)
from filtered_websocket.apps import is_installed, look_for_traces
from filtered_websocket.disconnect import disconnect_user
from filtered_websocket.groups import History, group, personal
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.metrics import traces
from filtered_websocket.metrics.trace_context import (
    carry,
    context_of,
    is_sampled,
    span_context_of,
)
from filtered_websocket.publish import apublish, publish
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect, published
from filtered_websocket.tracing import TRACE, TRACE_STATE

from ..history.driver import route
from ..protocols.clients import app as centrifuge
from ..protocols.clients import speak
from ..snippets import ROOT
from .spans import Spans, id_of, linked
from .test_chain_spans import filter_of

RULES = [
    group("room:<int:room>", publish=True, see=True, history=History(size=5, ttl=60)),
    group("plain:<name>", publish=True),
    personal(publish=True),
]


@pytest.fixture
def rules(settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": f"{__name__}.RULES"}


def destination(span):
    return span.attributes["messaging.destination.name"]


# Publish


async def test_a_publish_and_its_delivery_are_in_the_trace_of_the_caller(spans):
    async with connect(route()) as ann:
        await ann.connection.join("plain:1", trusted=True)
        spans.clear()
        with spans.tracer.start_as_current_span("a view"):
            publish("hi", "plain:1")
            await apublish("you", "plain:1")
        assert [await ann.receive(), await ann.receive()] == ["hi", "you"]
    assert spans.tree == ["a view", "  publish", "    process", "  publish", "    process"]


async def test_without_a_caller_a_publish_is_a_trace_of_its_own(spans):
    async with connect(route()) as ann:
        await ann.connection.join("plain:1", trusted=True)
        spans.clear()
        for text in "ab":
            await apublish(text, "plain:1")
            await ann.receive()
    assert spans.tree == ["publish", "  process"] * 2
    assert len({span.context.trace_id for span in spans.all}) == 2


def test_a_publish_that_fails_is_an_error_of_its_span(spans, settings):
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1"]},
        }
    }
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1}
    with pytest.raises(PublishError):
        publish("hi", "plain:1")
    span = spans.one("publish")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "filtered_websocket.exceptions.PublishError"
    assert "redis" in span.events[0].attributes["exception.message"].lower()


async def test_what_was_queued_and_could_not_be_sent_is_told_in_the_trace(spans, monkeypatch):
    monkeypatch.setattr(traces, "MAX_FAILED", 2)
    async with connect(route()) as ann:
        spans.clear()

        def refuse(batch, on_sent):
            on_sent(TypeError("no such thing"))

        monkeypatch.setattr(get_hub().link, "post", refuse)
        for text in "abc":
            ann.connection.publish(text, "plain:1")
        await ann.settle()
        get_hub().publish_failed("plain:1", [new_item("untraced")], PublishError("too late"))
    assert spans.tree == ["publish", "  not published", "publish", "  not published", "publish"]
    for span in spans.named("not published"):
        assert span.status.status_code is StatusCode.ERROR
        assert "no such thing" in span.events[0].attributes["exception.message"]


@pytest.mark.django_db(transaction=True)
def test_a_publish_on_commit_is_below_its_caller_and_begins_with_the_commit(spans):
    with spans.tracer.start_as_current_span("a view"), transaction.atomic():
        publish("hi", "plain:1", on_commit=True)
        assert spans.named("publish") == []
        with spans.tracer.start_as_current_span("something else"):
            pass
    assert spans.tree == ["a view", "  something else", "  publish"]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        publish("never", "plain:1", on_commit=True)
        raise ZeroDivisionError
    assert len(spans.named("publish")) == 1


@pytest.mark.django_db(transaction=True)
async def test_a_filter_publishes_on_commit_in_the_trace_of_its_event(spans):
    def save(connection, data):
        with transaction.atomic():
            connection.publish("saved", "plain:1", on_commit=True, to_self=True)

    filters = [filter_of(WebSocketMessageFilter, "Save", save, "blocking")]
    async with connect(filters) as ann:
        await ann.connection.join("plain:1", trusted=True)
        spans.clear()
        await ann.send("hi")
        assert await ann.receive() == "saved"
    assert spans.tree == ["message", "  Save", "    publish", "      process"]


async def test_control_events_are_not_traced(spans):
    async with connect(route()):
        spans.clear()
        tracing.active.publish(lambda *args: None, "", new_item("a control event"), None)
        disconnect_user(7)
        await get_hub().settled()
    assert spans.all == []


async def test_what_tests_capture_is_as_it_was(spans):
    with published() as seen:
        publish("hi", "plain:1", exclude=["c1"])
    assert [(one.group, one.message, one.exclude) for one in seen] == [("plain:1", "hi", ("c1",))]


async def test_a_rule_gives_the_name_of_a_span(spans, rules):
    async with connect(route()) as ann:
        await ann.connection.join("room:7", trusted=True)
        spans.clear()
        for name in ("room:7", "user:7", "token:7", "undeclared"):
            await apublish("hi", name)
        await ann.receive()
    assert [span.name for span in spans.all if span.name.startswith("publish")] == [
        "publish room:<int:room>",
        "publish user:<id>",
        "publish token:<id>",
        "publish",
    ]
    process = spans.one("process room:<int:room>")
    assert process.attributes["messaging.destination.template"] == "room:<int:room>"
    assert destination(process) == "room:7"


async def test_rules_that_cannot_be_loaded_cost_the_name_only(spans, settings):
    settings.FILTERED_WEBSOCKET = {"GROUPS": "no.such.module"}
    hand_over = lambda *args: args  # noqa: E731
    assert tracing.active.publish(hand_over, "plain:1", new_item("hi"), "rest")[2] == "rest"
    assert spans.one("publish")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", r"a\nb"), ("\ud800", r"\ud800"), ("x" * 1000, "x" * 128), ("\n" * 200, r"\n" * 64)],
)
async def test_the_name_of_a_group_is_one_short_line(spans, name, shown):
    await apublish("hi", name)
    assert destination(spans.one("publish")) == shown
    json.loads(spans.one("publish").to_json())


# Deliver


async def test_each_message_of_a_batch_is_below_its_own_publish(spans):
    """By links, all of a batch would be in a trace of their own."""
    async with connect(route()) as ann:
        await ann.connection.join("plain:1", trusted=True)
        spans.clear()
        for text in "abc":
            with spans.tracer.start_as_current_span(f"view {text}"):
                publish(text, "plain:1")
        assert [await ann.receive() for _ in "abc"] == ["a", "b", "c"]
    assert spans.tree == [
        line for text in "abc" for line in (f"view {text}", "  publish", "    process")
    ]


async def test_a_message_of_a_process_that_traces_nothing_is_a_new_trace(spans):
    async with connect([filter_of(WebSocketGroupFilter, "Mark")]) as ann:
        spans.clear()
        get_hub().publish_queue.put(ann.connection.home, new_item("hi"))
        assert await ann.receive() == "hi"
    assert spans.tree == ["process", "  group", "    Mark"]


async def test_several_pipelines_are_below_one_delivery(spans):
    filters = [filter_of(WebSocketGroupFilter, "Mark")], [filter_of(WebSocketGroupFilter, "Other")]
    async with connect(filters[0]) as ann, connect(filters[1]) as bob:
        for client in (ann, bob):
            await client.connection.join("both", trusted=True)
        spans.clear()
        await apublish("hi", "both")
        await asyncio.gather(ann.receive(), bob.receive())
    tree = spans.tree
    assert tree[:2] == ["publish", "  process"] and tree.count("    group") == 2


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_what_a_group_filter_publishes_is_below_it(spans, kind):
    def again(view, data):
        if data == b"first":
            view.publish("second")

    async with connect([filter_of(WebSocketGroupFilter, "Again", again, kind)]) as ann:
        spans.clear()
        await apublish("first", ann.connection.home)
        assert [await ann.receive(), await ann.receive()] == ["first", "second"]
    assert spans.tree == [
        "publish",
        "  process",
        "    group",
        "      Again",
        "        publish",
        "          process",
        "            group",
        "              Again",
    ]


async def test_what_was_not_sampled_where_it_was_published_is_not_sampled_here(no_traces):
    there = Spans(sampler=ALWAYS_OFF)
    item = carry(new_item("hi"), there.tracer.start_span("a publish"))
    assert not span_context_of(item.meta).trace_flags.sampled
    spans = Spans(sampler=ParentBased(ALWAYS_ON))
    spans.begin()
    again = filter_of(WebSocketGroupFilter, "Again", lambda view, _: view.publish("you", "plain:1"))
    async with connect([again]) as ann:
        await ann.connection.join("plain:1", trusted=True)
        spans.clear()
        get_hub().publish_queue.put(ann.connection.home, item)
        assert await ann.receive() == "hi"
    assert "group" not in "".join(spans.tree) and spans.all == []


# Histories


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_what_is_recovered_has_links_to_its_publishes(spans, rules, kind):
    filters = [
        filter_of(WebSocketGroupFilter, "Mark", kind=kind),
        filter_of(WebSocketSendFilter, "Greet", kind=kind),
    ]
    async with connect(route(*filters, rules=RULES)) as ann:
        before = await apublish("a", "room:7")
        later = [await apublish(text, "room:7") for text in "bc"]
        first, *since = (id_of(span) for span in spans.named("publish room:<int:room>"))
        spans.clear()
        answer = await ann.connection.recover("room:7", (before.epoch, before.offset))
        assert answer.recovered and answer.position.offset == later[-1].offset
        assert [await ann.receive(), await ann.receive()] == ["b", "c"]
        await ann.settle()
    recover = spans.one("recover room:<int:room>")
    assert linked(recover) == since and first not in since
    assert recover.attributes["messaging.batch.message_count"] == 2
    assert recover.parent is None
    below = ["  group", "    Mark"] * 2 + ["  send", "    Greet"] * 2
    tree = spans.tree
    assert tree[tree.index(recover.name) + 1 :][: len(below)] == below


async def test_who_has_missed_nothing_has_no_span(spans, rules):
    async with connect(route(rules=RULES)) as ann:
        position = await apublish("a", "room:7")
        spans.clear()
        answer = await ann.connection.recover("room:7", (position.epoch, position.offset))
        assert answer.recovered
    assert [span.name for span in spans.all if "recover" in span.name] == []


async def test_what_is_recovered_and_not_sampled_has_no_spans(no_traces, rules):
    spans = Spans(sampler=ALWAYS_OFF)
    spans.begin()
    async with connect(route(filter_of(WebSocketGroupFilter, "Mark"), rules=RULES)) as ann:
        position = await apublish("a", "room:7")
        await ann.connection.recover("room:7", (position.epoch, 0))
        assert await ann.receive() == "a"
    assert spans.all == []


async def test_what_comes_to_members_of_a_history_is_below_its_publish(spans, rules):
    async with connect(route(filter_of(WebSocketGroupFilter, "Mark"), rules=RULES)) as ann:
        await ann.connection.join("room:7")
        spans.clear()
        await apublish("a", "room:7")
        assert await ann.receive() == "a"
    name = "room:<int:room>"
    assert spans.tree == [f"publish {name}", f"  process {name}", "    group", "      Mark"]


async def test_clients_of_a_protocol_are_traced_and_told_nothing_of_it(spans, rules):
    async with speak(application=centrifuge(rules=RULES)) as ann:
        await ann.ask(subscribe={"channel": "room:7"})
        spans.clear()
        await ann.say({"id": 9, "publish": {"channel": "room:7", "data": {"a": 1}}})
        said = [await ann.hear(), await ann.hear()]  # the reply, and the push
        said += [await ann.ask(history={"channel": "room:7", "limit": 5})]
        await ann.client.settle()
    name = "room:<int:room>"
    assert spans.tree[:2] == [f"publish {name}", f"  process {name}"]
    assert linked(spans.one(f"recover {name}")) == [id_of(spans.one(f"publish {name}"))]
    number = f"{spans.one(f'publish {name}').context.trace_id:032x}"
    assert said and number not in json.dumps(said)


# What a message carries


def test_a_message_carries_traceparent_and_tracestate(spans):
    state = trace.TraceState([("vendor", "value")])
    context = trace.SpanContext(0xA, 0xB, True, trace.TraceFlags(1), state)
    item = new_item("hi", exclude=["c1"])
    carried = carry(item, trace.NonRecordingSpan(context))
    assert carried.meta == {
        "x": ["c1"],
        "c": "00-0000000000000000000000000000000a-000000000000000b-01",
        "cs": "vendor=value",
    }
    assert span_context_of(carried.meta) == context
    assert item.meta == {"x": ["c1"]} and carry(item, trace.INVALID_SPAN) is item


def test_another_span_takes_the_place_of_the_one_before():
    first = trace.SpanContext(
        0xA, 0xB, True, trace.TraceFlags(1), trace.TraceState([("vendor", "value")])
    )
    second = trace.SpanContext(0xA, 0xC, False, trace.TraceFlags(0))
    item = carry(new_item("hi"), trace.NonRecordingSpan(first))
    assert carry(item, trace.NonRecordingSpan(second)).meta == {
        "c": "00-0000000000000000000000000000000a-000000000000000c-00"
    }


def test_the_last_digit_tells_what_is_not_sampled():
    start = f"00-{'a' * 32}-{'b' * 16}-0"
    for flags in range(16):
        meta = {TRACE: f"{start}{flags:x}"}
        assert is_sampled(meta) == span_context_of(meta).trace_flags.sampled
    # By what has none, or no text, the sampler is asked.
    assert all(is_sampled({TRACE: value}) for value in (None, 7, "")) and is_sampled({})


@pytest.mark.parametrize(
    "value", [None, 7, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 10_000]
)
def test_what_a_stranger_writes_there_is_no_trace(value):
    assert context_of({TRACE: value}) == {}
    assert not span_context_of({TRACE: value, TRACE_STATE: value}).is_valid


def test_a_tracestate_that_is_none_is_left_out():
    context = span_context_of({TRACE: f"00-{'a' * 32}-{'b' * 16}-01", TRACE_STATE: 7})
    assert context.is_valid and not context.trace_state


# What a site's own parts raise


class Fails(SpanProcessor):
    def on_end(self, span):
        raise RuntimeError("a processor of the site")


class FailingSampler(Sampler):
    def should_sample(self, *args, **options):
        raise RuntimeError("a sampler of the site")

    def get_description(self):
        return "fails"


@pytest.mark.parametrize("how", ["sampler", "processor"])
async def test_a_part_of_the_site_that_raises_costs_no_message(no_traces, how, caplog):
    spans = Spans(**({"sampler": FailingSampler()} if how == "sampler" else {}))
    if how == "processor":
        spans.provider.add_span_processor(Fails())
    spans.begin()
    async with connect([filter_of(WebSocketMessageFilter, "Read")]) as ann:
        await ann.connection.join("plain:1", trusted=True)
        await ann.send("hi")
        await apublish("you", "plain:1")
        assert await ann.receive() == "you"
    assert f"a {how} of the site" in caplog.text


# When


@pytest.fixture
def provider(monkeypatch):
    """Set the tracer provider of the site, or have none."""

    def set_provider(provider):
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    set_provider(trace.ProxyTracerProvider())
    return set_provider


async def test_it_is_looked_for_at_each_handshake(no_traces, provider):
    filters = [filter_of(WebSocketMessageFilter, "Read")]
    async with connect(filters) as ann:
        assert isinstance(tracing.active, traces.Looking)
        spans = Spans()
        provider(spans.provider)
        await ann.send("before")
        await ann.settle()
        assert spans.all == []
        async with connect(filters):
            await ann.send("after")
            await ann.settle()
            assert len(spans.named("message")) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_commit", [False, True])
def test_it_is_looked_for_at_each_publish(no_traces, provider, on_commit):
    publish("before", "plain:1", on_commit=on_commit)
    spans = Spans()
    provider(spans.provider)
    publish("after", "plain:1", on_commit=on_commit)
    assert len(spans.named("publish")) == 1


def test_it_is_looked_for_at_once(no_traces, provider):
    provider(Spans().provider)
    traces.set_up()
    assert isinstance(tracing.active, traces.Traces)
    begun = tracing.active
    assert traces.look() is begun and tracing.active is begun


def test_a_provider_of_tracers_that_do_nothing_is_none(no_traces, provider, monkeypatch):
    class Disabled(NoOpTracerProvider):
        """As the SDK's with OTEL_SDK_DISABLED, which is no NoOpTracerProvider."""

    provider(NoOpTracerProvider())
    assert type(traces.look()) is tracing.Tracing
    made = Spans().provider
    monkeypatch.setattr(made, "get_tracer", lambda *args: NoOpTracer())
    provider(made)
    assert type(traces.look()) is tracing.Tracing
    assert isinstance(tracing.active, traces.Looking)


def test_a_provider_that_cannot_be_loaded_costs_the_traces_only(no_traces, monkeypatch, caplog):
    asked = []

    def fail():
        asked.append(1)
        raise RuntimeError("no such provider")

    monkeypatch.setattr(trace, "get_tracer_provider", fail)
    for _ in range(2):
        publish("hi", "plain:1")
    assert asked == [1] and "no such provider" in caplog.text


def test_to_stop_twice_is_no_error(no_traces):
    traces.stop()
    traces.stop()


def test_an_old_opentelemetry_costs_the_traces_only(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "filtered_websocket.metrics.traces", None)
    monkeypatch.delattr(metrics, "traces")
    look_for_traces()
    assert "no traces: pip install filtered-websocket[otel]" in caplog.text


def test_a_package_and_a_module_that_are_not_there_are_not_installed():
    assert is_installed("opentelemetry.trace")
    assert not is_installed("opentelemetry.no_such_module")
    assert not is_installed("no_such_package.trace")


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
import django
django.setup()
from filtered_websocket import tracing
assert type(tracing.active) is tracing.Tracing
print(*[name for name in sys.modules if "opentelemetry." in name or "metrics.trace" in name])
"""


def test_without_the_extra_nothing_is_imported():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


async def test_without_traces_everything_is_handed_on_as_it_is():
    nothing = tracing.Tracing()
    scope, item = {"path": "/"}, new_item("hi")
    assert nothing.handshake(scope) is scope
    steps = asyncio.sleep(0)
    assert nothing.within(scope, steps) is steps and nothing.opening(steps, None, None) is steps
    await steps
    nothing.refused(scope, 4403, "no")
    nothing.unsent("plain:1", [item], PublishError("no"))
    assert nothing.publish(lambda *args: args, "g", item, 1) == ("g", item, 1)
    assert nothing.published("g", item) is item and nothing.bind(publish) is publish
    got = []
    nothing.deliver(lambda items, *rest: got.append((items, rest)), "g", [item], 1)
    assert got == [([item], (1,))] and nothing.recover(lambda *args: args, "g", 1) == ("g", 1)
