"""The example, where a sender gets its own messages back, upper-cased."""

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = [
    "fws_project.filters.Tidy",
    "fws_project.filters.Shout",
    {"NAME": "filtered_websocket.filters.broadcast_messages", "OPTIONS": {"to_self": True}},
]
