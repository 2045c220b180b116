"""Two apps, for every test of this folder."""

import pytest

from .clients import with_app


@pytest.fixture(autouse=True)
def apps(settings):
    settings.FILTERED_WEBSOCKET = with_app()
