"""The end of a process that serves: drain."""

import asyncio
import gc
import os
import signal
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest

from filtered_websocket import WebSocketDisconnectFilter
from filtered_websocket.hub import drain
from filtered_websocket.hub.drain import SIGNALS, Drain
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import Refused, connect

from ..connections.test_connection import message_filter
from ..waiting import limited, run_in_fake_time


@pytest.fixture(autouse=True)
def the_process_goes_on():
    yield
    drain.ending.clear()


@pytest.fixture
def heard():
    """The signals that reach the server's own handler."""
    calls = []

    def handler(number, frame):
        calls.append(number)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    yield SimpleNamespace(calls=calls, handler=handler)
    for number in SIGNALS:
        assert signal.getsignal(number) is handler
        signal.signal(number, before[number])


async def test_while_somebody_is_connected_a_hub_stands_before_the_handlers(heard):
    async with connect([]):
        ours = get_hub().drain._on_signal
        assert [signal.getsignal(number) for number in SIGNALS] == [ours, ours]
    assert [signal.getsignal(number) for number in SIGNALS] == [heard.handler] * 2


async def test_a_signal_closes_everybody_and_then_passes(heard, settings):
    settings.FILTERED_WEBSOCKET = {"DRAIN_WINDOW": 0}
    gone = []

    def leave(web_socket_instance):
        gone.append((web_socket_instance.close_code, list(heard.calls)))

    filters = [message_filter(leave, WebSocketDisconnectFilter)]
    clients = [await connect(filters) for _ in range(3)]
    signal.raise_signal(signal.SIGTERM)
    assert heard.calls == []
    assert [await client.closed() for client in clients] == [4200] * 3
    for client in clients:
        await client._task
    await get_hub_task()
    assert heard.calls == [signal.SIGTERM]
    assert gone == [(4200, [])] * 3


async def test_a_server_that_has_got_its_signal_shall_not_wait(heard, settings, monkeypatch):
    def told(handler):
        ended.append((handler, list(heard.calls)))

    settings.FILTERED_WEBSOCKET = {"DRAIN_WINDOW": 0}
    ended = []
    monkeypatch.setattr(drain, "end_pauses", told)
    async with connect([]) as ann:
        signal.raise_signal(signal.SIGTERM)
        assert await ann.closed() == 4200
        assert ended == []
    await get_hub_task()
    assert ended == [(heard.handler, [signal.SIGTERM])]


async def get_hub_task():
    """Return when every drain has ended, and passed its signal on."""
    while tasks := [task for task in asyncio.all_tasks() if task.get_name() == "fws-drain"]:
        await asyncio.wait(tasks)
    await asyncio.sleep(0)


async def test_a_second_signal_passes_at_once(heard):
    gate = asyncio.Event()

    async def wait(web_socket_instance):
        await gate.wait()

    client = await connect([message_filter(wait, WebSocketDisconnectFilter)])
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert heard.calls == [signal.SIGINT]
    assert await client.closed() == 4200
    gate.set()
    await client._task
    await get_hub_task()
    assert heard.calls == [signal.SIGINT, signal.SIGTERM]


async def test_nobody_new_is_let_in(heard):
    drain.ending.set()
    with pytest.raises(Refused, match="4200 'the server ends'"):
        async with connect([]):
            raise AssertionError("entered")


async def test_who_stands_before_us_stays_there_and_is_heard(heard):
    def other(number, frame):
        ours(number, frame)

    async with connect([]):
        ours = get_hub().drain._on_signal
        signal.signal(signal.SIGTERM, other)
    assert signal.getsignal(signal.SIGTERM) is other
    # The hub has ended: what it stood before is still reached.
    signal.raise_signal(signal.SIGTERM)
    assert heard.calls == [signal.SIGTERM] and not drain.ending.is_set()
    signal.signal(signal.SIGTERM, heard.handler)


def test_who_stands_before_us_is_not_made_to_call_itself(heard):
    loop = asyncio.new_event_loop()
    one = Drain(SimpleNamespace(loop=loop, connections={}, over=True))

    def other(number, frame):
        one._on_signal(number, frame)

    one.watch()
    signal.signal(signal.SIGTERM, other)
    one.unwatch()
    one.watch()
    assert signal.getsignal(signal.SIGTERM) is other
    loop.close()
    signal.raise_signal(signal.SIGTERM)
    assert heard.calls == [signal.SIGTERM]
    one.unwatch()
    signal.signal(signal.SIGTERM, heard.handler)


async def test_what_is_ignored_stays_ignored(heard):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async with connect([]):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, heard.handler)


def test_a_hub_of_another_thread_touches_no_handler(heard):
    seen = []

    async def main():
        async with connect([]):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    assert seen == [heard.handler]


async def test_who_holds_the_hub_ends_it(heard):
    hub = get_hub()
    hub.hold()
    async with connect([]):
        assert signal.getsignal(signal.SIGTERM) is heard.handler
    await hub.release()


async def test_a_default_action_is_what_happens_in_the_end(heard, monkeypatch):
    raised = []
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    async with connect([]) as ann:
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(signal, "raise_signal", lambda number: raised.append(number))
        assert await ann.closed() == 4200
    await get_hub_task()
    assert raised == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, heard.handler)


def test_where_the_loop_was_closed_a_signal_passes(heard):
    loop = asyncio.new_event_loop()
    loop.close()
    one = Drain(SimpleNamespace(loop=loop, connections={}, over=True))
    one.watch()
    signal.raise_signal(signal.SIGTERM)
    assert heard.calls == [signal.SIGTERM]
    one.unwatch()


