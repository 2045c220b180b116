"""Servers are killed or terminated under load."""

import asyncio
import signal

from ...waiting import until
from ..processes import Daphne, Valkey
from ..sockets import connect


async def test_servers_that_are_killed_or_end_take_nobody_with_them(site):
    """Of the messages that they accepted, the first ones were sent, without a gap."""
    starts = [asyncio.to_thread(site.start_server) for _ in range(2)]
    killed, ended = await asyncio.gather(*starts)
    servers, site.servers = site.servers, [*site.servers, killed, ended]
    told = []

    async def end(load):
        of = {one: [each for each in load.clients if each.server is one] for one in (killed, ended)}
        killed.signal(signal.SIGKILL)
        ended.signal(signal.SIGTERM)
        told.append({await client.ended() for client in of[killed]})
        told.append({await client.ended() for client in of[ended]})
        told.append(await asyncio.to_thread(ended.wait))
        told.append(load.said(ended).count("END 4200") == len(of[ended]))

    gone = [killed, ended]
    try:
        account = await site.survives("SIGKILL, SIGTERM", end, outage=False, gone=gone)
    finally:
        site.servers = servers
        await asyncio.to_thread(killed.wait)
    assert told == [{1006}, {4200}, 0, True]
    assert account.count("layer_lost") == [0] * 4


async def test_a_killed_process_leaves_nothing_on_the_core_layer_for_ever(database):
    valkey = await asyncio.to_thread(Valkey)
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings",
        "REDIS_URL": valkey.url,
        "TEST_LAYER": "core",
    }
    server = await asyncio.to_thread(Daphne, env=env)
    try:
        async with connect(server.ws()) as ann, connect(server.ws()) as bob:
            await ann.send("heard")
            assert await bob.recv() == "heard"
            with valkey.client() as client:
                # What channels_redis has taken and not yet confirmed, it keeps without an end.
                await until(lambda: not client.keys("*$inflight"))
            server.signal(signal.SIGKILL)
            await asyncio.to_thread(server.wait)
        with valkey.client() as client:
            lives = {key: client.ttl(key) for key in client.keys("*")}
    finally:
        await asyncio.to_thread(valkey.stop)
    assert lives and all(0 <= life <= 86_400 for life in lives.values()), lives
