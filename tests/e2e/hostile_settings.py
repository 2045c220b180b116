"""The example, and a filter that tells who is left."""

from fws_project.settings import *  # noqa: F403
from fws_project.settings import INSTALLED_FILTERS as EXAMPLE

INSTALLED_FILTERS = ["tests.e2e.hostile_filters", *EXAMPLE]
