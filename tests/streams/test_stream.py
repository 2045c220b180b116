"""A stream is a connection of the route of the Centrifuge protocol."""

import asyncio
import json
import threading
from collections import Counter

import pytest
from django.urls import path

from filtered_websocket import (
    Drop,
    WebSocketConnectFilter,
    WebSocketMessageFilter,
    routing,
)
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import stream
from filtered_websocket.streams.application import Streams
from filtered_websocket.streams.transport import StreamTransport
from filtered_websocket.transports import Response

from ..protocols.clients import app, speak
from ..waiting import limited
from .clients import Request, Streamed, lines

pytestmark = pytest.mark.django_db


@pytest.fixture
def site():
    """One route of the protocol, and nothing else."""
    return with_websockets(None, [path("connection/websocket", app())], protocols=True)


@pytest.mark.parametrize("sse", [False, True])
async def test_a_stream_and_a_socket_hear_each_other(site, sse):
    async with (
        Streamed(site, sse=sse) as ann,
        speak(application=site, path="/connection/websocket") as bob,
    ):
        assert ann.request.status == 200
        assert ann.request.headers[b"cache-control"] == b"no-store, no-transform"
        assert ann.request.headers[b"x-accel-buffering"] == b"no"
        assert await ann.ask(subscribe={"channel": "news"}) == {"subscribe": {}}
        await bob.ask(subscribe={"channel": "news"})
        await bob.say({"id": 9, "publish": {"channel": "news", "data": "a\nb\r"}})
        assert (await ann.hear())["push"]["pub"]["data"] == "a\nb\r"
        assert {(await bob.hear()).get("id", 0) for _ in range(2)} == {0, 9}
        await ann.say({"id": 3, "publish": {"channel": "news", "data": {"n": 1}}})
        assert (await bob.push())["pub"]["data"] == {"n": 1}
        assert ann.id in get_hub().connections
    assert not get_hub().connections


async def test_what_is_sent_to_its_connection_ends_with_its_code(site):
    async with Streamed(site) as ann:
        get_hub().connections[ann.id].close(4501, "no more")
        push = (await ann.hear())["push"]
        assert push == {"disconnect": {"code": 4501, "reason": "no more"}}
        assert await ann.hear() is None
        assert await ann.say({"id": 2, "ping": {}}) == 404
    assert not get_hub().connections


async def test_our_codes_are_said_as_the_protocol_says_them(site):
    async with Streamed(site, sse=True) as ann:
        await get_hub().drain.close_all(4200, "the server ends", 60)
        assert (await ann.hear())["push"]["disconnect"]["code"] == 3001


async def test_a_client_that_breaks_the_protocol_is_told(site):
    async with Streamed(site) as ann:
        assert await ann.say({"id": 2}) == 204
        assert (await ann.hear())["push"]["disconnect"]["code"] == 3501


async def test_a_refusal_by_a_filter_is_told_in_the_stream(site):
    class Refuse(WebSocketConnectFilter):
        @classmethod
        def filter(cls, web_socket_instance, handshake):
            assert handshake.path == "/connection/websocket"
            raise Drop

    site = with_websockets(None, [path("connection/websocket", app([Refuse]))], protocols=True)
    body = lines({"id": 1, "connect": {}})
    request = Request(site, "POST", "/connection/http_stream", body)
    assert await request.answer() == 200
    assert json.loads(request.body)["push"]["disconnect"]["code"] == 3507


async def test_streams_count_as_connections_and_their_commands_as_frames(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": 1}
    limit = {"NAME": "filtered_websocket.filters.rate_limit", "OPTIONS": {"rate": "1/h"}}
    site = with_websockets(None, [path("connection/websocket", app([limit]))], protocols=True)
    async with Streamed(site) as ann:
        body = lines({"id": 1, "connect": {}})
        request = Request(site, "POST", "/connection/http_stream", body)
        assert await request.answer() == 200
        assert json.loads(request.body)["push"]["disconnect"]["code"] == 4100
        assert "subscribe" in await ann.ask(subscribe={"channel": "news"})
        answer = await ann.ask(publish={"channel": "news", "data": 1})
        assert answer["error"]["code"] == 111


@pytest.mark.parametrize("way", ["403", "close"])
async def test_a_process_that_ends_says_when_to_come_back(site, way, settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": way}
    over = threading.Event()
    over.set()
    monkeypatch.setattr(routing, "ending", over)
    body = lines({"id": 1, "connect": {}})
    request = Request(site, "POST", "/connection/http_stream", body)
    status = await request.answer()
    if way == "403":
        assert (status, request.headers[b"retry-after"]) == (503, b"1")
    else:
        assert status == 200
        assert json.loads(request.body)["push"]["disconnect"]["code"] == 3001


async def test_a_middleware_may_close_it():
    async def closes(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000})

    request = Request(Streams(None, closes), "POST", "/connection/http_stream", b"{}")
    assert await request.answer() == 200
    assert json.loads(request.body)["push"]["disconnect"] == {"code": 4000, "reason": ""}


async def test_without_a_route_it_is_refused():
    async def refuses(scope, receive, send):
        assert scope["type"] == "websocket"
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.close"})

    streams = Streams(None, refuses)
    body = lines({"id": 1, "connect": {}})
    request = Request(streams, "POST", "/connection/http_stream", body)
    assert await request.answer() == 403


async def test_an_application_that_ends_ends_the_answer():
    async def nothing(scope, receive, send):
        """It neither accepts nor refuses."""

    async def accepts(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "a"})
        await send({"type": "websocket.send", "bytes": b"b"})

    for application, status, body in ((nothing, 500, b""), (accepts, 200, b"a\nb\n")):
        request = Request(Streams(None, application), "POST", "/connection/http_stream", b"{}")
        assert await request.answer() == status
        assert request.body == body


