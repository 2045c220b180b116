"""The example, with a group chain and rules, and the pages of ``traces_site``."""

from fws_project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.traces_site"
INSTALLED_FILTERS = [
    "filtered_websocket.filters.broadcast_messages",
    "tests.e2e.traces_filters",
]
FILTERED_WEBSOCKET = {"AUTHENTICATORS": [], "GROUPS": "tests.e2e.traces_filters"}
