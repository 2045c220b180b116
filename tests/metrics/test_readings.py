"""Each metric counts what it says."""

import asyncio
import gc
import threading

import pytest
from django.urls import path

from filtered_websocket import (
    Close,
    Drop,
    NotAllowed,
    PublishError,
    WebSocketConnectFilter,
    WebSocketGroupFilter,
    WebSocketSendFilter,
    __version__,
)
from filtered_websocket.chains import watchdog
from filtered_websocket.chains.chain import Chain
from filtered_websocket.close_codes import OVER_CAPACITY, SLOW_READER
from filtered_websocket.codecs.frames import Bundle, Frame, Joined
from filtered_websocket.connections.ending import count_end
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.hub.drain import ending
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer import health
from filtered_websocket.layer.health import LayerHealth
from filtered_websocket.metrics import families
from filtered_websocket.metrics.prometheus import Collector
from filtered_websocket.observe import BOUNDS
from filtered_websocket.publish import counts as publish_counts
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect
from filtered_websocket.threads.blocking import abandoned

from ..connections.test_connection import message_filter
from ..history.driver import ask, route
from ..waiting import LIMIT, limited, until
from .reading import BY_NAME, Change, read


def raise_(error):
    raise error


def look(web_socket_instance, data):
    pass


def named_route(where, **options):
    """A route, at a path that it knows."""
    app = FilteredWebSocketConsumer.as_asgi(**options)
    app.route.paths = [where]
    return app


# Connections


async def test_connections_are_those_of_each_route():
    lobby = named_route("/lobby/<name>/", filters=[], groups=["lobby"])
    other = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["elsewhere"])
    for text in ("lobby", "elsewhere"):
        assert not any(text in str(labels) for labels in read("fws_connections"))
    async with connect(lobby, "/lobby/secret/"), connect(lobby), connect(other):
        assert read("fws_connections") == {
            ("/lobby/<name>/", "other"): 2,
            ("home group 'elsewhere'", "other"): 1,
        }
        assert read("fws_groups") == {(): 2}
    assert read("fws_connections") == {} and read("fws_groups") == {(): 0}
    assert read("fws_info") == {(__version__,): 1}


OUTCOMES = [
    ({"filters": []}, {}, "accepted"),
    ({"filters": [message_filter(lambda c, d: raise_(Drop()), WebSocketConnectFilter)]}, {},
     "forbidden"),
    ({"filters": [message_filter(lambda c, d: raise_(NotAllowed()), WebSocketConnectFilter)]}, {},
     "forbidden"),
    ({"filters": [message_filter(lambda c, d: raise_(Close(4401)), WebSocketConnectFilter)]}, {},
     "unauthorized"),
    ({"filters": [message_filter(lambda c, d: raise_(Close(4777)), WebSocketConnectFilter)]}, {},
     "closed"),
    ({"filters": [message_filter(lambda c, d: raise_(KeyError()), WebSocketConnectFilter)]}, {},
     "error"),
    ({"filters": []}, {"path": "/nowhere"}, "no_route"),
    ({"filters": []}, {"path": "/%2Fa"}, "bad_path"),
    ({"filters": []}, {"headers": {"origin": "http://evil.example"}}, "bad_origin"),
    ({"filters": []}, {"headers": {"host": "evil.example"}}, "bad_host"),
    ({"filters": []}, {"headers": {"authorization": "Bearer fws_" + "x" * 43}}, "unauthorized"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "how", "outcome"), OUTCOMES, ids=[f"{one[2]}-{n}" for n, one in enumerate(OUTCOMES)]
)
@pytest.mark.django_db
async def test_a_handshake_has_one_outcome(settings, options, how, outcome):
    settings.ALLOWED_HOSTS = ["testserver"]
    application = websocket_application([path("", FilteredWebSocketConsumer.as_asgi(**options))])
    change = Change("fws_handshakes_total")
    client = await connect(application, **how)
    assert client.accepted is (outcome == "accepted")
    await client.close()
    assert change.all_of("fws_handshakes_total") == {(outcome,): 1}


