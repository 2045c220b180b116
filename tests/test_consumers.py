"""One connection from handshake to disconnect chain: consumers."""

import asyncio
import itertools
import logging

import pytest
from django.core.exceptions import ImproperlyConfigured

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
)
from filtered_websocket.connections import ending, reading
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import active_hub
from filtered_websocket.testing import Closed, Refused, connect
from filtered_websocket.transports import scheduling

from .connections.test_connection import message_filter
from .waiting import hold


def disconnects(*functions):
    """Disconnect filters that note that they ran; and the notes."""
    ran = []

    def note(web_socket_instance):
        ran.append(web_socket_instance.close_code)

    filters = [message_filter(function, WebSocketDisconnectFilter) for function in functions]
    return ran, [*filters, message_filter(note, WebSocketDisconnectFilter)]


class Server:
    """An ASGI server that a test drives event by event."""

    def __init__(self, filters, **kwargs):
        self.app = FilteredWebSocketConsumer.as_asgi(filters=filters, **kwargs)
        self.events = asyncio.Queue()
        self.sent = []
        self.refuse = None
        self.scope = {"type": "websocket", "path": "/", "headers": []}

    async def send(self, event):
        if self.refuse is not None:
            raise self.refuse
        self.sent.append(event)

    def start(self):
        self.task = asyncio.create_task(self.app(self.scope, self.events.get, self.send))

    async def accepted(self):
        self.start()
        self.events.put_nowait({"type": "websocket.connect"})
        while not self.sent:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        assert self.sent[0]["type"] == "websocket.accept"
        return self


# Refusals


@pytest.mark.parametrize(
    ("error", "code"), [(Drop(), 4403), (Close(4401, "who?"), 4401), (KeyError("x"), 4500)]
)
@pytest.mark.parametrize("how", ["403", "close"])
async def test_a_connect_filter_refuses(settings, error, code, how, caplog):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": how}
    ran, filters = disconnects()

    def refuse(web_socket_instance, handshake):
        raise error

    client = await connect([message_filter(refuse, WebSocketConnectFilter), *filters])
    assert client.accepted is (how == "close")
    assert await client.closed() == code
    await client.close()
    assert ran == []
    assert ("refuse raised KeyError" in caplog.text) is isinstance(error, KeyError)


@pytest.mark.parametrize(
    ("answer", "name"), [(False, "False"), (Drop, "Drop"), (Close(4401), "Close")]
)
@pytest.mark.parametrize("how", ["def", "async def", "hidden"])
async def test_a_connect_filter_that_returns_a_refusal_lets_nobody_in(answer, name, how, caplog):
    async def later(web_socket_instance, handshake):
        return answer

    def hidden(web_socket_instance, handshake):
        return later(web_socket_instance, handshake)

    def refuse(web_socket_instance, handshake):
        return answer

    function = {"def": refuse, "async def": later, "hidden": hidden}[how]
    client = await connect([message_filter(function, WebSocketConnectFilter)])
    assert (client.accepted, client.close_code) == (False, 4500)
    await client.close()
    cure = f"TypeError: it returned {name}: to refuse, 'raise Drop' or 'raise Close(code, reason)'"
    assert cure in caplog.text


async def test_a_connect_filter_may_refuse_by_closing():
    def refuse(web_socket_instance, handshake):
        web_socket_instance.close(4001, "no")

    client = await connect([message_filter(refuse, WebSocketConnectFilter)])
    assert (client.accepted, client.close_code) == (False, 4001)
    await client.close()
    with pytest.raises(Refused, match="4001 'no'"):
        async with connect([message_filter(refuse, WebSocketConnectFilter)]):
            raise AssertionError("entered")


