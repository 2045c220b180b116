"""Calls of a connection act at once, awaited or not, from any thread and event loop."""

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import Future

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from channels.layers import channel_layers

from filtered_websocket import Close, NotAllowed, PublishError, WebSocketDisconnectFilter
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.groups import group
from filtered_websocket.hub import groups as groups_module
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import connect
from filtered_websocket.threads.result import Result, WatchedResult

from ..connections.test_connection import held, message_filter
from ..hub.test_hub import noted
from ..layer.test_link import Layer
from ..waiting import until


@pytest.fixture
def layer(settings):
    """The site's layer, which can be away for longer than a test."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 60, "LAYER_SETTLE": 0}
    layer = Layer()
    channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.clear()


def route(function, may_join=None, groups=("home",)):
    """An application whose message filter is ``function``."""

    class Route(FilteredWebSocketConsumer):
        filters = (message_filter(function),)

    Route.groups = groups
    Route.may_join = may_join and staticmethod(may_join)
    return Route.as_asgi()


@pytest.mark.parametrize("rule", [True, False])
async def test_a_call_is_not_taken_for_its_answer(rule, caplog):
    """A forgotten await must not allow what the rule refuses, in any filter."""

    def publish(web_socket_instance, data):
        if web_socket_instance.is_allowed("publish", "room"):
            web_socket_instance.publish(data, "room", to_self=True)

    rules = [group("room", publish=rule)]
    async with connect([message_filter(publish)], group_rules=rules) as ann:
        await ann.connection.join("room")
        await ann.send("hi")
        assert await ann.received_nothing()
    assert caplog.text.count("TypeError: this call has an answer only if it is awaited") == 1
    for used in (lambda call: not call, lambda call: call and True, bool):
        with pytest.raises(TypeError, match="only if it is awaited"):
            used(Result(None, True))


async def test_calls_that_are_not_awaited_act_all_the_same():
    def act(web_socket_instance, data):
        web_socket_instance.join("one")
        web_socket_instance.join("two")
        web_socket_instance.leave("one")
        web_socket_instance.send("sent")
        web_socket_instance.apublish("published", to_self=True)
        assert web_socket_instance.groups == {web_socket_instance.home, "two"}

    async with connect([message_filter(act)]) as ann:
        await ann.send("x")
        assert [await ann.receive(), await ann.receive()] == ["sent", "published"]
        assert await ann.received_nothing()


async def test_a_join_that_is_refused_at_once_ends_the_event_without_await():
    def act(web_socket_instance, data):
        web_socket_instance.join(data.decode())
        web_socket_instance.push("joined")

    async with connect(route(act, lambda connection, group: group != "staff")) as ann:
        await ann.send("staff")
        assert await ann.received_nothing() and get_hub().counts["not_allowed"] == 1
        await ann.send("other")
        assert await ann.receive() == "joined"


@pytest.mark.parametrize("answer", [False, ValueError("on demand")])
async def test_a_join_that_is_refused_later_is_not_silent_either(answer, caplog):
    caplog.set_level("INFO")

    async def may_join(connection, group):
        await asyncio.sleep(0)
        if group != "home" and isinstance(answer, Exception):
            raise answer
        return group == "home"

    def act(web_socket_instance, data):
        web_socket_instance.join("staff")

    async with connect(route(act, may_join)) as ann:
        await ann.send("x")
        words = "may not join this group: 'staff'" if answer is False else "on demand"
        await until(lambda: words in caplog.text)
        if answer is not False:
            assert "a call that is not awaited raised ValueError" in caplog.text
        assert get_hub().counts["not_allowed"] == (answer is False)
        assert get_hub().groups.names == ("home",) and ann.close_code is None


async def test_a_close_that_a_join_raises_later_closes():
    async def may_join(connection, group):
        await asyncio.sleep(0)
        if group != "home":
            raise Close(4321, "banned")
        return True

    def act(web_socket_instance, data):
        web_socket_instance.join("staff")

    async with connect(route(act, may_join)) as ann:
        await ann.send("x")
        assert (await ann.closed(), ann.close_reason) == (4321, "banned")


@pytest.mark.parametrize("order", ["JL", "JLJ", "JJ", "JJL"])
async def test_a_leave_takes_back_a_join_that_is_not_decided_yet(order):
    decide = asyncio.Event()

    async def may_join(connection, group):
        await (asyncio.sleep(0) if group == "home" else decide.wait())
        return True

    results = []

    def act(web_socket_instance, data):
        for step in order:
            if step == "J":
                results.append(web_socket_instance.join("slow"))
            else:
                web_socket_instance.leave("slow")
        assert "slow" not in web_socket_instance.groups

    async with connect(route(act, may_join)) as ann:
        await ann.send("x")
        await ann.settle()
        decide.set()
        told = [await result for result in results]
        assert told == {"JL": [False], "JLJ": [False, True], "JJ": [True, True]}.get(
            order, [False, False]
        )
        assert ("slow" in get_hub().groups.names) is (order[-1] == "J")
        [connection] = get_hub().connections.values()
        assert connection.asked == {}


async def test_a_join_that_the_layer_keeps_waiting_is_over_when_the_connection_is(layer):
    results = []

    def act(web_socket_instance, data):
        layer.away = True
        results.append(web_socket_instance.join("later"))

    async with connect([]), connect([message_filter(act)]) as ann:
        await ann.send("x")
        await until(lambda: results)
        waiting = asyncio.create_task(results[0])
        await ann.close()
        assert await waiting is False
        layer.away = False


async def test_who_awaits_a_join_may_be_cancelled(layer):
    ended = []

    async def act(web_socket_instance, data):
        layer.away = True
        waiting = asyncio.create_task(web_socket_instance.join("later"))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        ended.append(waiting.cancelled())
        # What the call has begun goes on.
        assert "later" in web_socket_instance.groups and web_socket_instance.tasks

    async with connect([message_filter(act)]) as ann:
        await ann.send("x")
        await until(lambda: ended)
        assert ended == [True]
        layer.away = False


async def test_a_call_from_another_loop_acts_on_that_of_the_connection(layer):
    """Once it took LAYER_TIMEOUT, and changed the hub from a thread that is not its own."""
    threads = set()
    joins = groups_module.Groups.join

    def note(self, *args):
        threads.add(threading.current_thread())
        return joins(self, *args)

    def act(web_socket_instance, data):
        told = async_to_sync(web_socket_instance.join)("far")
        assert told is True and "far" in web_socket_instance.groups
        async_to_sync(web_socket_instance.send)("sent")
        async_to_sync(web_socket_instance.apublish)("published", "far", to_self=True)
        async_to_sync(web_socket_instance.leave)("far")
        assert "far" not in web_socket_instance.groups
        with pytest.raises(NotAllowed):
            async_to_sync(web_socket_instance.join)("token:x")
        assert async_to_sync(web_socket_instance.use_token)(None) is None
        web_socket_instance.push("done")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups_module.Groups, "join", note)
        app = FilteredWebSocketConsumer.as_asgi(filters=[message_filter(in_a_thread(act))])
        async with connect(app) as ann:
            await ann.send("x")
            said = [await ann.receive() for _ in range(3)]
            assert sorted(said) == ["done", "published", "sent"]
    assert threads == {threading.main_thread()}


def in_a_thread(function):
    """A filter that runs ``function`` in a thread that is not this package's."""

    async def filter(web_socket_instance, data):
        await asyncio.get_running_loop().run_in_executor(None, function, web_socket_instance, data)

    return filter


