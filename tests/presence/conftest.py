"""The stores."""

import pytest

from .worlds import MemoryWorld, redis_world


@pytest.fixture(autouse=True)
def waits(time_enough):
    """All of them wait for Redis."""


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
