"""The example with filters that report, on the Redis hosts that a test gives."""

import json
import os

from tests.e2e.site_settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.faults.site_urls"
INSTALLED_FILTERS = [
    "tests.e2e.faults.filters",
    "filtered_websocket.filters.broadcast_messages",
]
# The layer's own receiver logs a traceback for every connection that it loses.
LOGGING["loggers"]["channels_redis"] = {"level": "CRITICAL"}  # noqa: F405
if "TEST_HOSTS" in os.environ:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {
                "hosts": [
                    # An address, or the way to find one.
                    host if isinstance(host, dict) else {"address": host, "socket_timeout": 2}
                    for host in json.loads(os.environ["TEST_HOSTS"])
                ]
            },
        }
    }