async def test_a_handler_of_the_event_loop_gets_the_signal_after_the_drain(heard, settings):
    """As granian and hypercorn add it."""
    settings.FILTERED_WEBSOCKET = {"DRAIN_WINDOW": 0}
    loop, got = asyncio.get_running_loop(), []
    passed = asyncio.Event()

    def handler(*args):
        got.append(args)
        passed.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, handler, number, None)
    try:
        async with connect([]) as ann:
            assert signal.getsignal(signal.SIGTERM) == get_hub().drain._on_signal
            os.kill(os.getpid(), signal.SIGTERM)
            assert await ann.closed() == 4200
            assert got == []
        await get_hub_task()
        async with limited():
            await passed.wait()
        assert got == [(signal.SIGTERM, None)]
        # The hub has ended: the loop's handlers are back.
        passed.clear()
        os.kill(os.getpid(), signal.SIGINT)
        async with limited():
            await passed.wait()
        assert got[1:] == [(signal.SIGINT, None)]
    finally:
        for number in SIGNALS:
            assert loop.remove_signal_handler(number)
            signal.signal(number, heard.handler)


@pytest.mark.repeats
def test_only_a_process_that_has_drained_ends_without_looking_for_garbage():
    before = gc.get_freeze_count()  # what collecting the tests has made
    drain.skip_collections()
    assert gc.get_freeze_count() == before
    drain.ending.set()
    drain.skip_collections()
    try:
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
        if before:
            gc.collect()
            gc.freeze()


async def test_at_its_begin_the_server_stops_to_listen(heard, monkeypatch):
    stopped = []
    monkeypatch.setattr(drain, "stop_listening", lambda handlers: stopped.extend(handlers))
    async with connect([]) as ann:
        assert stopped == []
        signal.raise_signal(signal.SIGTERM)
        assert await ann.closed() == 4200
        assert stopped == [heard.handler] * 2
    await get_hub_task()


class Closes:
    """Connections that take so many seconds each to close."""

    def __init__(self, count, seconds):
        self.over = False
        self.closed = []
        self.seconds = seconds
        self.connections = {n: self for n in range(count)}
        self.transport = SimpleNamespace(leaving=False)

    def close(self, code, reason):
        self.loop._now += self.seconds
        self.closed.append(self.loop.time())
        self.over = len(self.closed) == len(self.connections)

    async def end(self, timeout, window):
        """Closes them; how many were closed in each iteration of the event loop."""
        self.loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(Drain(self).close_all(4200, "the end", timeout, window))
        steps = [0]
        while not task.done():
            await asyncio.sleep(0)
            steps.append(len(self.closed))
        return [after - before for before, after in pairwise(steps) if after > before]


def test_who_is_late_closes_a_few_at_a_time():
    host = Closes(100, 0.01)
    assert run_in_fake_time(host.end(10, window=0)) == [32, 32, 32, 4]


def test_in_the_second_half_of_the_deadline_all_that_are_left_are_closed():
    host = Closes(200, 0.1)
    assert run_in_fake_time(host.end(10, window=1)) == [32, 168]


def test_clients_are_closed_one_after_the_other():
    class Connection:
        transport = SimpleNamespace(leaving=False)

        def close(self, code, reason):
            closed.append((asyncio.get_running_loop().time(), code))
            host.over = len(closed) == 4

    async def drain():
        host.loop = asyncio.get_running_loop()
        await Drain(host).close_all(4200, "the end", 10, window=8)
        return host.loop.time()

    closed = []
    host = SimpleNamespace(connections={n: Connection() for n in range(4)}, over=False)
    assert run_in_fake_time(drain()) == 6
    assert closed == [(0, 4200), (2, 4200), (4, 4200), (6, 4200)]


@pytest.mark.parametrize(
    ("window", "clients", "seconds"),
    [(None, 3, 0), (None, 5_000, 1), (None, 40_000, 2), (0, 5_000, 0), (6, 3, 4)],
)
def test_without_a_window_few_clients_are_closed_sooner(settings, window, clients, seconds):
    settings.FILTERED_WEBSOCKET = {} if window is None else {"DRAIN_WINDOW": window}
    host = Closes(clients, 0)

    async def drain():
        host.loop = asyncio.get_running_loop()
        await Drain(host).run()

    run_in_fake_time(drain())
    assert host.closed[-1] - host.closed[0] == pytest.approx(seconds, abs=0.01)


async def test_what_takes_too_long_is_left_to_the_server(caplog):
    gate = asyncio.Event()

    async def stuck(web_socket_instance):
        await gate.wait()

    filters = [message_filter(stuck, WebSocketDisconnectFilter)]
    async with connect(filters) as ann, connect(filters) as bob:
        await get_hub().drain.close_all(4200, "the end", 0.02, window=10)
        # Also who would have had his turn later.
        assert [await ann.closed(), await bob.closed()] == [4200, 4200]
        gate.set()
    assert "2 connections had not ended within 0.02 s" in caplog.text


async def test_what_has_not_left_is_waited_for():
    async with connect([]):
        hub = get_hub()
        [connection] = hub.connections.values()
        looks = []

        class Slow:
            @property
            def leaving(self):
                looks.append(hub.over)
                return len(looks) < 3

        host = SimpleNamespace(
            loop=hub.loop,
            connections={"a": SimpleNamespace(transport=Slow(), close=connection.close)},
            over=True,
        )
        await Drain(host).close_all(4200, "the end", 5)
    assert len(looks) == 3
