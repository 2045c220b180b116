"""A site as pages of the documentation have it, in this process."""

import sys
import types

import pytest

import filtered_websocket

from ..snippets import named


class Site:
    """The package ``mysite``, with modules made of blocks, for the time of a test."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        package = types.ModuleType("mysite")
        package.__path__ = []
        monkeypatch.setitem(sys.modules, "mysite", package)

    def __call__(self, page, *files):
        """A module for each of the blocks under these names, in their order."""
        return [self.run(page, file, f"mysite.{file.removesuffix('.py')}") for file in files]

    def run(self, page, label, name="mysite.page", **names):
        """
        The module ``name``, in which the block under ``label`` was run. ``names`` are in it
        before, and what ``filtered_websocket`` exports, which not every block imports again.
        """
        module = types.ModuleType(name)
        exported = {key: getattr(filtered_websocket, key) for key in filtered_websocket.__all__}
        vars(module).update({**exported, **names})
        self._monkeypatch.setitem(sys.modules, name, module)
        exec(compile(named(page)[label], f"{page}: {label}", "exec"), vars(module))
        return module


@pytest.fixture
def site(monkeypatch):
    return Site(monkeypatch)
