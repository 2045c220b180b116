"""A replica takes the place of its master, as Sentinel decides, under a running load."""

import asyncio

import pytest

from ..topologies import Pair
from .conftest import Site


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.stop()


@pytest.fixture
def site(database, show, pair):
    site = Site(database, show, valkey=pair.master, hosts=[pair.host])
    yield site
    site.stop()


async def kill_it(site, pair):
    await asyncio.to_thread(site.kill)


async def ask_for_it(site, pair):
    """The old master lives, and becomes a replica."""
    with pair.sentinel.client() as client:
        await asyncio.to_thread(client.sentinel_failover, "mymaster")


@pytest.mark.parametrize("how", [kill_it, ask_for_it])
async def test_what_a_failover_loses_under_load_is_told_and_the_rest_is_in_order(site, pair, how):
    async def fail_over(load):
        await how(site, pair)
        site.valkey = pair.replica
        await load.told("layer_lost")

    account = await site.survives(f"Sentinel failover, {how.__name__}", fail_over)
    assert account.count("layer_lost") == account.count("layer_back")
    assert (await asyncio.to_thread(site.do, "ROLE"))[0] == "master"
