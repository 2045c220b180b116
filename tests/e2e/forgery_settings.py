"""The example on a channel layer with the keys in TEST_KEYS, and a filter that tells counts."""

import json
import os

from .site_settings import *  # noqa: F403

INSTALLED_FILTERS = [
    "tests.e2e.forgery_filters",
    "tests.e2e.site_filters.SayGoodbye",
    "filtered_websocket.filters.broadcast_messages",
]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            "hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": 2}],
            "symmetric_encryption_keys": json.loads(os.environ["TEST_KEYS"]),
        },
    }
}
