"""What is left of a connection that has ended: connections.ending."""

import gc
import weakref

import pytest
from django.urls import path

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import sessions
from filtered_websocket.testing import connect

from ..protocols import clients as centrifuge
from ..pusher import clients as pusher
from ..streams.clients import Streamed
from ..waiting import until


@pytest.fixture(autouse=True)
def without_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def parts():
    """Of the only connection here: it, and what reads and serves it."""
    [connection] = get_hub().connections.values()
    [consumer] = {connection.transport._on_end.__self__}
    found = connection, consumer, consumer._session
    return [weakref.ref(one) for one in found if one is not None]


async def plain():
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["chat"])
    async with connect(app) as ann:
        await ann.send("hi")
        return parts()


async def by_centrifuge():
    async with centrifuge.speak() as ann:
        await ann.ask(subscribe={"channel": "news"})
        await ann.say({"id": 3, "publish": {"channel": "news", "data": 1}})
        assert (await ann.push())["channel"] == "news"
        return parts()


async def by_pusher():
    async with pusher.speak(rules=[group("news")]) as ann:
        await ann.say("pusher:subscribe", {"channel": "news"})
        await ann.hears("pusher_internal:subscription_succeeded", channel="news")
        return parts()


async def by_stream(closes=False):
    routes = [path("connection/websocket", centrifuge.app())]
    async with Streamed(with_websockets(None, routes, protocols=True)) as ann:
        await ann.ask(subscribe={"channel": "news"})
        stream = sessions.find(ann.connected["session"])
        found = [*parts(), weakref.ref(stream)]
        if closes:
            stream.connection.close(4000, "enough")
            while await ann.hear() is not None:
                pass
        return found


async def by_closed_stream():
    return await by_stream(closes=True)


@pytest.mark.repeats
@pytest.mark.parametrize(
    "come_and_go", [plain, by_centrifuge, by_pusher, by_stream, by_closed_stream]
)
async def test_it_is_freed_without_the_garbage_collector(settings, come_and_go):
    settings.FILTERED_WEBSOCKET = pusher.with_app()
    found = await come_and_go()
    await until(lambda: not [one for one in found if one() is not None])
