"""A filter that raises, in each chain, with each setting: what is lost, and by whom."""

import asyncio
import contextlib
import logging
from typing import Any, ClassVar

import pytest
from channels.exceptions import StopConsumer

from filtered_websocket import (
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    WebSocketSendFilter,
)
from filtered_websocket.chains.chain import Chain
from filtered_websocket.connections.handshake import Handshake
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter
from ..waiting import until

#: Chain base -> what becomes of the connection under "drop" and under "close".
TABLE = {
    WebSocketConnectFilter: (4500, 4500),
    WebSocketDataFilter: (None, 4500),
    WebSocketMessageFilter: (None, 4500),
    WebSocketGroupFilter: (None, None),
    WebSocketSendFilter: (None, 4500),
    WebSocketConsumerFilter: (None, None),
    WebSocketDisconnectFilter: (None, None),
}


class OnPurpose(BaseException):
    """An exception that is no Exception."""


ERRORS = [
    KeyError,
    StopConsumer,
    RecursionError,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
    SystemExit,
    GeneratorExit,
    OnPurpose,
]
#: The same: those after the first one of its kind run no other lines of the package.
FIRST = {KeyError, StopIteration, asyncio.CancelledError, SystemExit, GeneratorExit}
ERRORS_OF_A_KIND = [
    pytest.param(error, marks=() if error in FIRST else pytest.mark.repeats) for error in ERRORS
]


def publish(web_socket_instance, data):
    if data == b"event":
        web_socket_instance.queue.put("event")
    else:
        web_socket_instance.publish(data, to_self=True)


def pipeline(base, error, ran, kind):
    """The filter that raises on demand, one of its chain before it, and the good ones."""

    def fail(web_socket_instance, data):
        if base is WebSocketConnectFilter or data in (b"bad", "event", None):
            ran.append(data)
            raise error("on purpose")

    async def fail_in_async(web_socket_instance, data):
        fail(web_socket_instance, data)

    def note(web_socket_instance):
        ran.append("goodbye")

    return [
        message_filter(
            fail_in_async if kind == "async" else fail, base, blocking=kind == "blocking"
        ),
        message_filter(publish),
        message_filter(note, WebSocketDisconnectFilter),
    ]


@pytest.mark.parametrize("error", ERRORS_OF_A_KIND, ids=lambda error: error.__name__)
@pytest.mark.parametrize("base", TABLE, ids=lambda base: base.__name__)
@pytest.mark.parametrize("policy", ["drop", "close"])
@pytest.mark.parametrize("kind", ["def", "async", "blocking"])
async def test_an_error_costs_what_the_table_says(settings, caplog, base, policy, error, kind):
    settings.FILTERED_WEBSOCKET = {"ON_ERROR": policy}
    expected = TABLE[base][policy == "close"]
    ran = []
    ann = await connect(
        FilteredWebSocketConsumer.as_asgi(filters=pipeline(base, error, ran, kind), groups=["g"])
    )
    good = FilteredWebSocketConsumer.as_asgi(filters=[message_filter(publish)], groups=["g"])
    async with connect(good) as bob:
        if base is not WebSocketConnectFilter:
            for _ in range(3):
                await ann.send("event" if base is WebSocketConsumerFilter else "bad")
        if expected is not None:
            assert await ann.closed() == expected
        else:
            await ann.settle()
            await ann.send("good")
            heard = [await ann.receive()]
            while heard[-1] != "good":
                heard.append(await ann.receive())
            # What failed was lost to this pipeline; a disconnect filter has no part in it.
            assert heard == ["good"] or base is WebSocketDisconnectFilter
        await ann.close()
        # Nobody else has lost anything.
        await bob.send("between us")
        heard = [await bob.receive()]
        while heard[-1] != "between us":
            heard.append(await bob.receive())
        assert bob.close_code is None
    assert len(ran) > 0
    assert ran.count("goodbye") == (base is not WebSocketConnectFilter)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and "tests.connections.test_connection.fail" in errors[0].getMessage()


# A filter that cancels the task that runs it: asyncio.current_task().cancel()


def cancel_own_task(web_socket_instance, data):
    if data in (b"bad", "event", None) or isinstance(data, Handshake):
        asyncio.current_task().cancel()


async def cancel_own_task_in_async(web_socket_instance, data):
    cancel_own_task(web_socket_instance, data)
    await asyncio.sleep(0)


#: Chain base -> close code of the connection. Other chains run in tasks that serve more than
#: one connection, which refuse to be cancelled by themselves.
CANCELLED = TABLE | {
    WebSocketDataFilter: (4500,),
    WebSocketMessageFilter: (4500,),
}