async def test_a_thread_need_not_wait(caplog):
    def act(web_socket_instance, data):
        web_socket_instance.join("far")
        web_socket_instance.apublish("published", to_self=True)

    def refused(web_socket_instance, data):
        web_socket_instance.join("token:x")

    for blocking in (act, refused):
        async with connect([message_filter(in_a_thread(blocking))]) as ann:
            await ann.send("x")
            if blocking is act:
                assert await ann.receive() == "published"
                await until(lambda: "far" in get_hub().groups.names)
            else:
                await until(lambda: get_hub().counts["not_allowed"] == 1)


async def test_a_thread_that_waits_for_the_layer_is_told_when_the_connection_ends(layer):
    told = Future()

    def act(web_socket_instance, data):
        layer.away = True
        wait = async_to_sync(web_socket_instance.join)
        threading.Thread(target=lambda: told.set_result(wait("far"))).start()

    async with connect([]), connect([message_filter(act)]) as ann:
        await ann.send("x")
        await until(lambda: any(one.tasks for one in get_hub().connections.values()))
        await ann.close()
        assert await asyncio.wrap_future(told) is False
        layer.away = False


async def test_a_thread_that_waits_gets_what_goes_wrong_later():
    told = Future()

    async def may_join(connection, group):
        await asyncio.sleep(0)
        return group == "home"

    def wait(connection):
        try:
            async_to_sync(connection.join)("staff")
        except NotAllowed as refusal:
            told.set_result(refusal.group)

    async with connect(route(in_a_thread(lambda connection, data: wait(connection)), may_join)):
        [connection] = get_hub().connections.values()
        await asyncio.to_thread(wait, connection)
        assert told.result() == "staff" and not connection.closing


