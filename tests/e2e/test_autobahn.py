"""The cases of the Autobahn suite: what RFC 6455 asks of a server."""

import json
import subprocess
import sys

import pytest

from .fws import OURS, Fws
from .processes import ROOT, Daphne

CASES = 247


@pytest.fixture
def ours():
    server = Fws(OURS, "-f", "tests.e2e.echo_filters")
    yield server
    server.stop()


@pytest.fixture
def daphne(database):
    server = Daphne(env=database | {"DJANGO_SETTINGS_MODULE": "tests.e2e.echo_settings"})
    yield server
    server.stop()


def failed(server):
    """What is wrong with the server, by case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.autobahn_cases", server.ws()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == CASES
    assert "Traceback" not in server.output
    return {case: words for case, (passed, words) in results.items() if not passed}


def test_our_own_server_passes_every_case(ours):
    assert failed(ours) == {}


def test_daphne_passes_every_case_where_the_lane_is_taken(daphne):
    """The empty messages too, which daphne itself does not send (cases 1.1.1 and 6.1.1)."""
    assert failed(daphne) == {}
