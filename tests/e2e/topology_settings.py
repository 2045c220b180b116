"""The example's site on what docs/topologies.md says, with the addresses of a test."""

import json
import os

from tests.e2e.site_settings import *  # noqa: F403
from tests.snippets import named

INSTALLED_FILTERS = [
    "tests.e2e.topology_filters",
    "filtered_websocket.filters.broadcast_messages",
]
FILTERED_WEBSOCKET["GROUPS"] = "tests.e2e.topology_filters"  # noqa: F405
code = named("docs/topologies.md")[f"topology {os.environ['TEST_TOPOLOGY']}"]
for name, stands_for in json.loads(os.environ["TEST_NAMES"]).items():
    assert name in code, name
    code = code.replace(name, stands_for)
assert "example.com" not in code, code
exec(code)
