"""Clients vanish without a close, or do not answer."""

import asyncio
import sys

import pytest

from ...waiting import look_again, until, within
from ..processes import ROOT, Daphne, Process, free_port
from ..sockets import connect
from ..test_lanes import raw
from ..test_limits import frame
from .load import CLIENTS
from .proxy import Proxy

pytestmark = pytest.mark.promise
VANISH = max(10, CLIENTS // 5)
#: Our own server, which asks more often than every 20 seconds.
OWN = """
from filtered_websocket.server import daphne_protocol as protocol
protocol.PING_INTERVAL = protocol.PONG_TIMEOUT = 1
from filtered_websocket.server import main
main()
"""


def has_ended(server, code, times):
    return list(server.lines).count(f"END {code}") == times


async def test_clients_that_vanish_are_found_and_nobody_else(database):
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.faults.site_settings",
    }
    options = ("--ping-interval", "1", "--ping-timeout", "1")
    server = await asyncio.to_thread(Daphne, env=env, options=options)
    try:
        async with Proxy(server.port) as proxy, connect(server.ws()) as ann:
            there = f"ws://127.0.0.1:{proxy.port}/"
            opened = [connect(there) for _ in range(VANISH)]
            sockets = await asyncio.gather(*opened)
            # 1 s until they are asked, 1 s to answer, and daphne looks every 2 s.
            async with within(6):
                proxy.swallow()
                await until(lambda: has_ended(server, 1006, VANISH))
            await ann.send("?")
            assert await ann.recv() == "?"
            assert sum(line.startswith("END") for line in server.lines) == VANISH
            for socket in sockets:
                socket.transport.abort()
    finally:
        await asyncio.to_thread(server.stop)


class OwnServer(Process):
    def __init__(self):
        self.port = free_port()
        filters = ["-f", "tests.e2e.faults.filters"]
        super().__init__(
            [sys.executable, "-c", OWN, "-p", str(self.port), "--host", "127.0.0.1", *filters],
            env={"DJANGO_SETTINGS_MODULE": "", "PYTHONPATH": str(ROOT)},
        )
        self.said(" on ws://")

    def ws(self):
        return f"ws://127.0.0.1:{self.port}/"


async def test_a_client_that_writes_and_answers_no_ping_is_closed():
    server = await asyncio.to_thread(OwnServer)
    try:
        async with connect(server.ws()) as ann, raw(server.port) as mute:
            # 1 s until it is asked, 1 s to answer, and the server looks every 2 s.
            async with within(7):
                reading = asyncio.ensure_future(asyncio.to_thread(mute.frames))
                while not reading.done():
                    mute.socket.sendall(frame(b"?I live"))
                    await look_again(reading, 0.1)
            heard = await reading
            # It answers no close frame either.
            await until(lambda: has_ended(server, 1006, 1))
            await ann.send("?")
            assert await ann.recv() == "?"
    finally:
        await asyncio.to_thread(server.stop)
    opcode, payload = heard[-1]
    assert opcode == 8 and int.from_bytes(payload[:2]) == 4201
    # It was served meanwhile.
    assert (1, b"?I live") in heard
