"""The example, where a busy machine may let Redis wait."""

from fws_project.settings import *  # noqa: F403

from ..waiting import LEAST

FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LEAST}
