"""A site with an HTTP API, for the unmodified package cent."""

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = ["tests.e2e.api_filters"]
ROOT_URLCONF = "tests.e2e.api_filters"
FILTERED_WEBSOCKET = {
    "AUTHENTICATORS": [],
    "GROUPS": "tests.e2e.api_filters",
    "API_KEY": "the-key-of-the-api",
}
