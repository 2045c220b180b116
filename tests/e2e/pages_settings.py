"""A site with what the pages of the documentation on front ends show: see ``pages_site``."""

from fws_project.settings import *  # noqa: F403
from fws_project.settings import TEMPLATES
from tests.snippets import named

ROOT_URLCONF = "tests.e2e.pages_site"
ASGI_APPLICATION = "tests.e2e.pages_site.application"
INSTALLED_FILTERS = ["of_calls.filters"]
FILTERED_WEBSOCKET = {
    "GROUPS": "tests.e2e.pages_site",
    "JWT_KEY": "of the tests alone" * 2,
    "PUSHER_APPS": [{"ID": "1", "KEY": "app-key", "SECRET": "of the tests alone"}],
}
SILENCED_SYSTEM_CHECKS = []
TEMPLATES = [
    {
        **TEMPLATES[0],
        "APP_DIRS": False,
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.locmem.Loader",
                    {"said.html": named("docs/htmx.md")["said.html"]},
                ),
                "django.template.loaders.app_directories.Loader",
            ]
        },
    }
]
