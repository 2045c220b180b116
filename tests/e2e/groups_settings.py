"""The site of the tests of access, with group rules."""

from .auth_site import *  # noqa: F403
from .auth_site import FILTERED_WEBSOCKET

ROOT_URLCONF = "tests.e2e.groups_urls"
ASGI_APPLICATION = "tests.e2e.groups_site.application"
FILTERED_WEBSOCKET = {**FILTERED_WEBSOCKET, "GROUPS": "tests.e2e.groups_rules"}
