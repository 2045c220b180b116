"""The example with every authenticator, and a page that ends the access of connections."""

import json
import os

from fws_project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.auth_urls"
INSTALLED_FILTERS = ["tests.e2e.auth_filters"]
FILTERED_WEBSOCKET = {
    "AUTHENTICATORS": [
        "filtered_websocket.auth.SessionAuthenticator",
        "filtered_websocket.auth.HeaderAuthenticator",
        "filtered_websocket.auth.SubprotocolAuthenticator",
        "filtered_websocket.auth.TicketAuthenticator",
        "filtered_websocket.auth.QueryAuthenticator",
    ],
    # All of the suite comes from one address.
    "GUESS_LIMIT": None,
    **json.loads(os.environ.get("TEST_FWS", "{}")),
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "DEBUG"},
    "loggers": {"django.db": {"level": "INFO"}, "asyncio": {"level": "INFO"}},
}
