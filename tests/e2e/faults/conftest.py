"""A Valkey that tests may break, and two processes that use it."""

import asyncio
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ...waiting import until
from ..processes import Daphne, Uvicorn, Valkey
from .load import CLIENTS, Load

DEBUG = ("--enable-debug-command", "local")
APPLICATION = "tests.e2e.faults.site_asgi:application"
#: Every second process is of uvicorn. Neither writes a line for each request.
KINDS = Daphne, Uvicorn
QUIET = {Daphne: ("--access-log", "/dev/null"), Uvicorn: ("--no-access-log",)}
#: How much a process may grow while 50 clients of its site come and go, bytes.
GROWTH = (8 << 20) + CLIENTS * 65_536


class Site:
    """Processes on one Valkey, or on the ``hosts`` that stand for it."""

    def __init__(self, database, show, *, processes=2, valkey=None, hosts=None, **own):
        self.valkey = valkey or Valkey(None, *DEBUG)
        self.show = show
        self._env = {
            **database,
            "DJANGO_SETTINGS_MODULE": "tests.e2e.faults.site_settings",
            "TEST_HOSTS": json.dumps(hosts or [self.valkey.url]),
            "TEST_SETTINGS": json.dumps(own),
        }
        with ThreadPoolExecutor() as pool:
            kinds = itertools.islice(itertools.cycle(KINDS), processes)
            self.servers = list(pool.map(self.start_server, kinds))

    def start_server(self, kind=Daphne):
        return kind(APPLICATION, env=self._env, options=QUIET[kind])

    def kill(self):
        self.valkey.kill()

    def revive(self):
        """An empty Valkey in the place of the old one."""
        self.valkey = Valkey(self.valkey.port, *DEBUG)

    def do(self, *command):
        with self.valkey.client() as client:
            return client.execute_command(*command)

    def left_in_redis(self):
        """Subscriptions, and keys that would stay for ever."""
        with self.valkey.client() as client:
            lasting = [key for key in client.keys("*") if client.ttl(key) < 0]
            # A Sentinel has one of its own.
            return client.pubsub_channels("asgi*"), lasting

    async def survives(self, name, fault, *, outage=True, gone=(), closed=False):
        """
        Do ``fault`` to clients that talk, and account for every message: no fault may repeat,
        reorder, leak, hang or close anybody, or lose what nobody is told of.
        """
        began = time.monotonic()
        async with Load(self.servers, name) as load:
            await load.talk()
            await fault(load)
            await load.talk()
            if outage:
                await load.back()
            account = await load.finish(gone)
            grown, left = await load.leave(gone)
        await asyncio.to_thread(self._show_figures, account, grown, began)
        assert account.flaws() == {} and account.received > 0 and account.kept.said, str(account)
        assert left == []
        await until(lambda: self.left_in_redis() == ([], []))
        assert max(grown, default=0) < GROWTH, f"{name}: grew by {grown} bytes"
        for server in load.servers:
            said = load.said(server)
            assert [line for line in said if line.startswith("Traceback")] == []
            # One line in the log for each event.
            for kind, words in (
                ("lost", "lost the channel layer (Redis)"),
                ("back", "the channel layer (Redis) is back"),
            ):
                lines = [line for line in said if words in line]
                if len(lines) != len(account.times(f"layer_{kind}", server)):
                    print("\n".join(x for x in said if not x.startswith("END")))
                assert len(lines) == len(account.times(f"layer_{kind}", server))
        return account

    def _show_figures(self, account, grown, began):
        memory = "+".join(f"{each / (1 << 20):.1f}" for each in grown)
        self.show(f"{account}; grew by {memory} MiB; {time.monotonic() - began:.1f} s")

    def stop(self):
        for server in self.servers:
            server.stop()
        self.valkey.stop()


@pytest.fixture(scope="session")
def show(request):
    """Print a line, past pytest's capturing."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line):
        with capture.global_and_fixture_disabled():
            print(f"\n  {line}", flush=True)

    return show


@pytest.fixture(scope="package")
def site(database, show):
    site = Site(database, show)
    yield site
    site.stop()
