"""The example with a storage object of its own; nothing listens on that port."""

from fws_project.settings import *  # noqa: F403

FILTERED_WEBSOCKET = {
    "STORAGE": {
        "BACKEND": "filtered_websocket.storage_objects.redis",
        "OPTIONS": {"redis_url": "redis://127.0.0.1:1/0"},
    }
}
