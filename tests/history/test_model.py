"""
Both stores under random events: who comes back has everything since, in order, once, or is
told; and every answer is that of a model in a few lines.
"""

import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer

from filtered_websocket.history.memory import MemoryHistory
from filtered_websocket.history.redis import RedisHistory
from filtered_websocket.layer.redis_layer import redis_layer

from .worlds import MemoryWorld, RedisWorld

pytestmark = [pytest.mark.usefixtures("time_enough"), pytest.mark.repeats]

STEPS = 120


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def run(world):
    for _ in range(STEPS):
        await world.happen()
    return world


@pytest.mark.parametrize("first", range(0, 300, 50))
async def test_a_history_in_memory_is_as_the_model(first):
    recovered = told = 0
    for seed in range(first, first + 50):
        clock = Clock()
        world = await run(MemoryWorld(MemoryHistory(clock), clock, seed))
        recovered, told = recovered + world.recovered, told + world.told
    assert min(recovered, told) > 100


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}], ids=str)
@pytest.mark.parametrize("first", range(0, 20, 10))
async def test_a_history_in_redis_is_as_the_model(valkey, first, options):
    layer = RedisPubSubChannelLayer(hosts=[valkey.url], **options)
    ours = redis_layer(layer)
    recovered = told = 0
    with redis.Redis.from_url(valkey.url) as client:
        for seed in range(first, first + 10):
            client.flushall()
            world = await run(RedisWorld(RedisHistory(layer, ours), client, seed))
            recovered, told = recovered + world.recovered, told + world.told
    await ours.close()
    assert min(recovered, told) > 50
