"""A filter that never returns does not keep its connection once the socket is gone."""

import asyncio
import contextlib

import pytest

from filtered_websocket import (
    WebSocketConnectFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.chains import stalls as stalls_module
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.logs import LogThrottle
from filtered_websocket.testing import connect
from filtered_websocket.transports import AsgiTransport

from ..connections.test_connection import held, message_filter
from ..waiting import limited, until


@pytest.fixture(autouse=True)
def short(settings, monkeypatch):
    """A grace that a test can wait for, and every line logged."""
    settings.FILTERED_WEBSOCKET = {"FILTER_GRACE": 0.02, "MAX_CONNECTIONS_PER_ADDRESS": 1}
    monkeypatch.setattr(stalls_module._throttle, "note", lambda name: True)


async def hang(web_socket_instance, data=None):
    await asyncio.get_running_loop().create_future()


def on(word, function, base=WebSocketMessageFilter):
    """A filter that awaits ``function(connection)`` for one message."""

    async def run(web_socket_instance, data):
        if data == word:
            await function(web_socket_instance)

    return message_filter(run, base)


async def test_a_filter_that_hangs_is_cancelled_when_the_client_has_left(caplog):
    cancelled, ended = [], []

    async def wait(connection):
        try:
            await hang(connection)
        except asyncio.CancelledError:
            cancelled.append(connection.close_code)
            raise

    async def bye(web_socket_instance):
        ended.append(web_socket_instance.close_code)

    bye_filter = message_filter(bye, WebSocketDisconnectFilter)
    async with connect([]), limited():
        ann = await connect([on(b"hang", wait), bye_filter])
        await ann.send("hang")
        await ann.close(1001)
        assert cancelled == ended == [1001] and len(get_hub().limits) == 1
    assert "cancelled tests.connections.test_connection.run: connection" in caplog.text
    assert "FILTER_GRACE (0.02 s" in caplog.text


async def test_a_filter_that_goes_on_is_cancelled_again():
    cancelled = []

    async def go_on(connection):
        for _ in range(3):
            try:
                await hang(connection)
            except asyncio.CancelledError:
                cancelled.append(1)

    async with limited():
        ann = await connect([on(b"hang", go_on)])
        await ann.send("hang")
        await ann.close()
    assert len(cancelled) == 3
    # The task that served it is cancelled no more.
    assert ann._task.done() and not ann._task.cancelled()


async def test_what_is_behind_is_not_handled_then():
    hold, seen = held(None)
    async with limited():
        ann = await connect([on(b"hang", hang), hold])
        for message in ("hang", "behind", b"it"):
            await ann.send(message)
        await ann.close()
    assert seen == []


async def test_what_is_behind_a_slow_filter_is_handled_in_order():
    go = asyncio.Event()

    async def wait(connection):
        await go.wait()

    def echo(web_socket_instance, data):
        web_socket_instance.push(data)

    async with limited(), connect([on(b"1", wait), message_filter(echo)]) as ann:
        for message in ("1", "2", b"3"):
            await ann.send(message)
        settled = asyncio.create_task(ann.settle())
        await until(ann._input.empty)
        # All is received, and not yet handled.
        await asyncio.sleep(0)
        assert not settled.done()
        go.set()
        await settled
        assert [await ann.receive() for _ in range(3)] == ["1", "2", b"3"]
        go.clear()
        await ann.send("1")
        await ann.send("4")
        await until(ann._input.empty)
        go.set()
        assert [await ann.receive(), await ann.receive()] == ["1", "4"]


async def test_past_the_limit_the_server_is_asked_whether_the_socket_is_gone(settings):
    settings.FILTERED_WEBSOCKET = {"FILTER_GRACE": 0.02, "MAX_INBOX": 2}
    with pytest.MonkeyPatch.context() as patch:
        async with limited():
            ann = await connect([on(b"hang", hang)])
            for message in ("hang", "1", "2", "3", "4"):
                await ann.send(message)
            await until(lambda: ann._input.qsize() == 2)
            [connection] = get_hub().connections.values()
            await asyncio.sleep(0)
            assert not connection.closing
            patch.setattr(AsgiTransport, "disconnected", True)
            await ann.close()
    # Nobody read its close frame: that is how a lost connection ends.
    assert connection.close_code == 1006


async def test_a_server_that_fails_to_receive_has_lost_the_socket(caplog):
    caplog.set_level("INFO", "filtered_websocket")
    ann = connect([on(b"hang", hang)])._client
    receive = ann._receive

    async def fail():
        if asyncio.current_task() is not ann._task:
            raise OSError("on demand")
        return await receive()

    ann._receive = fail
    async with limited():
        await ann.open()
        [connection] = get_hub().connections.values()
        await ann.send("hang")
        await ann._task
    assert "receive() failed: OSError('on demand')" in caplog.text
    assert connection.close_code == 1006


async def test_a_connection_that_this_side_closes_does_not_wait_for_a_filter_either():
    async with limited(), connect([on(b"hang", hang)]) as ann:
        await ann.send("hang")
        await until(lambda: get_hub().view(next(iter(get_hub().views))).stalls._running)
        [connection] = get_hub().connections.values()
        connection.close(4321, "on demand")
        assert await ann.closed() == 4321
        await ann._task


async def test_a_filter_that_closes_and_returns_is_not_cancelled(caplog):
    async def close(connection):
        connection.close(4321)
        await connection.transport.stopped()

    async with limited(), connect([on(b"close", close)]) as ann:
        await ann.send("close")
        assert await ann.closed() == 4321
        await ann._task
    assert "cancelled" not in caplog.text


async def test_a_cancellation_by_the_server_stays_one():
    ann = await connect([on(b"hang", hang)])
    await ann.send("hang")
    await until(lambda: get_hub().view(next(iter(get_hub().views))).stalls._running)
    ann._task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ann._task


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_client_that_leaves_during_the_connect_chain_is_let_go(goes_on):
    ended = []

    async def wait(web_socket_instance, handshake):
        with contextlib.suppress(asyncio.CancelledError) if goes_on else contextlib.nullcontext():
            await hang(web_socket_instance)

    def bye(web_socket_instance):
        ended.append(1)

    filters = [
        message_filter(wait, WebSocketConnectFilter),
        message_filter(bye, WebSocketDisconnectFilter),
    ]
    client = connect(filters)._client
    client._task = asyncio.create_task(client._serve())
    client._input.put_nowait({"type": "websocket.connect"})
    client._input.put_nowait({"type": "websocket.disconnect", "code": 1006})
    async with limited():
        await client._task
    # It was never accepted, and nothing was sent to who is not there.
    assert ended == [] and client._output.empty()


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_connection_that_is_closed_during_the_connect_chain_is_never_accepted(
    goes_on, monkeypatch
):
    monkeypatch.setattr(AsgiTransport, "close_timeout", 0.01)

    async def wait(web_socket_instance, handshake):
        # As by a logout: the filter does not know of it.
        web_socket_instance.close(4401, "logged out")
        with contextlib.suppress(asyncio.CancelledError) if goes_on else contextlib.nullcontext():
            await hang(web_socket_instance)

    async with limited():
        client = connect([message_filter(wait, WebSocketConnectFilter)])._client
        await client.open()
        await client._task
    assert (client.accepted, client.close_code) == (False, 4401)


async def test_what_is_no_filter_is_cancelled_too_and_said_once(caplog, monkeypatch):
    class Route(FilteredWebSocketConsumer):
        filters = ()

        async def get_groups(self):
            return await hang(self.connection)

    monkeypatch.setattr(stalls_module, "_throttle", LogThrottle())
    for _ in range(2):
        client = connect(Route.as_asgi())._client
        client._task = asyncio.create_task(client._serve())
        client._input.put_nowait({"type": "websocket.connect"})
        client._input.put_nowait({"type": "websocket.disconnect"})
        async with limited():
            await client._task
    assert caplog.text.count("cancelled what the application awaits") == 1


async def test_a_cancellation_of_a_handshake_stays_one():
    client = connect([message_filter(hang, WebSocketConnectFilter)])._client
    client._task = asyncio.create_task(client._serve())
    client._input.put_nowait({"type": "websocket.connect"})
    await until(lambda: get_hub().connections)
    await asyncio.sleep(0)
    client._task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client._task


async def test_a_disconnect_filter_that_hangs_is_cancelled_and_the_next_one_runs(caplog):
    ended = []

    async def bye(web_socket_instance):
        ended.append(1)

    filters = [
        message_filter(hang, WebSocketDisconnectFilter),
        message_filter(bye, WebSocketDisconnectFilter),
    ]
    async with limited():
        ann = await connect(filters)
        await ann.close()
    assert ended == [1] and "test_connection.hang" in caplog.text


async def test_while_no_filter_runs_nothing_wakes_up():
    async with connect([on(b"hang", hang)]) as ann:
        await ann.send("x")
        await ann.settle()
        stalls = get_hub().view(next(iter(get_hub().views))).stalls
        await until(lambda: stalls._timer is None)
        assert stalls._running == {}


def test_only_what_runs_for_long_is_looked_at():
    class Loop:
        now, timers = 0.0, 0

        def time(self):
            return self.now

        def call_later(self, seconds, function):
            assert seconds == 0.002
            self.timers, self.function = self.timers + 1, function
            return self.timers

    class Reader:
        looked = 0

        def look_ahead(self):
            self.looked += 1

    loop, slow, quick = Loop(), Reader(), Reader()
    stalls = stalls_module.Stalls(loop)
    stalls.begin(slow)
    loop.now = 0.0015
    stalls.begin(quick)
    loop.now = 0.002
    loop.function()
    assert (slow.looked, quick.looked, loop.timers) == (1, 0, 2)
    stalls.end(quick)
    stalls.end(slow)
    loop.function()
    assert (slow.looked, loop.timers, stalls._timer) == (1, 2, None)