async def test_a_publish_that_fails_and_is_not_awaited_is_an_event(layer, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_SETTLE": 0, "PUBLISH_MAX_AGE": 0.01}
    note, events = noted()

    def act(web_socket_instance, data):
        layer.error = TypeError("bad message")
        layer.away = True
        web_socket_instance.apublish("lost", "g")

    async with connect([message_filter(act), note]) as ann:
        await ann.send("x")
        await until(lambda: "publish_failed" in [event["type"] for event in events])
        layer.away = False
    [event] = [event for event in events if event["type"] == "publish_failed"]
    assert event["data"]["group"] == "g" and event["data"]["messages"] == 1


async def test_a_publish_that_fails_and_is_awaited_raises(layer):
    raised = []

    async def act(web_socket_instance, data):
        layer.error = TypeError("bad message")
        layer.away = True
        try:
            await web_socket_instance.apublish("lost", "g")
        except PublishError as error:
            raised.append(error)
        layer.away = False

    async with connect([message_filter(act)]) as ann:
        await ann.send("x")
        await ann.settle()
        assert len(raised) == 1


async def test_results_are_coroutines_for_asyncio():
    async def act(web_socket_instance, data):
        for name in ("join", "leave", "send", "apublish", "use_token"):
            assert iscoroutinefunction(getattr(web_socket_instance, name))
        told = await asyncio.gather(
            asyncio.create_task(web_socket_instance.join("a")),
            asyncio.wait_for(web_socket_instance.join("b"), 60),
            web_socket_instance.send("hi"),
        )
        assert told == [True, True, None]

    async with connect([message_filter(act)]) as ann:
        await ann.send("x")
        assert await ann.receive() == "hi"


def test_a_result_may_be_closed_or_thrown_into():
    result = Result(None, 1)
    result.close()
    with pytest.raises(KeyError):
        result.throw(KeyError("x"))
    result.close()
    with pytest.raises(StopIteration) as stopped:
        Result(None, 2).send(None)
    assert stopped.value.value == 2


async def test_a_result_may_be_driven_by_hand():
    """As an event loop does it, or a library that wraps coroutines."""
    future = asyncio.get_running_loop().create_future()
    result = Result(future)
    assert result.send(None) is future
    future.set_result("done")
    with pytest.raises(StopIteration) as stopped:
        result.send(None)
    assert stopped.value.value == "done"


@pytest.mark.repeats
async def test_an_error_that_nobody_awaits_is_told_once_and_never_of_a_closed_loop():
    class View:
        is_current = True
        closed = False

        def call(self, function, *args):
            if self.closed:
                raise RuntimeError("Event loop is closed")
            function(*args)

    seen, view, loop = [], View(), asyncio.get_running_loop()
    for outcome in (None, KeyError("late"), "cancel"):
        future = loop.create_future()
        del [WatchedResult(view, future, None, seen.append)][0]
        gc.collect()
        if outcome == "cancel":
            future.cancel()
        elif outcome is None:
            future.set_result(None)
        else:
            future.set_exception(outcome)
        await asyncio.sleep(0)
    assert list(map(str, seen)) == ["'late'"]
    view.closed = True
    future = loop.create_future()
    del [WatchedResult(view, future, None, seen.append)][0]
    future.cancel()


async def test_the_disconnect_chain_knows_the_groups_and_joins_no_more():
    seen = []

    async def bye(web_socket_instance):
        seen.append(web_socket_instance.groups)
        seen.append(await web_socket_instance.join("late"))
        assert await web_socket_instance.use_token("nobody's") is None

    async def act(web_socket_instance, data):
        await web_socket_instance.join("room")

    hold, connections = held(None)
    filters = [message_filter(act), message_filter(bye, WebSocketDisconnectFilter), hold]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=["home"])
    async with connect(app) as ann:
        await ann.send("x")
        await ann.settle()
        hub = get_hub()
    assert seen == [{"home", "room"}, False]
    assert connections[0].groups == {"home", "room"} and hub.groups.names == ()


async def test_a_message_that_is_not_awaited_reaches_who_is_there():
    def act(web_socket_instance, data):
        web_socket_instance.join("room")

    filters = [message_filter(act), BroadcastMessagesFilter]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=["room"])
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("hi")
        assert await bob.receive() == "hi"
