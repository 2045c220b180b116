"""
The example with a pipeline that misbehaves on demand, on the layer a test asks for, with
the settings in TEST_SETTINGS, JSON.
"""

import json
import os

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = [
    "tests.e2e.site_filters",
    "filtered_websocket.filters.broadcast_messages",
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "filtered_websocket": {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    },
}
FILTERED_WEBSOCKET = {
    **globals().get("FILTERED_WEBSOCKET", {}),
    "REFUSE_WITH": os.environ.get("TEST_REFUSE_WITH", "403"),
    **json.loads(os.environ.get("TEST_SETTINGS", "{}")),
}
if os.environ.get("TEST_LAYER") == "core":
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {
                "hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": None}],
                "capacity": 10_000,
            },
        }
    }
FORCE_SCRIPT_NAME = os.environ.get("TEST_SCRIPT_NAME")
