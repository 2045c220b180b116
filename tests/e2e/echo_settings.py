"""The example, with an echo instead of a chat."""

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = ["tests.e2e.echo_filters"]
