"""client.js in Node: its tests are in ``client.test.mjs``."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import filtered_websocket

HERE = Path(__file__).parent
SCRIPT = Path(filtered_websocket.__file__).parent / "static" / "filtered_websocket" / "client.js"
STREAMS = SCRIPT.with_name("streams.js")
#: The first one whose timers can be faked like this.
OLDEST = (20, 11)


def node():
    """The path of Node; skips where there is none, or one that is too old."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node on this machine: apt-get install nodejs")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", said)[:2])) < OLDEST:
        pytest.skip(f"Node is {said.strip()}, and has to be {'.'.join(map(str, OLDEST))} at least")
    return program


def test_its_own_tests_pass(tmp_path):
    # What Node takes for modules.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    module = Path(shutil.copy(SCRIPT, tmp_path))
    shutil.copy(STREAMS, tmp_path)
    done = subprocess.run(
        [node(), "--test", "--test-reporter", "spec", HERE / "client.test.mjs"],
        env={"CLIENT_JS": module.as_uri(), "CLIENT_TYPES": str(SCRIPT.with_suffix(".d.ts"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"pass (\d+)", done.stdout)[1]) > 40


def test_it_is_small():
    assert len(SCRIPT.read_text().splitlines()) <= 425
    assert len(STREAMS.read_text().splitlines()) <= 125


def test_it_comes_back_by_the_rule_of_reconnect_js():
    from benchmarks.reconnect import CONSTANTS

    found = re.search(
        r"const \[BASE, CAP, STABLE\] = \[(\d+), ([\d_]+), ([\d_]+)\];", SCRIPT.read_text()
    )
    assert [int(value) for value in found.groups()] == [
        CONSTANTS[name] for name in ("BASE", "CAP", "STABLE")
    ]
