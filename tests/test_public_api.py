"""The reference page and what can be imported are the same."""

import importlib
import re
import subprocess
import sys

import pytest

import filtered_websocket

from .snippets import ROOT

pytestmark = pytest.mark.repeats
PAGE = (ROOT / "docs" / "reference.md").read_text()


def test_the_package_exports_what_the_reference_lists():
    section = PAGE.partition("## `filtered_websocket`")[2].partition("## Modules")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.+?) \|", section, re.MULTILINE)))
    assert sorted(listed) == sorted(filtered_websocket.__all__)
    assert all(hasattr(filtered_websocket, name) for name in listed)


def test_every_import_of_the_reference_works():
    lines = re.findall(r"`from (\S+) import (\w+)`", PAGE)
    assert len(lines) > 5
    for module, name in lines:
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")


def documented_paths():
    """Every dotted path of this package in the README, the docs, the CHANGELOG, the example."""
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "fws_project").glob("*.py"),
    ]
    found = set()
    for page in pages:
        text = page.read_text()
        found |= set(re.findall(r"filtered_websocket(?:\.[A-Za-z_]+)+", text))
        for module, names in re.findall(r"from (filtered_websocket[\w.]*) import ([\w, ]+)", text):
            found |= {
                f"{module}.{name.strip()}" for name in re.split(r",| as \w+", names) if name.strip()
            }
    # Ids of checks, a label of an app, files of a folder.
    return sorted(path for path in found if not re.search(r"\.[EW]$|\.(py|js|css|html|log)$", path))


@pytest.mark.parametrize("path", documented_paths())
def test_a_path_that_is_documented_can_be_imported(path):
    """As a module, or as a name in one; also those of earlier releases."""
    module, _, name = path.rpartition(".")
    try:
        importlib.import_module(path)
    except ModuleNotFoundError as error:
        assert error.name == path
        assert hasattr(importlib.import_module(module), name)


def test_the_package_can_be_imported_and_chains_run_before_django_is_set_up():
    script = (
        "from filtered_websocket import WebSocketMessageFilter as F\n"
        "class A(F):\n"
        "    @classmethod\n"
        "    def filter(cls, i, data): return data.upper()\n"
        "assert F.run(None, b'a') == b'A'\n"
        "import django.conf; assert not django.conf.settings.configured\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