@pytest.mark.parametrize("group", ["", "x" * 1025, "token:abc", 3])
async def test_a_group_from_a_url_that_is_none_is_the_clients_mistake(group, caplog):
    class FromUrl(FilteredWebSocketConsumer):
        filters = ()

        async def get_groups(self):
            return [group]

    with caplog.at_level(logging.INFO):
        client = await connect(FromUrl.as_asgi())
    assert client.close_code == 4403
    await client.close()
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_a_connection_may_join_many_groups_or_none():
    class Many(FilteredWebSocketConsumer):
        filters = (BroadcastMessagesFilter,)
        groups = ("a", "b", "c")

    class None_(Many):
        def get_groups(self):
            return []

    async with connect(Many.as_asgi()) as ann, connect(Many.as_asgi()) as bob:
        assert set(get_hub().groups.names) == {"a", "b", "c"}
        await ann.send("to a")
        assert await bob.receive() == "to a"
        assert await bob.received_nothing()
    async with connect(None_.as_asgi()) as cy:
        assert get_hub().groups.names == ()
        await cy.send("to nobody")
        await cy.settle()


# Receiving


async def test_data_codec_and_message_chain_run_in_this_order():
    class Codec:
        def decode(self, frame, text):
            if frame == b"DROP":
                raise Drop
            if frame == b"CLOSE":
                raise Close(4400, "not understood")
            return {"frame": frame.decode(), "text": text}

        def encode(self, message, meta):
            return f"{message['frame']}|{message['text']}"

    def shout(web_socket_instance, data):
        return data.decode().upper()

    def answer(web_socket_instance, message):
        web_socket_instance.push(message)
        web_socket_instance.publish(message, to_self=True)

    filters = [message_filter(answer), message_filter(shout, WebSocketDataFilter)]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, codec=Codec())
    async with connect(app) as ann:
        await ann.send("a")
        assert await ann.receive() == "A|True"
        assert await ann.receive() == "A|True"
        await ann.send("drop")
        assert await ann.received_nothing()
        await ann.send("close")
        with pytest.raises(Closed, match="4400 'not understood'"):
            await ann.receive()


async def test_a_dropped_event_is_seen_by_no_later_filter_and_by_nobody_else():
    def drop(web_socket_instance, data):
        if data == b"drop":
            raise Drop

    filters = [message_filter(drop), BroadcastMessagesFilter]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("drop")
        await ann.send("pass")
        assert await bob.receive() == "pass"
        assert await ann.received_nothing()


@pytest.mark.parametrize("base", [WebSocketDataFilter, None])
async def test_a_raising_filter_drops_the_event_and_hurts_nobody(base, caplog):
    def fail(web_socket_instance, data):
        if data == b"fail":
            raise KeyError("secret")

    faulty = message_filter(fail, base) if base else message_filter(fail)
    filters = [faulty, BroadcastMessagesFilter]
    async with connect(filters) as ann, connect(filters) as bob:
        for message in ("fail", "fail", "1", "fail", "2"):
            await ann.send(message)
        assert [await bob.receive(), await bob.receive()] == ["1", "2"]
        assert await ann.received_nothing()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert (
        "tests.connections.test_connection.fail raised KeyError on connection "
        in record.getMessage()
    )


async def test_on_error_close_closes_with_4500(settings):
    settings.FILTERED_WEBSOCKET = {"ON_ERROR": "close"}

    def fail(web_socket_instance, data):
        raise KeyError

    async with connect([message_filter(fail)]) as ann, connect([]) as bob:
        await ann.send("x")
        assert await ann.closed() == 4500
        assert await bob.received_nothing()


async def hang(web_socket_instance, data):
    if data == b"hang":
        await asyncio.get_running_loop().create_future()
    return b"in time"


async def test_a_filter_that_takes_too_long_loses_its_event_and_nothing_else(settings, caplog):
    settings.FILTERED_WEBSOCKET = {"FILTER_TIMEOUT": 0.01}
    async with (
        connect([message_filter(hang), BroadcastMessagesFilter]) as ann,
        connect([message_filter(hang), BroadcastMessagesFilter]) as bob,
    ):
        await ann.send("hang")
        await ann.send("x")
        assert await bob.receive() == "in time"
    [record] = caplog.records
    assert (
        "tests.connections.test_connection.hang raised TimeoutError on connection "
        in record.getMessage()
    )
    assert "FILTER_TIMEOUT is 0.01 s" in caplog.text


