"""Requests of clients that have an answer."""

import asyncio
import contextvars
import gc
import json
import logging
import threading
from types import SimpleNamespace

import pytest

from filtered_websocket import (
    Close,
    Drop,
    WebSocketCallFilter,
    WebSocketDisconnectFilter,
    current,
)
from filtered_websocket.chains import stalls as stalls_module
from filtered_websocket.chains.running import Running
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.exceptions import NoSuchMethod
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.pipelines.entries import PipelineError
from filtered_websocket.testing import Closed, connect
from filtered_websocket.types import Call

from ..connections.test_connection import message_filter
from ..rpc_filters import Rpc
from ..waiting import limited, until
from .test_raising_filters import ERRORS

KINDS = ["def", "async", "blocking"]


def call_filter(function, kind="def"):
    async def in_async(web_socket_instance, call):
        await asyncio.sleep(0)
        return function(web_socket_instance, call)

    in_async.__name__ = function.__name__
    chosen = in_async if kind == "async" else function
    return message_filter(chosen, WebSocketCallFilter, blocking=kind == "blocking")


def route(*filters, **options):
    codec = "filtered_websocket.json_codec.JSONCodec"
    return FilteredWebSocketConsumer.as_asgi(filters=[Rpc, *filters], codec=codec, **options)


async def ask(client, number, method, data=None):
    await client.send(json.dumps({"id": number, "call": method, "data": data}))


async def told(client):
    return json.loads(await client.receive())


def calculate(web_socket_instance, call):
    if call.method == "add":
        return sum(call.data)
    if call.method == "nothing":
        return call.data
    return None


def say_hello(web_socket_instance, call):
    if call.method == "hello":
        return {"hello": call.data}
    if call.method == "sum":
        return Call("add", call.data)
    if call.method == "secret":
        raise Drop
    return None


# Through a protocol


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_is_answered_by_the_first_filter_that_returns_something(kind):
    after = []

    def note(web_socket_instance, call):
        after.append(call.method)

    app = route(*(call_filter(one, kind) for one in (say_hello, calculate, note)))
    async with connect(app) as ann:
        for number, (method, data) in enumerate(
            [
                ("hello", "ann"),
                ("add", [1, 2]),
                ("sum", [3, 4]),
                ("secret", None),
                ("unknown", None),
                ("nothing", 0),
                ("nothing", ""),
                ("nothing", []),
                ("nothing", False),
                ("nothing", None),
            ]
        ):
            await ask(ann, number, method, data)
            answer = await told(ann)
            assert answer.pop("id") == number
            expected = {
                "hello": {"answer": {"hello": "ann"}},
                "add": {"answer": 3},
                "sum": {"answer": 7},
                "secret": {"error": "no method secret"},
                "unknown": {"error": "no method unknown"},
                "nothing": {"answer": data},
            }[method]
            assert answer == (
                {"error": "no method nothing"} if data is None and method == "nothing" else expected
            )
    assert after == ["unknown", "nothing"]


async def test_without_call_filters_there_is_no_method():
    async with connect(route()) as ann:
        await ask(ann, 1, "add")
        assert await told(ann) == {"id": 1, "error": "no method add"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["drop", "close"])
async def test_an_error_is_told_to_the_client_and_logged(settings, caplog, policy, kind, error):
    settings.FILTERED_WEBSOCKET = {"ON_ERROR": policy}

    def fail(web_socket_instance, call):
        if call.method == "fail":
            raise error("on purpose")
        return "fine"

    async with connect(route(call_filter(fail, kind))) as ann, connect(route()) as bob:
        await ask(ann, 1, "fail")
        if policy == "close":
            assert await ann.closed() == 4500
        else:
            assert await told(ann) == {"id": 1, "error": "it failed"}
            await ask(ann, 2, "other")
            assert await told(ann) == {"id": 2, "answer": "fine"}
        await ask(bob, 1, "any")
        assert (await told(bob))["id"] == 1
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "test_connection.fail raised" in record.getMessage()


async def test_a_filter_cannot_cancel_the_task_of_its_call(caplog):
    def cancel(web_socket_instance, call):
        asyncio.current_task().cancel()

    async with connect(route(call_filter(cancel))) as ann:
        await ask(ann, 1, "x")
        assert await told(ann) == {"id": 1, "error": "it failed"}
    assert "this code cancels the task that runs it" in caplog.text


