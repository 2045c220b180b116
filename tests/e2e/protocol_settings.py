"""
A site for clients of the Centrifuge protocol, who are logged in by a token or not at all;
settings of a test in TEST_SETTINGS, JSON.
"""

import json
import os

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = ["tests.e2e.protocol_filters"]
FILTERED_WEBSOCKET = {
    "AUTHENTICATORS": [],
    "GROUPS": "tests.e2e.protocol_filters",
    "JWT_KEY": "a secret of 32 characters or more",
    # Processes need little time to subscribe again, where tests wait for them.
    "LAYER_SETTLE": 0.1,
    **json.loads(os.environ.get("TEST_SETTINGS", "{}")),
}
ROOT_URLCONF = "tests.e2e.protocol_urls"