async def test_a_filter_that_takes_too_long_closes_where_errors_do(settings):
    settings.FILTERED_WEBSOCKET = {"FILTER_TIMEOUT": 0.01, "ON_ERROR": "close"}
    async with connect([message_filter(hang)]) as ann:
        await ann.send("hang")
        assert await ann.closed() == 4500


async def test_a_connect_filter_that_takes_too_long_refuses(settings):
    settings.FILTERED_WEBSOCKET = {"FILTER_TIMEOUT": 0.01}

    async def never(web_socket_instance, handshake):
        await asyncio.get_running_loop().create_future()

    client = await connect([message_filter(never, WebSocketConnectFilter)])
    assert (client.accepted, client.close_code) == (False, 4500)
    await client.close()


async def test_a_cancellation_inside_a_filter_is_its_error_not_the_connections_end(caplog):
    async def lost(web_socket_instance, data):
        if data == b"lost":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        web_socket_instance.push(data)

    async with connect([message_filter(lost)]) as ann:
        await ann.send("lost")
        await ann.send("alive")
        assert await ann.receive() == "alive"
    assert "lost raised CancelledError" in caplog.text or "CancelledError" in caplog.text


async def test_a_connect_filter_may_send():
    async def greet(web_socket_instance, handshake):
        await web_socket_instance.send("hello")

    async with connect([message_filter(greet, WebSocketConnectFilter)]) as ann:
        assert await ann.receive() == "hello"


@pytest.mark.parametrize("error", [ValueError, TypeError])
async def test_an_error_of_get_groups_as_a_generator_is_the_sites(error, caplog):
    class Odd(FilteredWebSocketConsumer):
        filters = []

        def get_groups(self):
            yield "one"
            raise error

    client = await connect(Odd.as_asgi(groups=[error.__name__]))
    assert client.close_code == 4500
    assert f"raised {error.__name__}" in caplog.text
    await client.close()


@pytest.mark.parametrize("names", ["room", None, 3])
async def test_get_groups_that_gives_no_list_is_the_sites_error(names, caplog):
    class Odd(FilteredWebSocketConsumer):
        # A pipeline of its own, because errors are logged once in a while per pipeline.
        filters = (message_filter(lambda web_socket_instance, data: None),)

        def get_groups(self):
            return names

    client = await connect(Odd.as_asgi())
    assert client.close_code == 4500
    await client.close()
    assert "joining its groups raised TypeError" in caplog.text
    assert f"Odd.get_groups() gave {names!r}, not a list" in caplog.text


async def test_a_layer_that_cannot_be_made_leaves_nothing_behind(settings):
    settings.FILTERED_WEBSOCKET = {"CHANNEL_LAYER": "deflaut"}
    with pytest.raises(ImproperlyConfigured, match="'deflaut'"):
        await connect([])
    assert get_hub().connections == {} and active_hub() is None


async def test_a_closing_filter_ends_its_connection_and_no_other():
    def end(web_socket_instance, data):
        web_socket_instance.push("bye")
        raise Close(4321, "enough")

    ran, filters = disconnects()
    async with connect([message_filter(end), *filters]) as ann, connect([]) as bob:
        await ann.send("x")
        await ann.send("never handled")
        assert await ann.receive() == "bye"
        with pytest.raises(Closed, match="4321 'enough'"):
            await ann.receive()
        with pytest.raises(Closed, match="has ended"):
            await ann.receive()
        assert await bob.received_nothing()
    assert ran == [4321]


