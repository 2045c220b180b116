"""A filter that raises, in each chain, with each setting: what is lost, and by whom."""

import asyncio
import logging

import pytest
from channels.exceptions import StopConsumer

from filtered_websocket import (
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter

#: Chain base -> what becomes of the connection under "drop" and under "close".
TABLE = {
    WebSocketConnectFilter: (4500, 4500),
    WebSocketDataFilter: (None, 4500),
    WebSocketMessageFilter: (None, 4500),
    WebSocketGroupFilter: (None, None),
    WebSocketConsumerFilter: (None, None),
    WebSocketDisconnectFilter: (None, None),
}
ERRORS = [KeyError("on purpose"), StopConsumer(), asyncio.CancelledError(), RecursionError()]


def publish(web_socket_instance, data):
    if data == b"event":
        web_socket_instance.queue.put("event")
    else:
        web_socket_instance.publish(data, to_self=True)


def pipeline(base, error, ran, is_async):
    """The filter that raises on demand, one of its chain before it, and the good ones."""

    def fail(web_socket_instance, data):
        if base is WebSocketConnectFilter or data in (b"bad", "event", None):
            ran.append(data)
            raise error

    async def fail_in_async(web_socket_instance, data):
        fail(web_socket_instance, data)

    def note(web_socket_instance):
        ran.append("goodbye")

    return [
        message_filter(fail_in_async if is_async else fail, base),
        message_filter(publish),
        message_filter(note, WebSocketDisconnectFilter),
    ]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("base", TABLE, ids=lambda base: base.__name__)
@pytest.mark.parametrize("policy", ["drop", "close"])
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
async def test_an_error_costs_what_the_table_says(settings, caplog, base, policy, error, is_async):
    settings.FILTERED_WEBSOCKET = {"ON_ERROR": policy}
    expected = TABLE[base][policy == "close"]
    ran = []
    ann = await connect(
        FilteredWebSocketConsumer.as_asgi(
            filters=pipeline(base, error, ran, is_async), groups=["g"]
        )
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