@pytest.mark.django_db
async def test_handshakes_that_find_no_room_or_come_while_the_process_drains(settings):
    application = websocket_application([path("", FilteredWebSocketConsumer.as_asgi(filters=[]))])
    limits = {"MAX_CONNECTIONS_PER_ADDRESS": 1, "TRUSTED_PROXIES": 1}
    settings.FILTERED_WEBSOCKET = {**limits, "MAX_CONNECTIONS": 1}
    headers = {"x-forwarded-for": "192.0.2.1"}
    async with connect(application, headers=headers):
        change = Change("fws_handshakes_total")
        await (await connect(application, headers=headers)).close()
        settings.FILTERED_WEBSOCKET = limits
        await (await connect(application, headers=headers)).close()
        ending.set()
        try:
            await (await connect(application, headers=headers)).close()
        finally:
            ending.clear()
    assert change.all_of("fws_handshakes_total") == {
        ("over_capacity",): 1,
        ("too_many",): 1,
        ("draining",): 1,
    }


async def test_a_client_that_leaves_before_it_is_answered(settings):
    settings.FILTERED_WEBSOCKET = {"FILTER_GRACE": 0.01}
    entered = asyncio.Event()

    async def wait(web_socket_instance, data):
        entered.set()
        await asyncio.get_running_loop().create_future()

    filters = [message_filter(wait, WebSocketConnectFilter)]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters)
    change = Change("fws_handshakes_total", "fws_disconnections_total")
    events = asyncio.Queue()
    events.put_nowait({"type": "websocket.connect"})
    sent = []

    async def send(event):
        sent.append(event)

    scope = {"type": "websocket", "path": "/", "headers": []}
    serving = asyncio.create_task(app(scope, events.get, send))
    async with limited():
        await entered.wait()
        events.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await serving
    assert sent == []
    assert change.all_of("fws_handshakes_total") == {("left",): 1}
    assert change.all_of("fws_disconnections_total") == {}


async def test_connections_end_with_a_code_of_few():
    change = Change("fws_disconnections_total")
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"])
    async with connect(app) as ann, connect(app) as bob:
        ann.connection.close(SLOW_READER)
        bob.connection.close(4999)
        await until(lambda: not get_hub().connections)
    count_end(1000)
    count_end(3456)
    count_end(OVER_CAPACITY)
    assert change.all_of("fws_disconnections_total") == {
        ("4101",): 1,
        ("other",): 2,
        ("1000",): 1,
        ("4100",): 1,
    }


# Messages


TRAFFIC = [
    *("fws_received_frames_total", "fws_received_bytes_total", "fws_sent_frames_total"),
    *("fws_sent_bytes_total", "fws_deliveries_total"),
]


async def test_messages_and_their_bytes_are_counted_once_for_each_member():
    change = Change(*TRAFFIC)
    app = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter], groups=["g"])
    async with connect(app) as ann, connect(app) as bob, connect(app) as cy:
        await ann.send("12345")
        assert [await one.receive() for one in (bob, cy)] == ["12345"] * 2
        await ann.settle()
    assert [change.of(name) for name in TRAFFIC] == [1, 5, 2, 10, 2]


async def test_what_is_sent_to_one_client_is_no_delivery():
    async def answer(web_socket_instance, data):
        web_socket_instance.push("12")
        await web_socket_instance.send(b"345")

    change = Change(*TRAFFIC)
    async with connect([message_filter(answer)]) as ann:
        await ann.send(b"")
        assert [await ann.receive(), await ann.receive()] == ["12", b"345"]
    assert [change.of(name) for name in TRAFFIC] == [1, 0, 2, 5, 0]


@pytest.mark.parametrize("kind", [WebSocketGroupFilter, WebSocketSendFilter])
async def test_many_messages_in_one_write_are_counted_one_by_one(kind):
    def publish_some(web_socket_instance, data):
        for number in range(3):
            web_socket_instance.publish(b"%d" % number, to_self=True)
        web_socket_instance.publish(b"not for all", exclude=[web_socket_instance], to_self=True)

    change = Change(*TRAFFIC)
    filters = [message_filter(publish_some)]
    for more in ([], [message_filter(look, kind)]):
        app = FilteredWebSocketConsumer.as_asgi(filters=[*filters, *more], groups=["g"])
        async with connect(app) as ann, connect(app) as bob:
            await ann.send(b"x")
            assert [await ann.receive() for _ in range(3)] == [b"0", b"1", b"2"]
            assert [await bob.receive() for _ in range(4)][-1] == b"not for all"
    assert change.of("fws_deliveries_total") == change.of("fws_sent_frames_total") == 14
    assert change.of("fws_sent_bytes_total") == 2 * (2 * 3 + len("not for all"))


