"""The example, whose metrics this machine may see."""

from fws_project.settings import *  # noqa: F403

FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["127.0.0.1"]}
