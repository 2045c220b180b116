"""A Redis user with the least rights that the documentation names, and one with fewer."""

import asyncio
import os
import subprocess
import sys

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from ..snippets import named
from ..waiting import limited, until
from .processes import ROOT, Daphne, Valkey
from .sockets import connect
from .test_serving import hears
from .visitors import Case

RULES = named("docs/architecture.md")
SITE = "tests.e2e.site_settings"


class Site:
    """Two processes on a Valkey where their user has the rights of ``rules``."""

    def __init__(self, database, settings, *rules, number=0, **env):
        self.valkey = Valkey()
        self.give(*rules)
        self.env = {
            **database,
            "DJANGO_SETTINGS_MODULE": settings,
            "REDIS_URL": f"redis://live:PASSWORD@127.0.0.1:{self.valkey.port}/{number}",
            **env,
        }
        self.servers = [Daphne(env=self.env) for _ in range(2)]

    def give(self, *rules):
        for line in "".join(rules).splitlines():
            self.do(*line.split())

    def do(self, *command):
        with self.valkey.client() as client:
            return client.execute_command(*command)

    def refused(self):
        """What Redis has refused to the user, but for redis-py's notes about itself."""
        return {entry["object"] for entry in self.do("ACL", "LOG")} - {"client|setinfo"}

    def stop(self):
        for server in self.servers:
            server.stop()
        self.valkey.stop()


@pytest.fixture
def start(database):
    sites = []

    def start(settings, *rules, **env):
        sites.append(Site(database, settings, *rules, **env))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


async def is_carried(site):
    one, other = site.servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        await ann.send("to the other process")
        assert await hears(bob, 1) == ["to the other process"]
        await bob.send("and back")
        assert await hears(ann, 1) == ["and back"]


async def test_with_the_least_rights_messages_and_probes_arrive(start):
    site = await asyncio.to_thread(start, SITE, RULES["acl"])
    await is_carried(site)
    one, other = site.servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        # The layer is back only when probes have returned, through a new connection.
        site.do("CLIENT", "KILL", "TYPE", "pubsub")
        for server in site.servers:
            await asyncio.to_thread(server.said, r"channel layer \(Redis\) is back")
        await ann.send("after it")
        assert await hears(bob, 1) == ["after it"]
    assert site.refused() == set()


async def test_with_the_least_rights_other_processes_publish(start):
    site = await asyncio.to_thread(start, SITE, RULES["acl"])
    async with connect(site.servers[0].ws()) as ann:
        done = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable,
                "-c",
                "from tests.e2e import publishing; publishing.publish_and_exit('x')",
            ],
            env={**os.environ, **site.env},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert await hears(ann, 1) == ["x"]
    assert site.refused() == set()


async def test_with_the_least_rights_connections_end_with_their_token(start):
    site = await asyncio.to_thread(
        start, "tests.e2e.auth_site", RULES["acl"], TEST_FWS='{"RECHECK": 3600}'
    )
    one, other = site.servers
    case = await Case.make(one)
    async with case.by_header(one) as ann, case.by_header(other) as bob:
        await case.visitor.do("revoke", token=case.token)
        for socket in (ann, bob):
            with pytest.raises(ConnectionClosed):
                async with limited():
                    await socket.recv()
            assert socket.close_code == 4401
    assert site.refused() == set()


async def test_with_the_least_rights_of_another_database(start):
    rules = RULES["acl"].replace("fws", "fws-1") + "ACL SETUSER live +pubsub|numsub\n"
    site = await asyncio.to_thread(start, SITE, rules, number=1)
    await is_carried(site)
    # Who listens under the name of database 0 it may not ask, and goes on.
    assert site.refused() <= {"asgi__group__fws.house"}


async def test_with_the_least_rights_of_the_core_layer(start):
    site = await asyncio.to_thread(start, SITE, RULES["acl core"], TEST_LAYER="core")
    await is_carried(site)
    assert site.refused() == set()


async def test_with_the_least_rights_storage_objects_work(start):
    rules = RULES["acl"], RULES["acl storage"]
    site = await asyncio.to_thread(start, "tests.e2e.rights_settings", *rules)
    one, other = site.servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        await ann.send("first")
        assert await hears(ann, 1) == ['["first"]'] and await hears(bob, 1) == ["first"]
        await bob.send("second")
        assert await hears(bob, 1) == ['["second"]'] and await hears(ann, 1) == ["second"]
        with site.valkey.client() as client:
            assert client.keys() == ["fws:messages"]
            for channel in ("global", "news.today"):
                await until(lambda channel=channel: client.publish(channel, "ready") >= 2)
                for socket in (ann, bob):
                    assert await hears(socket, 1) == ["ready"]
    assert site.refused() == set()


def lost(server):
    return [line for line in server.output.splitlines() if "lost the channel layer" in line]


#: Rules that lack something, and what the one line says of it.
LACKING = {
    "names of ours alone": ("~fws* &fws* +@all", "No permissions to access a channel"),
    "no subscribe": (
        "&asgi__group__fws.* &asgispecific.* -@all +publish",
        "'subscribe' command",
    ),
    "no publish": (
        "&asgi__group__fws.* &asgispecific.* -@all +subscribe +unsubscribe",
        "'publish' command",
    ),
}


async def is_told_and_granted(site, found):
    one, other = site.servers
    needed = "&asgi__group__fws.* &asgispecific.* +subscribe +unsubscribe +publish"
    async with connect(one.ws()), connect(other.ws()):
        for server in site.servers:
            await asyncio.to_thread(server.said, "lost the channel layer")
        # Two probes later it would have told it again, or channels_redis its tracebacks.
        await until(lambda: len(site.do("ACL", "LOG")) > 1)
        site.give(RULES["acl"])
        for server in site.servers:
            await asyncio.to_thread(server.said, r"channel layer \(Redis\) is back")
        for server in site.servers:
            [line] = lost(server)
            assert found in line and needed in line
            assert "Traceback" not in server.output
    await is_carried(site)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lacking(database):
    """A site for each of them. They are watched at once: most of it is waiting for probes."""
    first = "ACL SETUSER live on >PASSWORD resetkeys resetchannels\n"
    sites, watched = [], {}
    for name, (rules, found) in LACKING.items():
        given = f"{first}ACL SETUSER live {rules}\n"
        sites.append(await asyncio.to_thread(Site, database, SITE, given))
        watched[name] = asyncio.create_task(is_told_and_granted(sites[-1], found))
    yield watched
    for task in watched.values():
        task.cancel()
    await asyncio.gather(*watched.values(), return_exceptions=True)
    for site in sites:
        await asyncio.to_thread(site.stop)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("rules", LACKING)
async def test_a_missing_right_is_one_line_and_granting_it_needs_no_restart(lacking, rules):
    await lacking[rules]