def test_a_frame_a_bundle_and_what_is_joined_of_them_know_how_much_they_are():
    frame, bundle = Frame(b"123", True), Bundle([(b"1", True), (b"22", False)])
    joined = Joined([frame, bundle])
    assert [(one.count, one.size) for one in (frame, bundle, joined)] == [(1, 3), (2, 3), (3, 6)]
    assert len(joined.parts) == 3


# Filters


async def test_each_filter_is_timed_by_route_and_chain():
    def fail(web_socket_instance, data):
        raise {b"drop": Drop(), b"close": Close(4000), b"error": KeyError()}[bytes(data)]

    app = named_route("/filters/", filters=[message_filter(look), message_filter(fail)])
    labels = ("/filters/", "message", "tests.connections.test_connection.fail")
    for message in ("drop", "error", "close"):
        async with connect(app) as ann:
            await ann.send(message)
            await ann.settle()
    for name, count in (("seconds", 3), ("drops_total", 1), ("closes_total", 1)):
        assert read(f"fws_filter_{name}")[labels] == count
    assert read("fws_filter_errors_total")[labels] == 1
    assert read("fws_filter_seconds")[*labels[:2], f"{labels[2].rpartition('.')[0]}.look"] == 3


def test_a_filter_that_is_twice_in_a_chain_and_in_two_pipelines_is_one_series():
    filters = [message_filter(look)] * 2
    apps = [named_route("/twice/", filters=filters, groups=[name]) for name in "ab"]
    for app in apps:
        for _ in range(3):
            app.route.pipeline.message.run(None, b"")
        app.route.pipeline.message.stages[0].stats.note(0.5)
    labels = ("/twice/", "message", "tests.connections.test_connection.look")
    [times] = [value for key, value in BY_NAME["fws_filter_seconds"].read() if key == labels]
    counted = [app.route.pipeline.message.stages for app in apps]
    # In the order in which they were made.
    assert times.runs == 14
    assert times.seconds == sum(stage.stats.seconds for stages in counted for stage in stages)
    assert times.times[BOUNDS.index(1.0)] == 2
    assert read("fws_filter_errors_total")[labels] == 0


async def test_blocking_threads_in_use_and_those_that_nobody_waits_for(settings):
    settings.FILTERED_WEBSOCKET = {"BLOCKING_THREADS": 3}
    entered, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block(web_socket_instance, data):
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(LIMIT)

    chain = Chain("message", [message_filter(block, blocking=True)])
    running = asyncio.create_task(chain.arun(None, b""))
    await entered.wait()
    try:
        assert read("fws_blocking_threads_in_use") == {(): 1}
        running.cancel()
        await asyncio.wait([running])
        assert read("fws_blocking_threads_abandoned") == {(): 1}
        assert read("fws_blocking_threads") == {(): 3}
    finally:
        go.set()
    await until(lambda: not abandoned and read("fws_blocking_threads_in_use") == {(): 0})


# Queues, the layer, histories


async def test_what_waits_is_counted_in_messages_and_bytes():
    names = [f"fws_{queue}_queue_{what}" for queue in ("publish", "group") for what in
             ("messages", "bytes")]  # fmt: skip
    async with connect([]):
        hub = get_hub()
        for budget in (hub.publish_queue.budget, hub.backlog):
            budget.add(100)
            budget.add(23)
        assert [read(name)[()] for name in names] == [2, 123, 2, 123]
        for budget in (hub.publish_queue.budget, hub.backlog):
            budget.release(123, 2)
    assert [read(name)[()] for name in names] == [0] * 4


