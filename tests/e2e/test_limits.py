"""One client, or too many, cannot exhaust real servers."""

import asyncio
import contextlib
import json
import socket
import struct

import pytest
from websockets.exceptions import ConnectionClosed

from ..transports.test_inbox import frame
from ..waiting import look_again, until
from .sockets import connect
from .test_lanes import SERVERS, daphne, flood, raw, running
from .test_serving import hears

MIB = 1024 * 1024


def with_settings(env, **chosen):
    return {**env, "TEST_SETTINGS": json.dumps(chosen)}


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_slow_reader_misses_the_newest_where_the_site_says_so(database, kind):
    start, options = SERVERS[kind]
    env = with_settings(database, SLOW_READER="drop_newest")
    async with (
        running(start, env, *options) as server,
        raw(server.port) as slow,
        connect(server.ws()) as ann,
        connect(server.ws()) as bob,
    ):
        await flood(ann, bob, 10)
        before = server.memory
        await flood(ann, bob, 150)
        assert server.memory - before < 8 * MIB
        await asyncio.to_thread(server.said, "dropped messages to clients that read too slowly")

        def read(last):
            found = []
            while not found or found[-1][1] != last:
                found.append(slow.frame())
            return [int(payload[:8]) for opcode, payload in found[:-1] if opcode == 1]

        reading = asyncio.ensure_future(asyncio.to_thread(read, b"end"))
        # Until it has read enough for this to fit.
        while not reading.done():
            await ann.send("end")
            await hears(bob, 1)
            await look_again(reading)
        numbers = await reading
        assert numbers[:10] == list(range(10)) and len(numbers) < 160
        assert numbers[10:] == sorted(numbers[10:])


async def test_a_full_process_says_so_and_has_room_again(database):
    env = with_settings(database, MAX_CONNECTIONS=2, MAX_CONNECTIONS_PER_ADDRESS=2)
    async with running(daphne, env) as server:
        async with connect(server.ws()) as ann, connect(server.ws()) as bob:
            async with connect(server.ws()) as one_too_many:
                with pytest.raises(ConnectionClosed) as caught:
                    await one_too_many.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (
                4100,
                "this server is full",
            )
            await ann.send("heard")
            assert await hears(bob, 1) == ["heard"]
        await asyncio.to_thread(server.said, "GOODBYE")
        async with connect(server.ws()) as ann:
            pong = await ann.ping()
            await pong


def send_until_it_stalls(client, data, most):
    """How many bytes went before the other side took no more for a second."""
    client.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sent += client.send(data)
    client.settimeout(None)
    return sent


@pytest.mark.parametrize("size", [1, 65_536, 200_000])
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_flood_waits_for_a_filter_that_is_slow(database, kind, size):
    """Without a bound daphne took it all: 60 MiB of memory for 5 MB of one-byte frames."""
    start, options = SERVERS[kind]
    if kind == "uvicorn":
        options = (*options, "--timeout-graceful-shutdown", "1")
    # At its end the server would wait for the filter.
    env = with_settings(database, DRAIN_DEADLINE=0.1)
    async with (
        running(start, env, *options) as server,
        raw(server.port) as flooding,
        connect(server.ws()) as ann,
        connect(server.ws()) as bob,
    ):
        await ann.send("heard")
        assert await hears(bob, 1) == ["heard"]
        flooding.socket.sendall(frame(b"hang"))
        await asyncio.to_thread(server.said, "HANGING")
        before = server.memory
        data = frame(b"x" * size) * max(1, 65_536 // size)
        sent = await asyncio.to_thread(send_until_it_stalls, flooding.socket, data, 64 * MIB)
        assert sent < 32 * MIB
        assert server.memory - before < 16 * MIB
        await ann.send("still heard")
        assert await hears(bob, 1) == ["still heard"]


@pytest.mark.parametrize("how", ["leaves", "is reset"])
async def test_that_a_flood_has_ended_is_noticed_behind_what_is_unread(database, how):
    async with running(daphne, database, "--application-close-timeout", "1") as server:
        async with raw(server.port) as flooding:
            flooding.socket.sendall(frame(b"hang"))
            await asyncio.to_thread(server.said, "HANGING")
            data = frame(b"x" * 200_000)
            sent = await asyncio.to_thread(send_until_it_stalls, flooding.socket, data, 64 * MIB)
            assert sent < 32 * MIB
            if how == "is reset":
                at_once = struct.pack("ii", 1, 0)
                flooding.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        # daphne ends what goes on too long after its client has gone; the filter goes with it.
        await asyncio.to_thread(server.said, "LET GO")
        await asyncio.to_thread(server.said, "GOODBYE")


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize(
    ("word", "begun", "told"),
    [
        ("hang", "HANGING", "LET GO"),
        ("block", "BLOCKING in", "still runs tests.e2e.site_filters.Block.filter"),
    ],
)
async def test_a_filter_that_never_returns_keeps_no_connection_once_its_client_has_left(
    database, kind, word, begun, told
):
    start, options = SERVERS[kind]
    limits = {"MAX_CONNECTIONS_PER_ADDRESS": 2, "FILTER_GRACE": 1, "DRAIN_DEADLINE": 0.1}
    async with running(start, with_settings(database, **limits), *options) as server:
        async with connect(server.ws()) as ann, connect(server.ws()) as bob:
            await ann.send(word)
            await ann.send("behind it")
            await bob.send(word)
            await until(lambda: server.output.count(begun) == 2)
            ann.transport.abort()
        await until(lambda: server.output.count(told) == server.output.count("GOODBYE") == 2)
        async with connect(server.ws()) as cy, connect(server.ws()) as dan:
            await cy.send("release")
            assert await hears(dan, 1) == ["release"]
            if word == "block":
                await until(lambda: server.output.count("has returned from") == 2)
        assert "took too long to shut down" not in server.output
