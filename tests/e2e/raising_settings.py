"""The example, and filters that raise what would end a process or a task."""

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = [
    "tests.e2e.raising_filters",
    {"NAME": "filtered_websocket.filters.broadcast_messages", "OPTIONS": {"to_self": True}},
]
