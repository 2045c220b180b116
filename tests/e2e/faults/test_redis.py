"""Redis is killed, stopped, emptied, cut off and slowed down under a running load."""

import asyncio
import signal
import urllib.error
import urllib.request

import msgpack

from .load import STOP

BAD_BYTES = [
    b"",
    b"garbage",
    b"\xc1",
    b"\x91" * 100_000,
    msgpack.packb({"type": "websocket.disconnect", "code": 1000}),
    msgpack.packb({"v": 2, "o": "other", "g": "g", "s": 0, "m": []}),
    msgpack.packb({"v": 1, "o": "other", "g": "g", "s": 0, "m": [[1, "t", "", b"\xff", {}]]}),
]


async def test_a_restart_at_once_is_noticed_and_what_it_lost_is_told(site):
    async def restart(load):
        await asyncio.to_thread(site.kill)
        await asyncio.to_thread(site.revive)

    await site.survives("Valkey restarted at once", restart)


async def test_a_stop_loses_and_repeats_nothing_and_readiness_says_so(site):
    async def stop(load):
        site.valkey.signal(signal.SIGSTOP)
        await load.talk(STOP)
        await load.told("layer_lost")
        await load.answers()
        assert await asyncio.to_thread(readiness, site.servers[0]) == 503
        site.valkey.signal(signal.SIGCONT)

    account = await site.survives("Valkey stopped (SIGSTOP)", stop)
    assert account.lost == 0 and account.count("publish_failed") == [0, 0]
    assert account.kept.failed == account.kept.told == 0


def readiness(server):
    try:
        with urllib.request.urlopen(server.http("/health/ready")) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_subscribers_that_are_cut_are_told_of_it(site):
    async def cut(load):
        assert await asyncio.to_thread(site.do, "CLIENT", "KILL", "TYPE", "pubsub") == 2

    account = await site.survives("CLIENT KILL TYPE pubsub", cut)
    # Who reads a group with a history is none the wiser.
    assert account.kept.failed == account.kept.told == 0


async def test_publishers_that_are_cut_lose_nothing(site):
    async def cut(load):
        for _ in range(3):
            await asyncio.to_thread(site.do, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await load.talk(0.2)

    account = await site.survives("CLIENT KILL TYPE normal", cut, outage=False)
    assert account.lost == 0 and account.count("publish_failed") == [0, 0]
    assert account.kept.failed == account.kept.told == 0


async def test_a_replica_and_a_full_redis_carry_messages_and_bad_bytes_hurt_nobody(site):
    async def demote(load):
        # A history cannot be written to a replica: that is an outage of its own.
        await load.kept.hush()
        await asyncio.to_thread(site.do, "REPLICAOF", "127.0.0.1", "1")
        await load.talk(0.5)
        await asyncio.to_thread(site.do, "REPLICAOF", "NO", "ONE")
        load.kept.go_on()
        await asyncio.to_thread(site.do, "CONFIG", "SET", "maxmemory", "1")
        await load.talk(0.5)
        await asyncio.to_thread(site.do, "CONFIG", "SET", "maxmemory", "0")
        for channel in await asyncio.to_thread(site.do, "PUBSUB", "CHANNELS"):
            for bad in BAD_BYTES:
                await asyncio.to_thread(site.do, "PUBLISH", channel, bad)

    account = await site.survives("REPLICAOF, maxmemory 1, bad bytes", demote, outage=False)
    assert account.lost == 0 and account.count("layer_lost") == [0, 0]


async def test_a_redis_that_is_busy_and_emptied_loses_nothing(site):
    async def be_busy(load):
        await asyncio.to_thread(site.do, "DEBUG", "SLEEP", "1")
        await asyncio.to_thread(site.do, "FLUSHALL")

    account = await site.survives("DEBUG SLEEP 1, FLUSHALL", be_busy, outage=False)
    assert account.lost == 0
