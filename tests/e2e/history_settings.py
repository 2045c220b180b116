"""A site that keeps what is published, on the layer a test asks for."""

import json
import os

from fws_project.settings import *  # noqa: F403
from fws_project.settings import CHANNEL_LAYERS

INSTALLED_FILTERS = [
    "tests.e2e.history_filters",
    *json.loads(os.environ.get("TEST_FILTERS", "[]")),
]
FILTERED_WEBSOCKET = {
    "AUTHENTICATORS": [],
    "PUBLISH_QUEUE": int(os.environ.get("TEST_PUBLISH_QUEUE", 10_000)),
    "GROUPS": "tests.e2e.history_filters",
    # Processes need little time to subscribe again, where tests wait for them.
    "LAYER_SETTLE": 0.1,
    # Clients of a process that ends are closed at about the same moment.
    "DRAIN_WINDOW": 0.2,
    **json.loads(os.environ.get("TEST_FWS", "{}")),
}
CHANNEL_LAYERS["default"]["BACKEND"] = os.environ.get(
    "TEST_LAYER_BACKEND", CHANNEL_LAYERS["default"]["BACKEND"]
)
CHANNEL_LAYERS["default"]["CONFIG"] |= json.loads(os.environ.get("TEST_LAYER_OPTIONS", "{}"))
