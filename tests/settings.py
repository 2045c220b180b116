"""
Settings of the tests: the example's, with nothing from the environment but TEST_DATABASE,
the address of a PostgreSQL (JSON) for tests/e2e/test_postgres.py.
"""

import json
import os

from fws_project.settings import *  # noqa: F403

DEBUG = False
SECRET_KEY = "tests"
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
INSTALLED_FILTERS = ["filtered_websocket.filters.broadcast_messages"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
if "TEST_DATABASE" in os.environ:
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        **json.loads(os.environ["TEST_DATABASE"]),
    }
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels.layers.InMemoryChannelLayer",
        "CONFIG": {"capacity": 10_000},
    }
}
