"""The example, and a filter that counts the connected users."""

from fws_project.settings import *  # noqa: F403
from fws_project.settings import INSTALLED_FILTERS as EXAMPLE

INSTALLED_FILTERS = ["tests.e2e.hostile_filters", *EXAMPLE]