async def test_a_message_over_the_limit_closes_with_4413(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 4}
    async with connect([BroadcastMessagesFilter]) as ann, connect([BroadcastMessagesFilter]) as bob:
        await ann.send("üü")
        assert await bob.receive() == "üü"
        await ann.send("üüü")
        assert await ann.closed() == 4413
        assert await bob.received_nothing()


async def test_a_slow_filter_holds_up_only_its_own_connection():
    gate = asyncio.Event()

    async def slow(web_socket_instance, data):
        if data == b"slow":
            await gate.wait()

    filters = [message_filter(slow), BroadcastMessagesFilter]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("slow")
        await bob.send("hello")
        assert await ann.receive() == "hello"
        gate.set()
        assert await bob.receive() == "slow"


def always_over(monkeypatch):
    """Have each message take a whole turn."""
    monkeypatch.setattr(reading, "TURN", 0.0)
    monkeypatch.setattr(scheduling, "LONGEST_TURN", 0.0)


async def test_who_sends_without_a_pause_holds_up_nobody_for_longer_than_its_turn(monkeypatch):
    always_over(monkeypatch)
    heard, over = [], asyncio.Event()

    def hear(web_socket_instance, message):
        heard.append(bytes(message))
        if len(heard) == 101:
            over.set()

    filters = [message_filter(hear)]
    flooding, neighbour = await Server(filters).accepted(), await Server(filters).accepted()
    for _ in range(100):
        flooding.events.put_nowait({"type": "websocket.receive", "text": "flood"})
    neighbour.events.put_nowait({"type": "websocket.receive", "text": "me too"})
    await over.wait()
    assert heard.index(b"me too") < 5
    for server in (flooding, neighbour):
        server.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await server.task


async def test_after_its_turn_many_turns_of_the_loop_are_the_others(monkeypatch):
    always_over(monkeypatch)
    turns, at, over = 0, [], asyncio.Event()

    async def count():
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    def hear(web_socket_instance, message):
        at.append(turns)
        if len(at) == 10:
            over.set()

    flooding = await Server([message_filter(hear)]).accepted()
    for _ in range(10):
        flooding.events.put_nowait({"type": "websocket.receive", "text": "flood"})
    await count()
    assert all(
        later - sooner >= reading.YIELD_ITERATIONS for sooner, later in itertools.pairwise(at)
    )
    flooding.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await flooding.task


# The disconnect chain: exactly once, on every way out


async def test_after_a_close_by_the_client():
    ran, filters = disconnects()
    client = await connect(filters)
    await client.close(1001)
    assert ran == [1001]


async def test_after_a_close_without_a_status():
    ran, filters = disconnects()
    server = await Server(filters).accepted()
    server.events.put_nowait({"type": "websocket.disconnect", "code": None})
    await server.task
    assert ran == [1005]


async def test_after_a_close_by_a_neighbour():
    ran, filters = disconnects()

    def evict(web_socket_instance, data):
        for user in web_socket_instance.users.values():
            if user is not web_socket_instance:
                user.close(4001, "evicted")

    everything = [message_filter(evict), *filters]
    async with connect(everything) as ann:
        bob = await connect(everything)
        await ann.send("x")
        assert await bob.closed() == 4001
        await bob.close()
        assert ran == [4001]
    assert ran == [4001, 1000]


async def test_after_a_cancellation_which_goes_on_afterwards():
    ran, filters = disconnects()
    server = await Server(filters).accepted()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert ran == [4500] and get_hub().connections == {}


async def test_after_a_cancellation_while_a_filter_awaits():
    started = asyncio.Event()

    async def forever(web_socket_instance, data):
        started.set()
        await asyncio.Event().wait()

    ran, filters = disconnects()
    server = await Server([message_filter(forever), *filters]).accepted()
    server.events.put_nowait({"type": "websocket.receive", "text": "x"})
    await started.wait()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert ran == [4500]