async def test_outages_and_gaps_of_a_hub_outlive_it():
    names = ["fws_layer_outages_total", "fws_layer_outage_seconds", "fws_gaps_total"]
    change = Change(*names, "fws_publish_failures_total", "fws_dropped_messages_total")
    assert read("fws_layer_up") == {}
    async with connect([]):
        hub = get_hub()
        assert read("fws_layer_up") == {(): 1}
        hub._layer_lost(OSError("on purpose"))
        assert read("fws_layer_up") == {(): 0}
        hub._layer_back(0.5)
        assert read("fws_layer_up") == {(): 1}
        hub.events.gap("g", None, None)
        hub.publish_failed("g", [1, 2], PublishError("on purpose"))
        hub.events.message_dropped()
        hub.counts["group_dropped"] += 2
        hub.counts["event_dropped"] += 3
        assert hub.counts["layer_lost"] == 1
    publish_counts["publish_failed"] += 1
    # The layer's return is a gap of the group of its connection.
    assert [change.of(name) for name in names] == [1, 1, 2]
    assert change.of("fws_publish_failures_total") == 3
    assert change.all_of("fws_dropped_messages_total") == {
        ("outbox",): 1,
        ("group",): 2,
        ("consumer",): 3,
    }


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("fws_missed_messages_total", "missed"),
        ("fws_duplicate_messages_total", "duplicate"),
        ("fws_bad_envelopes_total", "bad_envelope"),
        ("fws_history_failures_total", "history_failed"),
        ("fws_history_losses_total", "history_lost"),
        ("fws_unencodable_messages_total", "not_json"),
        ("fws_not_allowed_total", "not_allowed"),
        ("fws_event_loop_blocked_total", "blocked"),
        ("fws_task_failures_total", "task_failed"),
    ],
)
async def test_what_a_hub_counts_is_a_metric(name, counted):
    change = Change(name)
    async with connect([]):
        get_hub().counts[counted] += 2
    assert change.of(name) == 2


async def test_a_round_trip_of_the_layer_is_timed_if_it_comes_back(monkeypatch):
    monkeypatch.setattr(health, "HEARTBEAT", 0)
    answers = [None, TimeoutError(), None, OSError("refused")]
    done = asyncio.Event()

    async def probe():
        if not answers:
            done.set()
            return OSError("still")
        return answers.pop(0)

    watched = LayerHealth(probe, None, lambda error: None, None, lambda run, name: None)
    change = Change("fws_layer_round_trip_seconds")
    task = asyncio.create_task(watched.watch())
    await until(lambda: watched.is_lost)
    # While it is lost, others ask.
    await asyncio.sleep(0)
    assert not done.is_set()
    task.cancel()
    await asyncio.wait([task])
    assert change.of("fws_layer_round_trip_seconds") == 1


async def test_who_comes_back_is_counted_and_what_it_is_sent():
    change = Change("fws_recoveries_total", "fws_recovered_messages_total")
    async with connect(route()) as ann, connect(route()) as bob:
        await ask(ann, "join", "room:counted")
        for text in "abc":
            position, _ = await ask(ann, "publish", "room:counted", text)
        epoch = position[0]
        (recovered, _), before = await ask(bob, "recover", "room:counted", epoch, 1)
        assert recovered and before == ["b", "c"]
        (recovered, _), _ = await ask(bob, "recover", "room:counted", "another", 1)
        assert not recovered
        # The last publication is not asked for with a position.
        await ask(bob, "join", "last:counted")
    assert change.all_of("fws_recoveries_total") == {("recovered",): 1, ("lost",): 1}
    assert change.of("fws_recovered_messages_total") == 2


async def test_the_event_loop_is_looked_at_twice_a_second_and_its_lag_is_noted(monkeypatch):
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    change = Change("fws_event_loop_lag_seconds")
    async with connect([]):
        await until(lambda: change.of("fws_event_loop_lag_seconds") > 2)


# All of them


def test_every_family_can_be_read_where_nobody_is_connected():
    gc.collect()  # routes of other tests
    names = {metric.name for metric in Collector().collect()}
    assert names == {family.name.removesuffix("_total") for family in families.FAMILIES}


async def test_no_label_is_a_text_of_a_client(settings):
    """A path, a group, an origin, a close code: whatever clients send, there are few series."""
    settings.ALLOWED_HOSTS = ["testserver"]
    app = named_route("/few/<name>/", filters=[BroadcastMessagesFilter], groups=["few"])
    for number in range(5):
        text = f"invented{number}"
        async with connect(app, f"/few/{text}/?a={text}", headers={"x-a": text}) as ann:
            await ann.connection.join(text)
            await ann.send(text)
            await ann.settle()
            series = [sample for metric in Collector().collect() for sample in metric.samples]
        assert "invented" not in str(series)
