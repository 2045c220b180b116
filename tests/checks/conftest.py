"""What tests of checks share."""

import functools
from weakref import WeakSet

import pytest

from filtered_websocket.checks import environment
from filtered_websocket.checks.application import load_application
from filtered_websocket.pipelines import route as routes
from fws_project.routing import websocket_urlpatterns


@pytest.fixture(autouse=True)
def no_other_routes(monkeypatch):
    """
    The site's routes and a test's own: those of earlier tests may not be collected yet. Nor the
    example's route with rules of its own, for which its settings silence a warning.
    """
    load_application()
    own = [entry.callback.route for entry in websocket_urlpatterns]
    known = [r for r in routes._routes if r.is_own or r in own]
    served = WeakSet(r for r in known if r.paths and r.pipeline.rules is None)
    monkeypatch.setattr(routes, "_routes", served)


@pytest.fixture(autouse=True, scope="session")
def versions_are_read_once():
    """No package is installed while tests run, and reading what one says of itself is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "version", functools.cache(environment.version))
        yield
