"""
The own tests of centrifuge-python, unmodified, against ``tests/centrifuge_site.py``.

They are in its source distribution, which pip fetches: this version, with this hash.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tarfile

import pytest

from ..waiting import LIMIT, wait_until
from .processes import Process, is_listening

pytest.importorskip("centrifuge")

VERSION = "0.7.0"
SHA256 = "11252b45c3f6b6104cfb07fb0fcfc9d2d62832d2af14715dd16fdc5e9c6e5964"
#: The address is in the tests.
PORT = 8000
#: Of its modules the one whose tests connect to a server; the others bring a server of their own.
OF_A_SERVER = "test_client"
#: It is ended after so many seconds, before pytest ends this test: to say what it was at.
SUITE_LIMIT = 280
#: A test that failed, as unittest names it.
FAILED = re.compile(r"^(?:ERROR|FAIL): \w+ \(([\w.]+)\)", re.MULTILINE)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The folder of the suite."""
    folder = tmp_path_factory.mktemp("centrifuge")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"centrifuge-python=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    options = ["--no-binary", "centrifuge-python", "--dest", folder, "-r", wanted]
    fetched = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    archive = folder / f"centrifuge_python-{VERSION}.tar.gz"
    if not archive.exists():
        pytest.skip(f"pip cannot fetch centrifuge-python: {fetched.stderr[-500:]}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"centrifuge_python-{VERSION}"


@contextlib.contextmanager
def serving(count, **environment):
    """So many processes that accept from one socket."""
    if not wait_until(lambda: not is_listening(PORT), LIMIT):
        pytest.skip(f"port {PORT}, which the suite wants, is taken")
    with socket.create_server(("127.0.0.1", PORT)) as listening:
        fd = listening.fileno()
        command = ["-m", "daphne", "--fd", str(fd), "tests.centrifuge_site:application"]
        processes = [
            Process([sys.executable, *command], env=environment, fresh=True, pass_fds=[fd])
            for _ in range(count)
        ]
        try:
            for process in processes:
                process.said("Listening on TCP")
            yield processes
        finally:
            for process in processes:
                process.stop()


def run(suite, *names):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "unittest", *names, "-v"]
    try:
        return subprocess.run(
            command,
            cwd=suite,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SUITE_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"not done after {SUITE_LIMIT} s:\n{error.stderr.decode()[-2000:]}")


def passes(suite):
    """
    All of it. Most modules have a server and deadlines of their own, of tenths of a second:
    what fails there on a busy machine has to pass alone. What asks our server never may fail.
    """
    done = run(suite, "discover", "-s", "tests")
    assert re.search(r"^Ran 185 tests", done.stderr, re.MULTILINE), done.stderr[-5000:]
    failed = FAILED.findall(done.stderr)
    assert done.returncode == 0 or failed, done.stderr[-5000:]
    for name in failed:
        assert not name.startswith(OF_A_SERVER), done.stderr[-9000:]
        again = run(suite, f"tests.{name}")
        assert again.returncode == 0, again.stderr[-5000:]


def test_its_suite_passes(suite):
    with serving(1):
        passes(suite)


def test_its_suite_passes_against_two_processes_behind_one_port(suite, valkey):
    with serving(2, REDIS_URL=valkey.url) as processes:
        passes(suite)
        # Both have served.
        assert all("WSCONNECT" in process.output for process in processes)
