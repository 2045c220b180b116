"""The end of real servers: every client is told, every disconnect chain runs."""

import asyncio
import signal
import socket
from functools import partial
from http.client import HTTPConnection

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from ..waiting import within
from .sockets import connect
from .test_lanes import APPLICATION, SERVERS, Site, daphne, raw, running
from .test_limits import frame, with_settings
from .test_serving import hears

pytestmark = pytest.mark.promise
CLIENTS = 60


async def end_of(socket):
    """Close code and reason."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await socket.recv()
    closed = caught.value.rcvd
    return closed.code, closed.reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", SERVERS)
async def test_every_client_is_told_over_the_window_and_every_chain_runs(database, kind, number):
    start, options = SERVERS[kind]
    async with running(start, with_settings(database, DRAIN_WINDOW=1), *options) as server:
        sockets = [await connect(server.ws()).__aenter__() for _ in range(CLIENTS)]
        # One after the other, not all at once.
        async with within(8, least=0.9):
            server.signal(number)
            ends = await asyncio.gather(*map(end_of, sockets))
            status = await asyncio.to_thread(server.wait)
    assert set(ends) == {(4200, "the server ends")}
    assert server.output.count("GOODBYE 4200") == CLIENTS
    # uvicorn dies of the signal that it was sent.
    by_signal = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0}[number]
    assert status == (0 if kind == "daphne" else by_signal)
    assert "Traceback" not in server.output


def granian(env):
    options = ("--interface", "asgi", "--loop", "asyncio", "--host", "127.0.0.1")
    return Site(env, "granian", *options, "--port", "{port}", APPLICATION)


async def test_granian_hears_of_the_end_when_every_client_has_been_told(database):
    pytest.importorskip("granian")
    async with (
        running(granian, with_settings(database, DRAIN_WINDOW=0)) as server,
        connect(server.ws()) as ann,
        connect(server.ws()) as bob,
    ):
        server.signal(signal.SIGTERM)
        for socket in (ann, bob):
            assert await end_of(socket) == (4200, "the server ends")
        assert await asyncio.to_thread(server.wait) == 0
        assert server.output.count("GOODBYE 4200") == 2


async def test_a_socket_that_is_young_is_told_too(database):
    """daphne's own shutdown fails within a second of a handshake (KeyError)."""
    async with running(daphne, database) as server, connect(server.ws()) as ann:
        server.signal(signal.SIGTERM)
        assert (await end_of(ann))[0] == 4200
        assert await asyncio.to_thread(server.wait) == 0
        assert "GOODBYE 4200" in server.output


def health(link, what):
    """As ``link``, a connection that is kept open, is answered."""
    link.request("GET", f"/health/{what}")
    answer = link.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_meanwhile_it_is_not_ready_and_takes_nobody(database, kind):
    start, options = SERVERS[kind]
    env = with_settings(database, DRAIN_WINDOW=12, DRAIN_DEADLINE=60)
    async with running(start, env, *options) as server:
        link = HTTPConnection("127.0.0.1", server.port)
        ready = await asyncio.to_thread(health, link, "ready")
        assert ready == (200, b'{"status": "idle"}')
        async with connect(server.ws()) as ann, connect(server.ws()) as bob:
            await ann.send("heard")
            assert await hears(bob, 1) == ["heard"]
            assert await asyncio.to_thread(health, link, "ready") == (200, b'{"status": "ready"}')
            early = socket.create_connection(("127.0.0.1", server.port))
            # Answered after the connection before it was accepted.
            link.close()
            assert (await asyncio.to_thread(health, link, "live"))[0] == 200
            server.signal(signal.SIGTERM)
            assert (await end_of(ann))[0] == 4200
            # Bob's turn is in six seconds.
            draining = await asyncio.to_thread(health, link, "ready")
            assert draining == (503, b'{"status": "draining"}')
            assert (await asyncio.to_thread(health, link, "live"))[0] == 200
            link.close()
            async with connect(server.ws(), sock=early) as late:
                assert await end_of(late) == (4200, "the server ends")
            with pytest.raises(ConnectionRefusedError):
                async with connect(server.ws()):
                    pass
            assert (await end_of(bob))[0] == 4200
            await asyncio.to_thread(server.wait)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn", "uvicorn-asyncio"])
async def test_meanwhile_the_next_server_opens_the_port_and_serves_who_comes(database, kind):
    start, options = SERVERS[kind]
    env = with_settings(database, DRAIN_WINDOW=600, DRAIN_DEADLINE=900)
    async with (
        running(start, env, *options) as first,
        connect(first.ws()) as ann,
        connect(first.ws()) as bob,
    ):
        first.signal(signal.SIGTERM)
        assert (await end_of(ann))[0] == 4200
        async with (
            running(partial(start, port=first.port), database, *options) as second,
            connect(first.ws()) as again,
            connect(first.ws()) as new,
        ):
            await again.send("hello")
            assert await hears(new, 1) == ["hello"]
            # Bob's turn would be in five minutes.
            assert first.is_running and bob.state is State.OPEN
            second.signal(signal.SIGTERM)
            assert (await end_of(new))[0] == 4200
        first.signal(signal.SIGTERM)
        await asyncio.to_thread(first.wait)


async def test_a_second_signal_passes_at_once(database):
    env = with_settings(database, DRAIN_WINDOW=600, DRAIN_DEADLINE=900)
    async with (
        running(daphne, env) as server,
        connect(server.ws()) as ann,
        connect(server.ws()) as bob,
    ):
        server.signal(signal.SIGTERM)
        assert (await end_of(ann))[0] == 4200
        server.signal(signal.SIGTERM)
        # Bob's turn would be in five minutes.
        assert await asyncio.to_thread(server.wait) == 0
        with pytest.raises(ConnectionClosed):
            await bob.recv()


async def test_a_filter_that_hangs_does_not_keep_it_past_the_deadline(database):
    env = with_settings(database, DRAIN_DEADLINE=1)
    async with running(daphne, env) as server, raw(server.port) as hanging:
        hanging.socket.sendall(frame(b"hang"))
        await asyncio.to_thread(server.said, "HANGING")
        async with within(5, least=1):
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
        assert "1 connections had not ended within 1 s" in server.output
        assert "GOODBYE 4200" in server.output


async def test_with_nobody_connected_it_ends_at_once(database):
    for start, options in (SERVERS["daphne"], SERVERS["uvicorn"]):
        async with running(start, database, *options) as server:
            async with connect(server.ws()):
                pass
            await asyncio.to_thread(server.said, "GOODBYE")
            async with within(3):
                server.signal(signal.SIGTERM)
                await asyncio.to_thread(server.wait)
