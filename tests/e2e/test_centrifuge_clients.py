"""
The own tests of centrifuge-python, unmodified, against ``tests/centrifuge_site.py``.

They are in its source distribution, which pip fetches: this version, with this hash.
"""

import contextlib
import hashlib
import re
import socket
import subprocess
import sys
import tarfile
from functools import partial

import pytest

from ..waiting import LIMIT, wait_until
from .processes import TAKES_ITS_TIME, Process

pytest.importorskip("centrifuge")

VERSION = "0.7.0"
SHA256 = "11252b45c3f6b6104cfb07fb0fcfc9d2d62832d2af14715dd16fdc5e9c6e5964"
#: The address is in the tests.
PORT = 8000
UVICORN = ("uvicorn", "--ws", "websockets-sansio", "--ws-per-message-deflate", "false")
#: A server that accepts from a socket, what it says when it does, and what of a connection.
SERVERS = {
    "daphne": (("daphne", *TAKES_ITS_TIME), "Listening on TCP", "WSCONNECT"),
    "uvicorn": (UVICORN, "Uvicorn running on", "[accepted]"),
}
#: Of its modules the one whose tests connect to a server; the others bring a server of their own.
OF_A_SERVER = "tests.test_client"
#: How many tests that one has, and all of them.
COUNT, ALL = 62, 185
#: unittest, with as many seconds for each step of those that connect to a server as anything may
#: take. Its clients and tests give a step five. If one takes longer, the client connects again:
#: then the second client may be there before the first one, and the test waits for ever for what
#: the first one is told of the second. And before a client connects or disconnects, those that
#: are there get the replies to their subscribes: its tests do not wait for them, and while one
#: process is busy the other may have answered what came later. Then the first client is not told
#: of the second, or has nothing to recover from, and the test waits for ever for that.
WITH_TIME = f"""
import asyncio, unittest, weakref
import centrifuge
import tests.centrifugo

begin = centrifuge.Client.__init__
wait_for = asyncio.wait_for
clients = weakref.WeakSet()

def begin_with_time(client, *arguments, timeout={LIMIT}, **options):
    begin(client, *arguments, timeout=timeout, **options)
    clients.add(client)

def subscribed(step):
    async def take(client):
        waiting = [
            one.ready({LIMIT})
            for other in clients
            if other.state != centrifuge.ClientState.DISCONNECTED
            for one in other._subs.values()
            if one.state.value == "subscribing"
        ]
        await asyncio.gather(*waiting, return_exceptions=True)
        await step(client)

    return take

async def wait_long(what, timeout):
    return await wait_for(what, {LIMIT})

centrifuge.Client.__init__ = begin_with_time
centrifuge.Client.connect = subscribed(centrifuge.Client.connect)
centrifuge.Client.disconnect = subscribed(centrifuge.Client.disconnect)
asyncio.wait_for = wait_long
tests.centrifugo.require_centrifugo.__defaults__ = ({LIMIT},)
unittest.main(module=None)
"""
#: One of its tests that takes longer does not end, seconds: none has so many steps.
TEST_LIMIT = 3 * LIMIT
#: The others wait most of their time: so many processes share them, beside that of the one.
SHARES = 4
#: How many tests have run, a test that begins, and one that failed, as unittest names them.
RAN = re.compile(r"^Ran (\d+) tests?", re.MULTILINE)
BEGUN = re.compile(r"test_\w+ \(([\w.]+)\)")
FAILED = re.compile(r"^(?:ERROR|FAIL): \w+ \(([\w.]+)\)", re.MULTILINE)

#: Its tests take a minute or two on a busy machine, and TEST_LIMIT more where one does not end.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def suite(tmp_path_factory, request):
    """The folder of the suite. What pip fetches is kept, as it takes pip long to look into it."""
    folder = tmp_path_factory.mktemp("centrifuge")
    cache = getattr(request.config, "cache", None)
    kept = cache.mkdir("centrifuge-python") if cache else folder
    archive = kept / f"centrifuge_python-{VERSION}.tar.gz"
    if not archive.exists() or hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        fetch(kept)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"centrifuge_python-{VERSION}"


