"""The example on a Redis whose user has few rights, with a storage object there."""

import os

from tests.e2e.site_settings import *  # noqa: F403

INSTALLED_FILTERS = [
    "tests.e2e.rights_filters",
    "filtered_websocket.filters.broadcast_messages",
    "filtered_websocket.filters.broadcast_pubsub",
]
FILTERED_WEBSOCKET = {
    "STORAGE": {
        "BACKEND": "filtered_websocket.storage_objects.redis",
        "OPTIONS": {"redis_url": os.environ["REDIS_URL"], "redis_channels": ["global", "news.*"]},
    }
}