async def test_what_an_application_raises_is_the_servers_to_report():
    async def fails(scope, receive, send):
        await send({"type": "websocket.accept"})
        raise LookupError

    request = Request(Streams(None, fails), "POST", "/connection/http_stream", b"{}")
    with pytest.raises(LookupError):
        await request.answer()


async def test_a_server_whose_receive_fails_has_lost_the_client():
    async def waits(scope, receive, send):
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await send({"type": "websocket.send", "text": "nobody is there"})

    request = Request(Streams(None, waits), "POST", "/connection/http_stream", b"{}")
    await request.start()
    request._input.put_nowait({})
    async with limited():
        await request.task
    assert await request.part() == b""
    assert request._output.empty()


async def test_a_client_that_leaves_has_left(site):
    async with Streamed(site) as ann:
        assert get_hub().connections[ann.id].transport.disconnected is False
        transport = get_hub().connections[ann.id].transport
    assert transport.disconnected and not get_hub().connections
    assert await ann.say({"id": 2, "ping": {}}) == 404


# Slow readers and floods


async def test_who_reads_too_slowly_is_closed_and_told(site, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 10_000}
    async with Streamed(site) as ann:
        await ann.ask(subscribe={"channel": "news"})
        ann.request.room.clear()
        connection = get_hub().connections[ann.id]
        for _ in range(20):
            connection.push("x" * 1000)
        assert connection.closing and connection.transport.unsent < 10_000
        ann.request.room.set()
        last = None
        while (message := await ann.hear()) is not None:
            last = message
        assert last["push"]["disconnect"]["code"] == 3008


async def test_who_reads_nothing_is_cut_off(site, monkeypatch):
    monkeypatch.setattr(StreamTransport, "close_timeout", 0.01)
    monkeypatch.setattr(stream, "END_TIMEOUT", 0.01)
    cut = []

    class Cuts(Response):
        def abort(self):
            self.is_aborted = True
            cut.append(self)

    monkeypatch.setattr(stream, "find_response", lambda send: Cuts())
    async with Streamed(site) as ann:
        ann.request.room.clear()
        connection = get_hub().connections[ann.id]
        connection.push("x")
        connection.close(4101, "slow")
        async with limited():
            await ann.request.task
        assert len(cut) == 1 and not get_hub().connections
        ann.request.room.set()


async def test_a_flood_is_held_back_and_in_the_end_closed(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_INBOX": 2}
    gate = asyncio.Event()

    class Slow(WebSocketMessageFilter):
        @classmethod
        async def filter(cls, web_socket_instance, message):
            await gate.wait()

    site = with_websockets(None, [path("connection/websocket", app([Slow]))], protocols=True)
    async with Streamed(site) as ann:
        flood = [ann.emulation({"send": {"data": 1}}) for _ in range(60)]
        answers = [asyncio.ensure_future(one.answer()) for one in flood]
        async with limited():
            await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        # Those that had to wait are answered when there is room, or the stream has ended.
        statuses = Counter(await asyncio.gather(*answers))
        assert statuses[204] <= 40 and statuses[429] + statuses[404] >= 20 and statuses[429]
        assert (await ann.hear())["push"]["disconnect"]["code"] == 3013


async def test_who_sends_fast_waits_for_room(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_INBOX": 1}
    gate, begun = asyncio.Event(), asyncio.Event()

    class Slow(WebSocketMessageFilter):
        @classmethod
        async def filter(cls, web_socket_instance, message):
            begun.set()
            await gate.wait()

    site = with_websockets(None, [path("connection/websocket", app([Slow]))], protocols=True)
    async with Streamed(site) as ann:
        assert await ann.say({"send": {"data": 0}}) == 204
        await begun.wait()
        answers = [
            asyncio.ensure_future(ann.say({"send": {"data": number}})) for number in range(3)
        ]
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        held = [one for one in answers if not one.done()]
        assert held
        gate.set()
        assert set(await asyncio.gather(*answers)) == {204}
