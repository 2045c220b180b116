"""A site that shows who is in its rooms, with a lease as short as a test asks for."""

import json
import os

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = ["tests.e2e.presence_filters"]
FILTERED_WEBSOCKET = {
    "AUTHENTICATORS": [],
    "GROUPS": "tests.e2e.presence_filters",
    "LAYER_SETTLE": 0.5,
    **json.loads(os.environ.get("TEST_SETTINGS", "{}")),
}
