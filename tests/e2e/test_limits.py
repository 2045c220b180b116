"""What one client, or too many, can do to real servers: little."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

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
            await asyncio.wait([reading], timeout=0.05)
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