@pytest.mark.parametrize("base", CANCELLED, ids=lambda base: base.__name__)
@pytest.mark.parametrize("kind", ["def", "async", "blocking"])
async def test_a_filter_that_cancels_its_own_task_leaves_no_socket_open_and_deaf(
    caplog, base, kind
):
    function = cancel_own_task_in_async if kind == "async" else cancel_own_task
    # A blocking filter has no task: its thread has no event loop.
    expected = (TABLE if kind == "blocking" else CANCELLED)[base][0]
    ran = []

    def note(web_socket_instance):
        ran.append("goodbye")

    filters = [
        message_filter(function, base, blocking=kind == "blocking"),
        message_filter(publish),
        message_filter(note, WebSocketDisconnectFilter),
    ]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=["g"])
    good = FilteredWebSocketConsumer.as_asgi(filters=[message_filter(publish)], groups=["g"])
    async with connect(good) as bob:
        ann = await connect(app)
        if base is not WebSocketConnectFilter:
            for _ in range(3):
                await ann.send("event" if base is WebSocketConsumerFilter else "bad")
        if expected is None:
            await ann.settle()
            for word in ("good", "better"):
                await ann.send(word)
                heard = [await ann.receive()]
                while heard[-1] != word:
                    heard.append(await ann.receive())
            await ann.close()
        else:
            assert await ann.closed() == expected
            with contextlib.suppress(asyncio.CancelledError):
                await ann.close()
        await bob.send("between us")
        heard = [await bob.receive()]
        while heard[-1] != "between us":
            heard.append(await bob.receive())
    assert ran == ["goodbye"] * ann.accepted
    assert "task" in caplog.text or "no running event loop" in caplog.text


async def test_closing_a_coroutine_is_not_an_error_of_its_filter(caplog):
    async def wait(web_socket_instance, data):
        await asyncio.sleep(10)

    running = Chain("message", [message_filter(wait)]).arun(None, b"")
    running.send(None)
    running.close()
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_ctrl_c_is_not_an_error_of_its_filter(kind):
    def interrupt(web_socket_instance, data):
        raise KeyboardInterrupt

    async def interrupt_in_async(web_socket_instance, data):
        raise KeyboardInterrupt

    chain = Chain("message", [message_filter(interrupt_in_async if kind == "async" else interrupt)])
    # Awaited without a task, which a KeyboardInterrupt would leave to end the loop.
    with pytest.raises(KeyboardInterrupt):
        chain.pipe(None, b"").send(None)


# Other code of a site


class Faulty:
    """A codec that raises what its text says."""

    error: ClassVar[type[BaseException]]

    def decode(self, frame, text):
        if frame == b"decode":
            raise self.error("on purpose")
        return frame.decode()

    def encode(self, message, meta):
        if message == "encode":
            raise self.error("on purpose")
        return message


BASE_ERRORS = [SystemExit, GeneratorExit, asyncio.CancelledError, OnPurpose]


@pytest.mark.parametrize("error", BASE_ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_codec_that_raises_costs_its_event(caplog, monkeypatch, error, kind):
    monkeypatch.setattr(Faulty, "error", error, raising=False)

    def pass_on(web_socket_instance, data):
        pass

    async def pass_on_in_async(web_socket_instance, data):
        pass

    filters = [
        message_filter(publish),
        message_filter(pass_on_in_async if kind == "async" else pass_on, WebSocketGroupFilter),
    ]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, codec=Faulty(), groups=[kind])
    async with connect(app) as ann:
        for word in ("decode", "encode", "good"):
            await ann.send(word)
        assert await ann.receive() == "good"
        assert await ann.received_nothing()
    assert f"the codec raised {error.__name__}" in caplog.text


@pytest.mark.parametrize("error", [*BASE_ERRORS, "cancel"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("what", ["get_groups", "may_join", "async may_join"])
async def test_groups_that_raise_refuse_their_connection(caplog, error, count, what):
    def fail(*args):
        if error == "cancel":
            asyncio.current_task().cancel()
        else:
            raise error("on purpose")

    async def fail_in_async(*args):
        fail()
        await asyncio.sleep(0)
        return True

    class Odd(FilteredWebSocketConsumer):
        filters = []
        may_join = None
        if what != "get_groups":
            may_join = staticmethod(fail if what == "may_join" else fail_in_async)

        async def get_groups(self):
            if what == "get_groups":
                await fail_in_async()
            return [f"{what} {number}" for number in range(count)]

    client = await connect(Odd.as_asgi())
    # A may_join that returns nothing allows nothing.
    allowed = (4500, 4403) if error == "cancel" else (4500,)
    assert await client.closed() in allowed
    with contextlib.suppress(asyncio.CancelledError):
        await client.close()
    # A cancellation may reach the task while its hub, which ends, is waited for.
    await until(lambda: len(asyncio.all_tasks()) == 1)


class FaultyAuthenticator:
    error: ClassVar[Any]

    async def authenticate(self, scope):
        if self.error == "cancel":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        raise self.error("on purpose")


@pytest.mark.parametrize("error", [*BASE_ERRORS, "cancel"])
async def test_an_authenticator_that_raises_refuses_its_connection(settings, monkeypatch, error):
    monkeypatch.setattr(FaultyAuthenticator, "error", error, raising=False)
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [f"{__name__}.FaultyAuthenticator"]}
    client = await connect([])
    assert await client.closed() == 4500
    with contextlib.suppress(asyncio.CancelledError):
        await client.close()


@pytest.mark.parametrize("handle", ["_run_item", "_arun_item"])
async def test_ctrl_c_in_a_codec_is_not_an_error_of_it(monkeypatch, handle):
    monkeypatch.setattr(Faulty, "error", KeyboardInterrupt, raising=False)
    async with connect(FilteredWebSocketConsumer.as_asgi(filters=[], codec=Faulty())):
        [view] = get_hub().views.values()
        item = new_item("encode", sender="", exclude=(), text=True)
        with pytest.raises(KeyboardInterrupt):
            if handle == "_run_item":
                view._delivery._run_item("g", item, None, None)
            else:
                view._delivery._arun_item("g", item, None, None).send(None)