def fetch(folder):
    wanted = folder / "wanted.txt"
    wanted.write_text(f"centrifuge-python=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    options = ["--no-binary", "centrifuge-python", "--dest", folder, "-r", wanted]
    fetched = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"pip cannot fetch centrifuge-python: {fetched.stderr[-500:]}")


def listen():
    """The port, once it is free."""
    found = []

    def take():
        with contextlib.suppress(OSError):
            found.append(socket.create_server(("127.0.0.1", PORT)))
        return bool(found)

    if not wait_until(take):
        pytest.skip(f"port {PORT}, which the suite wants, is taken")
    return found[0]


@contextlib.contextmanager
def serving(count, kind="daphne", **environment):
    """So many processes that accept from one socket. Each must have served somebody in the end."""
    options, ready, served = SERVERS[kind]
    with listen() as listening, contextlib.ExitStack() as ending:
        # As NoDelay= of systemd: uvicorn does not do so itself with a socket that it is given.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = listening.fileno()
        options = [*options, "--fd", str(fd), "tests.centrifuge_site:application"]
        command = [sys.executable, "-m", *options]
        processes = []
        for _ in range(count):
            processes.append(Process(command, env=environment, fresh=True, pass_fds=[fd]))
            ending.callback(processes[-1].stop)
        for process in processes:
            process.said(ready)
        yield
        assert all(served in process.output for process in processes)


def latest(process):
    """The test that has begun last, as unittest names it."""
    said = f"\n{process.output}"
    found = BEGUN.match(said, said.rfind("\ntest_") + 1)
    return found and found[1]


def begin(suite, *command):
    return Process([sys.executable, *command], cwd=suite, env={"PYTHONPATH": ""})


def end(process):
    """The status and the output of tests; fails where one of them does not end, and names it."""

    def goes_on(test):
        return not process.is_running or latest(process) != test

    try:
        while process.is_running:
            if not wait_until(partial(goes_on, latest(process)), TEST_LIMIT):
                # What it has not written to the end of a line comes now.
                process.stop()
                pytest.fail(f"{latest(process)} does not end:\n{process.output[-3000:]}")
        return process.wait(), process.output
    finally:
        process.stop()


def shares(suite):
    """Its modules: the one that asks our server, and so many shares of the others."""
    names = sorted(f"tests.{path.stem}" for path in (suite / "tests").glob("test_*.py"))
    names.remove(OF_A_SERVER)
    return [[OF_A_SERVER], *(names[first::SHARES] for first in range(SHARES))]


def test_its_suite_passes(suite):
    """
    As it is, with its own limits. Most modules have a server and deadlines of their own, of tenths
    of a second: what fails there on a busy machine has to pass alone.
    """
    with serving(1), contextlib.ExitStack() as ending:
        running = [begin(suite, "-m", "unittest", "-v", *share) for share in shares(suite)]
        for process in running:
            ending.callback(process.stop)
        done = [end(process) for process in running]
        counts = [int(RAN.search(output)[1]) for _, output in done]
        assert (counts[0], sum(counts)) == (COUNT, ALL)
        failed = []
        for status, output in done:
            names = FAILED.findall(output)
            assert status == 0 or names, output[-5000:]
            failed += names
        for name in dict.fromkeys(failed):
            assert not name.startswith(f"{OF_A_SERVER}."), done[0][1][-9000:]
            status, again = end(begin(suite, "-m", "unittest", "-v", name))
            assert status == 0, again[-5000:]


@pytest.mark.parametrize("kind", SERVERS)
def test_its_suite_passes_against_two_processes_behind_one_port(kind, suite, valkey):
    """What asks our server, with time for a busy machine."""
    with serving(2, kind, REDIS_URL=valkey.url):
        status, output = end(begin(suite, "-c", WITH_TIME, "-v", OF_A_SERVER))
    assert status == 0 and f"Ran {COUNT} tests" in output, output[-9000:]
