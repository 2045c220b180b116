"""The site of lone_site: all of group rules, presence and histories in one process."""

from .groups_settings import *  # noqa: F403

ASGI_APPLICATION = "tests.e2e.lone_site.application"
