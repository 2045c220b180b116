"""Stores for tests, and what several simulated processes need of them."""

import asyncio
from contextlib import asynccontextmanager

from channels_redis.pubsub import RedisPubSubChannelLayer

from filtered_websocket.layer import redis_layer as module
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.layer.redis_host import settle
from filtered_websocket.presence.base import Call, Info, pack_info, unseal_events
from filtered_websocket.presence.memory import MemoryStore
from filtered_websocket.presence.redis import RedisStore

from ..waiting import until

#: Seconds: longer than any test, so that only what a test does ends a lease.
LEASE = 3600.0


def entry(user=None, info=None):
    return pack_info(Info(user, info))


async def call(store, origin, group, *changes, **options):
    """The answer to one call."""
    [answer] = await store.change(origin, [Call(group, changes, **options)])
    if isinstance(answer, Exception):
        raise answer
    return answer


class MemoryWorld:
    """A store in this process, with a clock that the test sets."""

    def __init__(self):
        self.now = 1_000_000.0
        self.store = MemoryStore(self._deliver, LEASE, lambda: self.now)
        self._listeners = {}

    def new_store(self):
        return self.store

    def _deliver(self, group, events):
        for listen in self._listeners.values():
            listen(group, list(events))

    async def listen(self, who, listen, groups):
        self._listeners[who] = listen

    async def delivered(self):
        """Return when all that was told has arrived: it has, before calls return."""

    async def end_lease(self, origin, groups):
        """Have the lease of one process end, and those of the others not."""
        for group in groups:
            found = self.store._groups.get(group)
            if found is not None and origin in found.leases:
                found.leases[origin] = self.now

    async def lose(self):
        """The store forgets everything."""
        self.store._groups.clear()


class RedisWorld:
    """Stores over a real Redis, with its own clock."""

    def __init__(self, valkey, **options):
        layer = RedisPubSubChannelLayer(hosts=[valkey.url], **options)
        self.layer = module.redis_layer(layer)
        self.client = valkey.client()
        self.client.flushall()
        self.store = self.new_store()
        self._channels = {}
        self._keys = {}
        self._markers = {}

    def new_store(self):
        return RedisStore(self.layer, LEASE)

    async def listen(self, who, listen, groups):
        channel = self._channels[who] = await self.layer.new_channel()

        def receive(data):
            envelope = self.layer.deserialize(data)
            if "marker" in envelope:
                self._markers[channel].discard(envelope["marker"])
                return
            key, events = unseal_events(envelope)
            listen(self._keys[key], events)

        self.layer.listen(channel, receive, lambda error: None)
        for group in groups:
            self._keys[group_key(group)] = group
            done = asyncio.get_running_loop().create_future()
            self.layer.join(group_key(group), channel, lambda error, done=done: settle(done, error))
            await done

    async def delivered(self):
        """Return when all that was told has arrived: what is sent after it has."""
        for channel in self._channels.values():
            self._markers[channel] = set(self._keys)
        for key in self._keys:
            await self.layer.group_send(key, {"v": 2, "marker": key})
        await until(lambda: not any(self._markers.values()), 0)

    async def end_lease(self, origin, groups):
        """Have the lease of one process end, and those of the others not."""
        for group in groups:
            name = self.leases(group)
            if self.client.hexists(name, origin):
                self.client.hset(name, origin, 1)

    async def lose(self):
        """Redis was restarted: it knows no keys, and no scripts."""
        self.client.flushall()
        self.client.script_flush()

    @staticmethod
    def leases(group, kind="l"):
        namespace, _, digest = group_key(group).split(".")
        return f"{namespace}:{{{digest}}}:{kind}"


@asynccontextmanager
async def redis_world(valkey, **options):
    world = RedisWorld(valkey, **options)
    world.layer.use()
    try:
        yield world
    finally:
        world.client.close()
        for channel in world._channels.values():
            world.layer.ignore(channel)
        await world.layer.leave()
        await world.layer.close()