async def test_after_a_refused_send():
    def answer(web_socket_instance, data):
        web_socket_instance.push("x")

    ran, filters = disconnects()
    server = await Server([message_filter(answer), *filters]).accepted()
    server.refuse = OSError("gone")
    server.events.put_nowait({"type": "websocket.receive", "text": "x"})
    await server.task
    assert ran == [1006]


async def test_after_the_server_fails_to_receive():
    async def broken():
        raise OSError("no more")

    ran, filters = disconnects()
    server = Server(filters)
    events = [{"type": "websocket.connect"}]

    async def receive():
        return events.pop() if events else await broken()

    with pytest.raises(OSError, match="no more"):
        await server.app(server.scope, receive, server.send)
    assert ran == [1006] and get_hub().connections == {}


async def test_every_disconnect_filter_runs_whatever_an_earlier_one_does(caplog):
    def raises(web_socket_instance):
        raise KeyError

    def drops(web_socket_instance):
        raise Drop

    def closes(web_socket_instance):
        raise Close(4000)

    ran, filters = disconnects(raises, drops, closes)
    await (await connect(filters)).close()
    assert ran == [1000]
    assert "raises raised KeyError" in caplog.text


async def test_cancellations_do_not_end_a_disconnect_chain():
    started, gate, ended = asyncio.Event(), asyncio.Event(), []

    async def slow(web_socket_instance):
        started.set()
        await gate.wait()
        ended.append(True)

    ran, filters = disconnects(slow)
    server = await Server(filters).accepted()
    server.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await started.wait()
    for _ in range(3):
        server.task.cancel()
        await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert ended == [True] and ran == [1000]


async def test_a_disconnect_filter_that_never_ends_is_cancelled_and_the_next_one_runs(monkeypatch):
    monkeypatch.setattr(ending, "DISCONNECT_TIMEOUT", 0.01)
    started = asyncio.Event()

    async def forever(web_socket_instance):
        started.set()
        await asyncio.Event().wait()

    ran, filters = disconnects(forever, forever)
    server = await Server(filters).accepted()
    server.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await started.wait()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert ran == [1000]


async def test_after_a_cancellation_while_the_accept_is_being_sent():
    sending = asyncio.Event()

    class Slow(Server):
        async def send(self, event):
            self.sent.append(event)
            sending.set()
            await asyncio.Event().wait()

    ran, filters = disconnects()
    server = Slow(filters)
    server.start()
    server.events.put_nowait({"type": "websocket.connect"})
    await sending.wait()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert ran == [1006] and get_hub().connections == {}


@pytest.mark.parametrize("next_event", ["disconnect", "close", "frame", "room"])
async def test_a_crowded_connection_is_not_read_but_its_disconnect_is_seen(settings, next_event):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 4, "LAYER_TIMEOUT": 5}
    gate, handled = asyncio.Event(), []

    def flood(web_socket_instance, data):
        handled.append(bytes(data))
        for n in range(4 if data == b"flood" else 0):
            web_socket_instance.publish(str(n))

    ran, filters = disconnects()
    server = await Server([message_filter(flood), *filters]).accepted()
    hold(get_hub().link, gate)
    server.events.put_nowait({"type": "websocket.receive", "text": "flood"})
    if next_event == "disconnect":
        server.events.put_nowait({"type": "websocket.disconnect", "code": 1001})
        while not ran:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        assert not gate.is_set()
    elif next_event == "close":
        while not handled:  # noqa: ASYNC110
            await asyncio.sleep(0)
        [connection] = get_hub().connections.values()
        connection.close(4000)
        while not ran:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not gate.is_set()
    elif next_event == "frame":
        server.events.put_nowait({"type": "websocket.receive", "text": "next"})
        for _ in range(20):
            await asyncio.sleep(0)
        assert handled == [b"flood"]
    gate.set()
    if next_event == "room":
        await get_hub().publish_queue.sent()
        server.events.put_nowait({"type": "websocket.receive", "text": "next"})
    if next_event in ("frame", "room"):
        while len(handled) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.events.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await server.task
    assert ran == [4000 if next_event == "close" else 1001]


