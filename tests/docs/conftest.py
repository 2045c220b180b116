"""A site as pages of the documentation have it, in this process."""

import sys

import pytest

from .modules import make_module, make_package


class Site:
    """The package ``mysite``, with modules made of blocks."""

    def __init__(self):
        make_package("mysite")

    def __call__(self, page, *files):
        """A module for each of the blocks under these names, in their order."""
        return [self.run(page, file, f"mysite.{file.removesuffix('.py')}") for file in files]

    def run(self, page, label, name="mysite.page", **names):
        return make_module(page, label, name, **names)


@pytest.fixture
def site():
    before = set(sys.modules)
    yield Site()
    # Modules of libraries stay: a package that has one already would get another one of it.
    for name in sys.modules.keys() - before:
        if getattr(sys.modules[name], "__spec__", None) is None:
            del sys.modules[name]
