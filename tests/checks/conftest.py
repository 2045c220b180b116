"""What tests of checks share."""

from weakref import WeakSet

import pytest

from filtered_websocket.checks.application import load_application
from filtered_websocket.pipelines import route as routes


@pytest.fixture(autouse=True)
def no_other_routes(monkeypatch):
    """The site's routes and a test's own: those of earlier tests may not be collected yet."""
    load_application()
    served = WeakSet(route for route in routes._routes if route.paths)
    monkeypatch.setattr(routes, "_routes", served)
