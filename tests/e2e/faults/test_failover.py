"""A replica takes the place of its master, as Sentinel decides, under a running load."""

import asyncio
import contextlib

import pytest

from ...waiting import wait_until
from ..processes import Valkey
from ..topologies import Sentinel
from .conftest import Site

#: A replica is given what its master has at once, not after five seconds.
AT_ONCE = ("--repl-diskless-sync-delay", "0")


class Pair:
    """A master, its replica, and the Sentinel that watches them."""

    def __init__(self, stack):
        def start(make, *arguments):
            made = make(*arguments)
            stack.callback(made.stop)
            return made

        self.master = start(Valkey, None, *AT_ONCE)
        address = "127.0.0.1", str(self.master.port)
        self.replica = start(Valkey, None, *AT_ONCE, "--replicaof", *address)
        assert wait_until(self.has_all)
        self.sentinel = start(Sentinel, self.master)
        assert wait_until(self.is_known)

    @property
    def host(self):
        """As settings name it."""
        return {"master_name": "mymaster", "sentinels": [self.sentinel.address]}

    def has_all(self):
        """Whether the replica has what the master has."""
        with self.replica.client() as client:
            return client.info("replication")["master_link_status"] == "up"

    def is_known(self):
        """Whether the Sentinel could make a master of the replica."""
        with self.sentinel.client() as client:
            return [one["flags"] for one in client.sentinel_slaves("mymaster")] == ["slave"]


@pytest.fixture
def pair():
    with contextlib.ExitStack() as stack:
        yield Pair(stack)


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
