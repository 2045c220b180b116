"""A real Redis for the commands that look at other processes."""

import pytest

from filtered_websocket.checks.settings import PUBSUB

from ..waiting import LIMIT


@pytest.fixture
def layer(valkey, settings):
    # A busy machine may let it wait.
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [{"address": valkey.url}]}}
    }
    return valkey
