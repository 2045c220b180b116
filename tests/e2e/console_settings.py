"""The example under a strict Content-Security-Policy, with a filter that raises what it is told."""

from fws_project.settings import *  # noqa: F403
from fws_project.settings import MIDDLEWARE

MIDDLEWARE = ["tests.e2e.console_filters.strict", *MIDDLEWARE]
INSTALLED_FILTERS = ["tests.e2e.console_filters.Repeat"]
