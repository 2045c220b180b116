"""Servers under stress: small by default, of full size where FWS_STRESS is "full"."""

import json
import os
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.machine import LOAD_CORE, SERVER_CORE, resident_bytes
from benchmarks.stats import percentile

from ..e2e.conftest import database, valkey  # noqa: F401 - fixtures
from ..e2e.processes import Process, free_port, run_python
from ..waiting import LIMIT, wait_until

MIB = 1 << 20
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.stress.site_settings"}
#: As the documentation says it: Twisted's default of 50 is too short a queue for a storm.
#: And whoever comes shall wait in line, not be sent away after five seconds.
DAPHNE = ("daphne", "--access-log", os.devnull, "--websocket_connect_timeout", "30")
UVICORN = ("uvicorn", "--ws", "websockets-sansio", "--ws-per-message-deflate", "false")
SERVERS = {"daphne": DAPHNE, "uvicorn": (*UVICORN, "--no-access-log")}
#: A port of its own, or a listening socket that is given to it, as systemd does.
OPENS = {
    "daphne": ("-e", "tcp:port={port}:interface=127.0.0.1:backlog={backlog}"),
    "uvicorn": ("--port", "{port}", "--backlog", "{backlog}"),
}
INHERITS = {"daphne": ("--fd", "{fd}"), "uvicorn": ("--fd", "{fd}", "--backlog", "{backlog}")}


@dataclass(frozen=True)
class Sizes:
    """How many clients of each kind, and whether latencies have bounds."""

    idle: int
    non_readers: int
    readers: int
    storm: int
    users: int
    full: bool = False

    @property
    def descriptors(self):
        """So many file descriptors are needed at the same time."""
        return max(self.idle, self.storm, self.non_readers + self.readers, 2 * self.users) + 500


SMALL = Sizes(idle=200, non_readers=20, readers=10, storm=150, users=200)
FULL = Sizes(idle=10_000, non_readers=1_000, readers=1_000, storm=5_000, users=5_000, full=True)


class Site(Process):
    """The site of these tests on one server."""

    def __init__(self, kind, env, port=None, listener=None, backlog=1024, fresh=True):
        fd = None if listener is None else listener.fileno()
        self.port = listener.getsockname()[1] if listener else port or free_port()
        line = (*SERVERS[kind], *(INHERITS if listener else OPENS)[kind])
        command = [part.format(port=self.port, backlog=backlog, fd=fd) for part in line]
        super().__init__(
            [sys.executable, "-m", *command, "tests.stress.site:application"],
            env=env,
            fresh=fresh,
            pass_fds=() if listener is None else (fd,),
        )
        # Not by a connection: those to an inherited socket succeed before anybody listens.
        self.said("Listening on|Uvicorn running on")

    @property
    def memory(self):
        return resident_bytes(self.pid)

    @property
    def peak(self):
        """The most memory since :meth:`forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def forget_peak(self):
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def ended(self, code):
        """How many connections have ended with ``code``."""
        lines = [line for line in self.output.splitlines() if line.startswith(f"ENDED {code}: ")]
        return int(lines[-1].split()[-1]) if lines else 0

    def settles(self, condition, timeout=LIMIT):
        """Poll until it is true. Returns whether it is."""
        return wait_until(condition, timeout)


@pytest.fixture(scope="session")
def sizes():
    """Those of this run; skips where the system has too few file descriptors for them."""
    chosen = FULL if os.environ.get("FWS_STRESS") == "full" else SMALL
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < chosen.descriptors:
        pytest.skip(f"{chosen.descriptors} file descriptors are needed, 'ulimit -Hn' is {hard}")
    # Children inherit it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return chosen


@pytest.fixture(scope="session")
def cookies(database, sizes):  # noqa: F811
    """Of sessions of users who have logged in: of the user with primary key 1, and so on."""
    env = {**database, **SETTINGS}
    return run_python(env, "-m", "benchmarks.servers.session", str(sizes.users)).split()


@pytest.fixture(scope="session")
def cookie(cookies):
    """Of the first user."""
    return cookies[0]


@pytest.fixture(params=SERVERS)
def kind(request):
    return request.param


@pytest.fixture
def serve(kind, sizes, database, valkey):  # noqa: F811
    """Start the site; it ends with the test."""
    # A few clients need not be spread over two seconds.
    changed = {} if sizes.full else {"DRAIN_WINDOW": 0.2}
    env = {
        **database,
        **SETTINGS,
        "REDIS_URL": valkey.url,
        "TEST_SETTINGS": json.dumps(changed),
    }
    sites = []

    def serve(**options):
        # Memory is that of a start by its command line where it is measured.
        sites.append(Site(kind, env, fresh=sizes.full, **options))
        return sites[-1]

    yield serve
    for site in sites:
        site.stop()


@pytest.fixture
def apart(sizes, valkey):  # noqa: F811
    """
    Give a site a core of its own, as ``benchmarks/`` does, and the other one to its clients and
    Valkey: how fast it answers shall not depend on whom the system lets run.
    """

    def stay(pid, cores):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)

    def apart(site):
        if sizes.full:
            stay(site.pid, {SERVER_CORE})

    allowed = os.sched_getaffinity(0)
    if sizes.full:
        stay(os.getpid(), {LOAD_CORE})
        stay(valkey.pid, {LOAD_CORE})
    yield apart
    for pid in (os.getpid(), valkey.pid):
        stay(pid, allowed)


@pytest.fixture
def show(request):
    """Print a line, past pytest's capturing."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line):
        with capture.global_and_fixture_disabled():
            print(f"\n  {line}", end="", flush=True)

    return show


def mib(size):
    return f"{size / MIB:.1f} MiB"


def ms(latencies):
    """Median and 99th percentile in words."""
    p50, p99 = (percentile(latencies, percent) * 1000 for percent in (50, 99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def p99(latencies):
    return percentile(latencies, 99)
