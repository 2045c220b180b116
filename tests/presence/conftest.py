"""One Valkey for the tests of each file, and the stores."""

import pytest

from ..e2e.processes import Valkey
from ..waiting import LIMIT
from .worlds import MemoryWorld, redis_world


@pytest.fixture(scope="module")
def valkey():
    valkey = Valkey()
    yield valkey
    valkey.stop()


@pytest.fixture(autouse=True)
def time_enough(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}


@pytest.fixture
async def redis(valkey):
    async with redis_world(valkey) as world:
        yield world


@pytest.fixture(params=["memory", "redis"])
def kind(request):
    return request.param


@pytest.fixture
async def world(kind, valkey):
    if kind == "memory":
        yield MemoryWorld()
        return
    async with redis_world(valkey) as world:
        yield world
