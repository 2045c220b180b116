"""Frames leave at once where the server takes them, and in order in any case."""

import pytest
from django.urls import path

from filtered_websocket.codecs.frames import Bundle, Frame
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import stream
from filtered_websocket.streams.transport import LONG
from filtered_websocket.transports import Response, write_all

from ..protocols.clients import app, speak
from ..waiting import limited
from .clients import Streamed

pytestmark = pytest.mark.django_db
BUNDLE = Bundle([(b"1", True), (b"2", True)])


class Server(Response):
    takes_now = True


@pytest.fixture
def server(monkeypatch):
    """The server of all streams."""
    one = Server()
    monkeypatch.setattr(stream, "find_response", lambda send: one)
    return one


@pytest.fixture
def site(server):
    return with_websockets(None, [path("connection/websocket", app())], protocols=True)


def transport_of(client):
    return get_hub().connections[client.id].transport


async def test_what_is_sent_together_is_one_part_without_a_task(site):
    async with Streamed(site) as lines, Streamed(site, sse=True) as events:
        transports = [transport_of(lines), transport_of(events)]
        write_all(transports, BUNDLE, frozenset())
        assert not any(one.writing for one in transports)
        assert await lines.request.part() == b"1\n2\n"
        assert await events.request.part() == b"data: 1\n\ndata: 2\n\n"
        write_all(transports, Frame(b"3", True), {transports[0]})
        assert await events.request.part() == b"data: 3\n\n"
        assert lines.request._output.empty()


async def test_beside_sockets_each_gets_its_own(site):
    async with (
        Streamed(site) as ann,
        speak(application=site, path="/connection/websocket") as bob,
    ):
        write_all([transport_of(ann), transport_of(bob)], Frame(b"{}", True), frozenset())
        assert await ann.hear() == await bob.hear() == {}


async def test_where_there_is_no_room_frames_keep_their_order(site, server):
    async with Streamed(site) as ann:
        transport = transport_of(ann)
        server.takes_now = False
        transport.write(Frame(b"1", True))
        assert transport.writing
        server.takes_now = True
        transport.write(Frame(b"2", True))
        assert transport.unsent == 2
        assert [await ann.hear() for _ in range(2)] == [1, 2]
        transport.write(Frame(b"3", True))
        assert not transport.writing and await ann.hear() == 3


async def test_a_long_one_is_counted(site):
    async with Streamed(site) as ann:
        transport = transport_of(ann)
        transport.write(Frame(b"1" * (LONG + 1), True))
        assert transport.unsent == LONG + 1
        await ann.request.part()


@pytest.mark.parametrize("kind", ["raises", "waits"])
async def test_a_server_that_does_not_take_it_has_lost_the_client(site, kind, caplog, monkeypatch):
    monkeypatch.setattr(stream, "END_TIMEOUT", 0.01)
    caplog.set_level("INFO")
    async with Streamed(site) as ann:
        transport = transport_of(ann)

        async def send(event):
            if kind == "waits":
                ann.request.room.clear()
                await ann.request.room.wait()
            raise LookupError

        transport._stream._http = send
        transport.write(Frame(b"1", True))
        assert transport.closed == (1006, "")
        ann.request.room.set()
        async with limited():
            await ann.request.task
    expected = "LookupError" if kind == "raises" else "waits where it should not"
    assert expected in caplog.text


async def test_two_of_a_kind_are_written_to_once(site):
    async with Streamed(site) as ann, Streamed(site) as bob:
        write_all([transport_of(ann), transport_of(bob)], BUNDLE, frozenset())
        parts = [await one.request.part() for one in (ann, bob)]
        assert parts[0] is parts[1]


async def test_after_the_end_nothing_is_sent(site):
    async with Streamed(site) as ann:
        one = transport_of(ann)._stream
        one.abort()
        one.write_now(b"x")
        assert ann.request._output.empty()
