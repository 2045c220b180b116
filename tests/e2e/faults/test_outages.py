"""The way to Redis is slow or cut, or Redis is away for long, under a running load."""

import asyncio
import contextlib
import signal

import pytest

from ..processes import Valkey
from .conftest import Site
from .kept import TOGETHER
from .load import CLIENTS, STOP, TALKERS
from .proxy import Proxy

#: Seconds for which Redis is away at least, with a history that is brought up to date then.
AWAY = 5


@contextlib.asynccontextmanager
async def proxied(start, **options):
    """A site with a proxy before Redis, and the proxy."""
    valkey = await asyncio.to_thread(Valkey)
    async with Proxy(valkey.port) as proxy:
        hosts = [f"redis://127.0.0.1:{proxy.port}/0"]
        yield await asyncio.to_thread(start, valkey=valkey, hosts=hosts, **options), proxy


async def test_a_way_to_redis_that_is_slow_or_stalls_or_resets(start):
    async with proxied(start, processes=2) as (site, proxy):

        async def slow_down(load):
            proxy.delay = 0.2
            await load.talk(STOP)
            await load.answers()
            proxy.delay = 0

        account = await site.survives("each way to Redis takes 200 ms", slow_down, outage=False)
        assert account.lost == 0 and account.count("layer_lost") == [0, 0]

        async def stall(load):
            proxy.stall()
            await load.talk(max(STOP, AWAY))
            await load.told("layer_lost")
            proxy.go_on()

        account = await site.survives("the way to Redis stalls", stall)
        assert account.lost == 0 and account.count("publish_failed") == [0, 0]
        assert account.kept.failed == account.kept.told == 0

        async def reset(load):
            proxy.reset()

        account = await site.survives("connections to Redis are reset", reset)
        assert account.kept.failed == account.kept.told == 0


# What takes long, on sites of their own, side by side


@pytest.fixture
def start(database, show):
    """Starts a site."""
    sites = []

    def start(processes=1, **options):
        sites.append(Site(database, show, processes=processes, **options))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


async def death(start):
    """A process that only listens notices it, and keeps what it publishes then."""
    site = await asyncio.to_thread(start, processes=2)

    async def kill(load):
        await load.hush()
        await asyncio.to_thread(site.kill)
        await load.told("layer_lost")
        load.go_on()
        await load.answers()
        await load.talk(STOP)
        await asyncio.to_thread(site.revive)

    account = await site.survives("Valkey killed, nobody publishes; back empty", kill)
    assert account.lost == 0 and account.count("publish_failed") == [0, 0]
    assert account.count("layer_lost") == [1, 1]


async def silence(start):
    """Connections to Redis end without a reset."""
    async with proxied(start) as (site, proxy):

        async def cut(load):
            proxy.swallow()
            await load.told("layer_back")
            # What Redis took for subscribers until then is no leak of ours.
            proxy.bury()

        await site.survives("connections to Redis end in silence", cut)


async def impatience(start):
    """Messages grow too old, and fail while Redis is away."""
    site = await asyncio.to_thread(start, PUBLISH_MAX_AGE=1)

    async def stop(load):
        site.valkey.signal(signal.SIGSTOP)
        await load.told("publish_failed")
        assert not load.times("layer_back", site.servers[0])
        site.valkey.signal(signal.SIGCONT)

    account = await site.survives("PUBLISH_MAX_AGE 1 s, Valkey stopped longer", stop)
    assert 0 < account.lost <= account.failed(site.servers[0])


async def crowd(start):
    """A client that publishes more than may be kept has to wait."""
    # No connection is read while more than half is in use, but each may have one more message
    # handled by then: one of every talker, and all that is published together to a history.
    site = await asyncio.to_thread(start, PUBLISH_QUEUE=2 * (TALKERS + TOGETHER))

    async def stop(load):
        site.valkey.signal(signal.SIGSTOP)
        await load.talk(STOP)
        await load.told("layer_lost")
        site.valkey.signal(signal.SIGCONT)

    account = await site.survives("PUBLISH_QUEUE for few, Valkey stopped", stop)
    assert account.lost == 0 and account.count("publish_failed") == [0]
    assert account.kept.failed == account.kept.told == 0


async def two_hosts(start):
    """A dead one of two is lost once, and back once."""
    first, second = await asyncio.to_thread(Valkey), await asyncio.to_thread(Valkey)
    hosts = [first.url, second.url]
    site = await asyncio.to_thread(start, valkey=first, hosts=hosts)

    async def kill(load):
        nonlocal second
        await asyncio.to_thread(second.kill)
        await load.told("layer_lost")
        await load.talk(STOP)
        second = await asyncio.to_thread(Valkey, second.port)

    try:
        account = await site.survives("one of two Valkeys killed", kill)
    finally:
        await asyncio.to_thread(second.stop)
    assert account.count("layer_lost") == account.count("layer_back") == [1]


async def test_a_redis_that_is_dead_or_silent_and_bounds_of_what_is_kept(start):
    together = asyncio.Semaphore(5 if CLIENTS <= 50 else 1)

    async def tell(story):
        async with together:
            await story(start)

    async with asyncio.TaskGroup() as stories:
        for story in (death, silence, impatience, crowd, two_hosts):
            stories.create_task(tell(story))
