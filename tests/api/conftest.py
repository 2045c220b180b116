import pytest

from filtered_websocket.history import memory

from .calling import SITE, URLS


@pytest.fixture(autouse=True)
def site(settings):
    settings.FILTERED_WEBSOCKET = SITE
    settings.ROOT_URLCONF = URLS
    memory.forget_all()
    yield settings
    memory.forget_all()
