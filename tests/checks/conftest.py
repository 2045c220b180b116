"""What tests of checks share."""

import functools

import pytest

from filtered_websocket.checks import environment
from filtered_websocket.pipelines import route as routes


@pytest.fixture(autouse=True)
def no_other_routes(monkeypatch):
    """
    The site's routes and a test's own. Not those that modules of tests make, nor the example's
    route with rules of its own, for which its settings silence a warning.
    """
    served = {one for one in routes._routes if one.paths and one.pipeline.rules is None}
    monkeypatch.setattr(routes, "_routes", served)


@pytest.fixture(autouse=True, scope="session")
def versions_are_read_once():
    """No package is installed while tests run, and reading what one says of itself is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "version", functools.cache(environment.version))
        yield