async def test_a_cancellation_while_the_writer_ends_is_not_lost():
    sending, ending, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def answer(web_socket_instance, data):
        web_socket_instance.push("x")

    class Stubborn(Server):
        async def send(self, event):
            if event["type"] == "websocket.accept":
                return await super().send(event)
            sending.set()
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await gate.wait()

    ran, filters = disconnects()
    server = await Stubborn([message_filter(answer), *filters]).accepted()
    server.events.put_nowait({"type": "websocket.receive", "text": "x"})
    await sending.wait()
    server.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await ending.wait()
    for _ in range(2):  # while it waits for the transport, and again while it finishes
        server.task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert len(ran) == 1


async def test_after_a_disconnect_that_came_before_the_writer_began():
    def answer(web_socket_instance, data):
        web_socket_instance.push("x")

    ran, filters = disconnects()
    server = await Server([message_filter(answer), *filters]).accepted()
    server.events.put_nowait({"type": "websocket.receive", "text": "x"})
    server.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await server.task
    assert ran == [1000]


async def test_before_accept_nothing_ran_so_nothing_is_undone():
    ran, filters = disconnects()
    server = Server(filters)
    server.refuse = OSError("gone")
    server.start()
    server.events.put_nowait({"type": "websocket.connect"})
    with pytest.raises(OSError, match="gone"):
        await server.task
    assert ran == [] and get_hub().connections == {}


async def test_a_client_that_left_before_it_began_is_nothing():
    server = Server([])
    server.start()
    server.events.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await server.task
    assert server.sent == []


async def test_only_websockets_are_served():
    with pytest.raises(ValueError, match="asked to serve 'http'"):
        await Server([]).app({"type": "http"}, None, None)


async def test_what_a_disconnect_filter_publishes_last_still_leaves():
    def goodbye(web_socket_instance):
        web_socket_instance.publish("bye")

    filters = [message_filter(goodbye, WebSocketDisconnectFilter)]
    async with connect(filters) as ann:
        bob = await connect(filters)
        await bob.close()
        assert await ann.receive() == "bye"


async def test_blocking_filters_see_the_rows_of_a_test(transactional_db, django_user_model):
    def count(web_socket_instance, data):
        web_socket_instance.push(str(django_user_model.objects.count()))

    await django_user_model.objects.acreate(username="ann")
    async with connect([message_filter(count, blocking=True)]) as ann:
        await ann.send("x")
        assert await ann.receive() == "1"


# A task that is cancelled


async def test_a_socket_whose_task_is_cancelled_is_closed():
    ran, filters = disconnects()
    server = await Server(filters).accepted()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    close = {"type": "websocket.close", "code": 4500, "reason": "cancelled"}
    assert server.sent[1:] == [close] and ran == [4500]


async def test_a_socket_that_is_closing_when_its_task_is_cancelled_gets_no_second_close():
    ran, filters = disconnects()

    def close(web_socket_instance, message):
        web_socket_instance.close(4321)
        asyncio.current_task().cancel()

    server = await Server([message_filter(close), *filters]).accepted()
    server.events.put_nowait({"type": "websocket.receive", "text": "x"})
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert [event.get("code") for event in server.sent[1:]] in ([4321], [])
    assert ran == [4321]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_handshake_whose_task_is_cancelled_is_refused(fails):
    waiting = asyncio.Event()

    async def wait(web_socket_instance, handshake):
        waiting.set()
        await asyncio.Event().wait()

    server = Server([message_filter(wait, WebSocketConnectFilter)])
    server.start()
    server.events.put_nowait({"type": "websocket.connect"})
    await waiting.wait()
    if fails:
        server.refuse = OSError("the client has left")
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    close = {"type": "websocket.close", "code": 4500, "reason": "cancelled"}
    assert server.sent == ([] if fails else [close])
