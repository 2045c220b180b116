"""The example, with the filters of ``chains_filters`` and messages in JSON."""

from fws_project.settings import *  # noqa: F403

INSTALLED_FILTERS = ["tests.e2e.chains_filters"]
FILTERED_WEBSOCKET = {"CODEC": "filtered_websocket.json_codec.JSONCodec"}
