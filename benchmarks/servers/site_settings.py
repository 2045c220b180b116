"""
The Django site of the benchmarks: sessions and users in an SQLite file.

BENCH_DB     path of the database
BENCH_LAYER  memory, pubsub or core: what carries group messages
REDIS_URL    where pubsub and core do
"""

import os

DEBUG = False
SECRET_KEY = "only for measurements on this machine"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = [
    "filtered_websocket",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BENCH_DB", ":memory:"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True

#: Its clients may send as much as they can.
PUSHER_APP = {
    "ID": "1",
    "KEY": "bench",
    "SECRET": "only for measurements on this machine",
    "CLIENT_EVENTS": True,
    "CLIENT_EVENT_RATE": "1000000000/s",
}
FILTERED_WEBSOCKET = {"PUSHER_APPS": [PUSHER_APP]}
INSTALLED_FILTERS = ["filtered_websocket.filters.broadcast_messages"]

# Room for every message in flight to every client: at the defaults stock Channels loses
# most of them, and would be measured for work it did not do.
CAPACITY = 1_000_000
LAYER = os.environ.get("BENCH_LAYER", "memory")
if LAYER == "memory":
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"capacity": CAPACITY},
        }
    }
elif LAYER == "pubsub":
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": 2}]},
        }
    }
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {
                # Without None redis-py 8 ends an idle consumer after five seconds.
                "hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": None}],
                "capacity": CAPACITY,
            },
        }
    }
