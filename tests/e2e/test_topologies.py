"""Every way to run Redis that docs/topologies.md names: its settings, with real servers."""

import asyncio
import contextlib
import itertools
import json
import sys

import pytest
import redis
from channels_redis.core import RedisChannelLayer
from redis.exceptions import MovedError

from filtered_websocket.layer.names import explain

from ..snippets import named
from .processes import Daphne, Process, Uvicorn, Valkey
from .sockets import connect
from .test_publishers import SETUP
from .test_serving import hears
from .topologies import Cluster, Sentinel, TLSRedis, closed_address

RULES = named("docs/architecture.md")
ONE = "redis.example.com:6379"
HOSTS = ("redis-1.example.com:6379", "redis-2.example.com:6379")
#: The layer is back when others have had time to subscribe: tests have no others.
SETTINGS = {"LAYER_SETTLE": 0.1, "LAYER_TIMEOUT": 30}


NAMES = itertools.count()
KINDS = Daphne, Uvicorn
#: Publishes to a group with a history and presence, and reads both.
READ = """
from filtered_websocket.history import history
from filtered_websocket.presence import presence_stats
publish('c', group)
page = history(group, limit=1, reverse=True)
print(page.publications[0].data.decode(), page.position.offset)
print(presence_stats(group).connections, flush=True)
"""


class Site:
    """Two processes as the topology ``name`` of the documentation, and others that publish."""

    def __init__(self, database, name, *names, **settings):
        self.envs = [
            {
                **database,
                "DJANGO_SETTINGS_MODULE": "tests.e2e.topology_settings",
                "TEST_TOPOLOGY": name,
                "TEST_NAMES": json.dumps(one),
                "TEST_SETTINGS": json.dumps({**SETTINGS, **settings}),
            }
            for one in (names[0], names[-1])
        ]
        self.servers = [kind(env=env) for kind, env in zip(KINDS, self.envs, strict=True)]

    async def publish(self, text, group="default", expected=""):
        """In a process without an event loop, which ends at once; it says ``expected``."""
        said = await self.run(
            "from filtered_websocket.exceptions import PublishError\n"
            f"try: publish({text!r}, {group!r})\n"
            "except PublishError as error: print(error, flush=True)"
        )
        assert expected in said and bool(expected) == bool(said)

    async def run(self, code):
        """What ``code`` prints in a process without an event loop, which ends at once."""
        command = [sys.executable, "-c", f"{SETUP}{code}\nos._exit(0)"]
        process = await asyncio.to_thread(Process, command, env=self.envs[-1])
        assert await asyncio.to_thread(process.wait) == 0, process.output
        return process.output

    async def carries(self):
        """Messages of clients, and of a process without any, reach the clients of both."""
        one, other = self.servers
        async with connect(one.ws()) as ann, connect(other.ws()) as bob:
            await ann.send("to the other process")
            assert await hears(bob, 1) == ["to the other process"]
            await bob.send("and back")
            assert await hears(ann, 1) == ["and back"]
            await self.publish("from a command")
            await ann.send("end")
            assert await hears(bob, 2) == ["from a command", "end"]
            assert await hears(ann, 1) == ["from a command"]

    async def keeps(self):
        """In a group with a history who comes later has all of it; and all know who is there."""
        one, other = self.servers
        group = f"kept:{next(NAMES)}"
        async with connect(one.ws()) as ann, connect(other.ws()) as bob:
            await ann.send(f"join {group}")
            assert await hears(ann, 1) == [f"joined {group}"]
            for text in ("a", "b"):
                await ann.send(f"publish {group} {text}")
            await ann.send(f"who {group}")
            assert await hears(ann, 1) == [f"1 in {group}"]
            said = await self.run(f"group = {group!r}{READ}")
            assert said.splitlines() == ["c 3", "1"]
            assert await hears(ann, 1) == ["c"]
            await bob.send(f"recover {group}")
            assert await hears(bob, 4) == ["a", "b", "c", "recovered True 3"]
            await bob.send(f"who {group}")
            await ann.send(f"publish {group} d")
            assert sorted(await hears(bob, 2)) == [f"2 in {group}", "d"]

    def lost(self):
        """What the processes say of outages."""
        lines = "\n".join(server.output for server in self.servers).splitlines()
        return [line for line in lines if "lost the channel layer" in line]

    def stop(self):
        for server in self.servers:
            server.stop()


@pytest.fixture
async def started(database):
    """``await started(Valkey)``: what is started, which ends with the test."""
    with contextlib.ExitStack() as stack:

        async def started(make, *arguments, **options):
            made = await asyncio.to_thread(make, *arguments, **options)
            stack.callback(made.stop)
            return made

        yield started
        await asyncio.to_thread(stack.close)


@pytest.fixture
def site(started, database):
    async def site(name, *names, **settings):
        return await started(Site, database, name, *names, **settings)

    return site


def at(server):
    return f"127.0.0.1:{server.port}"


