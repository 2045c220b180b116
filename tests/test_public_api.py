"""The reference page and what can be imported are the same."""

import importlib
import re

import filtered_websocket

from .snippets import ROOT

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