async def test_a_filter_that_may_not_join_is_no_missing_method(caplog):
    async def join(web_socket_instance, call):
        await web_socket_instance.join("token:x")

    caplog.set_level(logging.INFO)
    async with connect(route(message_filter(join, WebSocketCallFilter))) as ann:
        await ask(ann, 1, "join")
        assert await told(ann) == {"id": 1, "error": "not allowed"}
        assert get_hub().counts["not_allowed"] == 1
    assert "token:" in caplog.text


async def test_close_closes_the_connection():
    def bye(web_socket_instance, call):
        raise Close(4000, "bye")

    async with connect(route(call_filter(bye))) as ann:
        await ask(ann, 1, "x")
        assert await ann.closed() == 4000


class Gates:
    """A call filter whose calls wait until a test lets them go on."""

    def __init__(self):
        self.begun, self.gates = [], {}

        async def wait(web_socket_instance, call):
            gate = self.gates.setdefault(call.data, asyncio.Event())
            self.begun.append(call.data)
            await gate.wait()
            return call.data

        self.filter = message_filter(wait, WebSocketCallFilter)

    async def has_begun(self, *names):
        await until(lambda: self.begun == list(names))


async def test_calls_overlap_and_each_answer_has_the_id_of_its_call():
    gates = Gates()
    async with connect(route(gates.filter, calls=3)) as ann:
        for number, name in enumerate("abcd"):
            await ask(ann, number, "wait", name)
        # The fourth waits until one has ended.
        await gates.has_begun(*"abc")
        gates.gates["b"].set()
        assert await told(ann) == {"id": 1, "answer": "b"}
        await gates.has_begun(*"abcd")
        for number, name in ((3, "d"), (0, "a"), (2, "c")):
            gates.gates[name].set()
            assert await told(ann) == {"id": number, "answer": name}


async def test_one_at_once_is_one_after_the_other():
    gates = Gates()
    async with connect(route(gates.filter, calls=1)) as ann:
        for number, name in enumerate("ab"):
            await ask(ann, number, "wait", name)
        await gates.has_begun("a")
        gates.gates["a"].set()
        await gates.has_begun(*"ab")
        gates.gates["b"].set()
        assert [await told(ann), await told(ann)] == [
            {"id": 0, "answer": "a"},
            {"id": 1, "answer": "b"},
        ]


@pytest.mark.parametrize("limit", [None, 2])
async def test_the_setting_says_how_many_where_the_route_does_not(settings, limit):
    settings.FILTERED_WEBSOCKET = {"CALLS": limit} if limit else {}
    limit = limit or 8
    gates = Gates()
    async with connect(route(gates.filter)) as ann:
        names = list("abcdefghij")
        for number, name in enumerate(names):
            await ask(ann, number, "wait", name)
        await gates.has_begun(*names[:limit])
        for name in names:
            await until(lambda name=name: name in gates.gates)
            gates.gates[name].set()
        assert sorted([(await told(ann))["answer"] for _ in names]) == names


@pytest.mark.parametrize("calls", [0, True, "8", -1])
def test_a_wrong_number_of_calls_is_a_mistake_of_the_route(calls):
    with pytest.raises(PipelineError, match=r"calls=.* It must be an int above 0") as caught:
        route(calls=calls)
    assert caught.value.id == "filtered_websocket.E025"
    # Checks look at every route that there is.
    del caught
    gc.collect()


tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_runs_in_the_context_of_the_handshake_and_in_no_group_message(kind):
    threads = []

    def look(web_socket_instance, call):
        threads.append(threading.current_thread())
        return [tenant.get(), current.group]

    app = route(call_filter(look, kind))

    async def of_tenant(scope, receive, send):
        tenant.set("one")
        await app(scope, receive, send)

    async with connect(of_tenant) as ann:
        await ask(ann, 1, "x")
        assert await told(ann) == {"id": 1, "answer": ["one", None]}
    assert (threads[0] is threading.main_thread()) == (kind != "blocking")


async def test_a_protocol_that_fails_is_logged(caplog):
    async with connect(route()) as ann:
        [view] = get_hub().views.values()
        [connection] = view.users.values()

        async def fail():
            raise ValueError("a mistake of the protocol")

        task = await view.calls_of(connection).start(fail())
        await asyncio.wait({task})
        await ask(ann, 1, "x")
        assert (await told(ann))["id"] == 1
    assert "a call raised ValueError on connection" in caplog.text