def as_sentinels(*addresses):
    """What stands for the Sentinels of the documentation."""
    names = (f'("sentinel-{n}.example.com", 26379)' for n in (1, 2, 3))
    return dict(zip(names, map(repr, addresses), strict=True))


async def test_several_hosts_carry_messages(started, site, valkey):
    other = await started(Valkey)
    site = await site("several hosts", dict(zip(HOSTS, map(at, (valkey, other)), strict=True)))
    await site.carries()
    await site.keeps()
    assert site.lost() == []


async def test_through_sentinels_of_which_two_are_gone_messages_are_carried(started, site, valkey):
    sentinel = await started(Sentinel, valkey)
    addresses = closed_address(), closed_address(), sentinel.address
    site = await site("sentinel", as_sentinels(*addresses))
    await site.carries()
    await site.keeps()
    assert site.lost() == []


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.stop()


NODE = "node-1.example.com:6379"


async def test_a_cluster_carries_messages_through_one_node(site, cluster):
    site = await site("cluster", {NODE: at(cluster.nodes[0])})
    await site.carries()
    assert site.lost() == []


async def test_a_cluster_carries_messages_through_different_nodes(site, cluster):
    site = await site("cluster", *({NODE: at(node)} for node in cluster.nodes[:2]))
    await site.carries()
    await site.keeps()
    assert site.lost() == []


async def test_a_node_refuses_the_keys_of_the_core_layer_with_words_that_help(cluster):
    layer = RedisChannelLayer(hosts=[cluster.nodes[0].url])
    with pytest.raises(MovedError) as caught:
        await layer.group_send("group", {})
    await layer.close_pools()
    assert "use channels_redis.pubsub" in str(explain(caught.value, layer))


async def test_tls_carries_messages_and_refuses_another_certificate(started, site, tmp_path):
    server = await started(TLSRedis, tmp_path)
    names = {ONE: f"localhost:{server.port}", "/etc/ssl/redis-ca.pem": server.authority}
    site = await site("tls", names)
    await site.carries()
    await site.keeps()
    assert site.lost() == []
    # Without "ssl_ca_certs" its authority is a stranger's.
    names = names | {'"ssl_ca_certs"': '"client_name"', "/etc/ssl/redis-ca.pem": "x"}
    site.envs[-1] |= {"TEST_NAMES": json.dumps(names), "TEST_SETTINGS": '{"LAYER_TIMEOUT": 1}'}
    await site.publish("x", expected="certificate verify failed")


async def test_the_least_rights_carry_messages(started, site):
    valkey = await started(Valkey)
    give(valkey, RULES["acl"])
    site = await site("acl", {ONE: at(valkey)})
    await site.carries()
    # Presence and histories need some more, and no more than that.
    give(valkey, named("docs/presence.md")["acl"])
    give(valkey, named("docs/history.md")["acl"])
    await site.keeps()
    assert site.lost() == [] and refused(valkey) == set()


def refused(valkey):
    """What Redis has refused, but for redis-py's notes about itself."""
    with valkey.client() as client:
        return {entry["object"] for entry in client.acl_log()} - {"client|setinfo"}


def give(valkey, rules):
    with valkey.client() as client:
        for line in rules.splitlines():
            client.execute_command(*line.split())


NEEDED = "&asgi__group__fws.* &asgispecific.* +subscribe +unsubscribe +publish"


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ("-unsubscribe", "'unsubscribe' command"),
        ("-publish", "'publish' command"),
    ],
)
async def test_one_right_fewer_is_named(started, site, taken, found):
    valkey = await started(Valkey)
    give(valkey, f"{RULES['acl']}ACL SETUSER live {taken}")
    site = await site("acl", {ONE: at(valkey)})
    if taken == "-publish":
        await site.publish("x", expected=NEEDED)
    async with connect(site.servers[0].ws()) as ann:
        await ann.send("join other")
        await ann.send("leave other")
        await asyncio.to_thread(site.servers[0].said, f"lost the channel layer .*{found}")
        assert all(NEEDED in line for line in site.lost())
        give(valkey, RULES["acl"])
        await asyncio.to_thread(site.servers[0].said, r"channel layer \(Redis\) is back")
    await site.carries()


async def test_encrypted_messages_are_carried_and_redis_sees_none(site, valkey):
    site = await site("encryption", {ONE: at(valkey)})
    with redis.Redis.from_url(valkey.url) as client, client.pubsub() as spy:
        spy.psubscribe("*")
        await site.carries()
        seen = []
        while message := spy.get_message(timeout=0):
            seen.append(message["data"])
    assert len(seen) >= 5 and not any(b"command" in data for data in seen[1:])
    await site.keeps()
    assert site.lost() == []


async def test_the_core_layer_carries_messages(site, valkey):
    site = await site("core", {ONE: at(valkey)})
    await site.carries()
    await site.keeps()
    assert site.lost() == []
