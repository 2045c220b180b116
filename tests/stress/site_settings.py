"""The example's site under stress; settings of a test in TEST_SETTINGS, JSON."""

import json
import os

from fws_project.settings import *  # noqa: F403

DEBUG = False
SECRET_KEY = "only under stress"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_FILTERS = [
    "tests.stress.site_filters",
    "filtered_websocket.filters.broadcast_messages",
]
FILTERED_WEBSOCKET = json.loads(os.environ.get("TEST_SETTINGS", "{}"))