async def test_who_waits_for_what_runs_cancels_nothing():
    owner = SimpleNamespace(context=contextvars.copy_context(), id="1")
    running = Running(owner, None)
    over = asyncio.Event()
    task = running.begin(over.wait(), "call")
    waiting = asyncio.ensure_future(running.settled())
    await asyncio.sleep(0)
    assert not waiting.done()
    over.set()
    await waiting
    assert task.result() is True


# The end of a connection


@pytest.fixture
def short(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"FILTER_GRACE": 0.05}
    monkeypatch.setattr(stalls_module._throttle, "note", lambda name: True)


def bye_filter(ended):
    def bye(web_socket_instance):
        ended.append("bye")

    return message_filter(bye, WebSocketDisconnectFilter)


async def test_a_call_that_hangs_is_cancelled_when_the_client_has_left(short, caplog):
    ended = []

    async def hang(web_socket_instance, call):
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ended.append(call.data)
            raise

    app = route(message_filter(hang, WebSocketCallFilter), bye_filter(ended), calls=2)
    async with limited():
        ann = await connect(app)
        for number in (1, 2, 3):
            await ask(ann, number, "hang", number)
        await ann.close(1001)
    # The third had no room, and is not begun any more.
    assert sorted(ended[:2]) == [1, 2] and ended[2:] == ["bye"]
    assert caplog.text.count("cancelled tests.connections.test_connection.hang") == 2


async def test_a_call_that_returns_in_time_is_not_cancelled():
    gates, ended = Gates(), []

    async def note(web_socket_instance, call):
        ended.append(call.method)
        return None

    app = route(message_filter(note, WebSocketCallFilter), gates.filter, bye_filter(ended))
    ann = await connect(app)
    await ask(ann, 1, "wait", "a")
    await gates.has_begun("a")
    closing = asyncio.ensure_future(ann.close(1001))
    await until(lambda: not get_hub().views or not next(iter(get_hub().views.values())).users)
    assert ended == ["wait"]
    gates.gates["a"].set()
    await closing
    assert ended == ["wait", "bye"]


async def test_a_server_that_has_no_time_left_cancels_calls():
    gates, ended = Gates(), []
    ann = await connect(route(gates.filter, bye_filter(ended)))
    await ask(ann, 1, "wait", "a")
    await gates.has_begun("a")
    connection = ann.connection
    stopping = asyncio.ensure_future(connection.running.stopped())
    await asyncio.sleep(0)
    stopping.cancel()
    async with limited():
        await stopping
    assert not connection.running._tasks
    await ann.close()
    assert ended == ["bye"]


async def test_who_waits_to_begin_a_call_may_be_cancelled():
    gates = Gates()
    async with connect(route(gates.filter, calls=1)) as ann:
        await ask(ann, 1, "wait", "a")
        await gates.has_begun("a")
        waiting = asyncio.ensure_future(ann.call("wait", "b"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gates.gates["a"].set()
        assert await told(ann) == {"id": 1, "answer": "a"}
    assert gates.begun == ["a"]


async def test_a_connection_that_closes_begins_no_call():
    gates = Gates()
    async with connect([gates.filter]) as ann:
        [view] = get_hub().views.values()
        [connection] = view.users.values()
        connection.close(4000)
        with pytest.raises(Closed):
            await ann.call("wait")
        assert await ann.closed() == 4000
    assert gates.begun == []


# filtered_websocket.testing


async def test_a_test_calls_without_a_protocol():
    filters = [call_filter(calculate), call_filter(say_hello)]
    async with connect([]), connect(filters) as ann, connect(filters) as bob:
        sums = await asyncio.gather(*(ann.call("add", [1, n]) for n in range(20)))
        assert sums == list(range(1, 21))
        assert await bob.call("hello", "bob") == {"hello": "bob"}
        with pytest.raises(NoSuchMethod, match="nowhere"):
            await ann.call("nowhere")
        with pytest.raises(TypeError):
            await ann.call("add", [1, "x"])
    with pytest.raises(Closed):
        await ann.call("add", [1])


async def test_a_call_of_a_test_whose_connection_ends_is_not_answered(short):
    gates = Gates()
    async with limited():
        ann = await connect([gates.filter])
        asking = asyncio.ensure_future(ann.call("wait", "a"))
        await gates.has_begun("a")
        await ann.close()
        with pytest.raises(Closed, match="before the call was answered"):
            await asking
