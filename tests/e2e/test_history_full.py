"""Redis, its layer or the queue of a process is full: what is refused is told, and not kept."""

import asyncio
import json
import random

import msgpack
import pytest
import redis

from filtered_websocket.history.scripts import keys_of
from filtered_websocket.layer.envelope import group_key, open_item

from ..waiting import MEASURED, until
from .history_site import CORE, Client, Reader, Site
from .processes import Daphne, Uvicorn

SEEDS, STEPS = (20, 30) if MEASURED else (2, 8)
READERS = 4
#: What a process may have queued, and a process of the core layer may have to receive.
QUEUE, CAPACITY = 12, 3


class Full(Site):
    """Two processes with a short queue, on a Redis whose memory may be full."""

    def __init__(self, database, *kinds):
        super().__init__({**database, "TEST_PUBLISH_QUEUE": str(QUEUE)}, *kinds)

    def limit(self, size):
        self.do("CONFIG", "SET", "maxmemory", size)


class Crowded(Site):
    """Two processes on a core layer that drops what is over its capacity."""

    def __init__(self, database, *kinds):
        super().__init__({**database, **CORE}, *kinds, capacity=CAPACITY)

    def limit(self, size):
        """Its messages are in Redis, too: that would be an outage."""


@pytest.fixture(scope="module", params=[Full, Crowded])
def site(request, database):
    site = request.param(database, Daphne, Uvicorn)
    yield site
    site.stop()


def kept(site, group):
    """The texts that Redis keeps, in order."""
    with redis.Redis.from_url(site.valkey.url) as client:
        items = client.lrange(keys_of(group_key(group))[1], 0, -1)
    return [json.loads(open_item(msgpack.unpackb(item)).payload)["text"] for item in items]


class Story:
    """Some are published to one group, by both processes at once; readers come and go."""

    def __init__(self, site, seed):
        self.site = site
        self.rng = random.Random(seed)
        self.group = f"room:{type(site).__name__}-{seed}"
        self.said = 0
        #: Position -> text, and the texts that were refused.
        self.told, self.refused = {}, []
        self.readers = [Reader(self.group) for _ in range(READERS)]

    async def play(self):
        publishers = [await Client.open(server) for server in self.site.servers]
        try:
            await self.publish(publishers)
            for _ in range(STEPS):
                full = self.rng.random() < 0.5
                await asyncio.to_thread(self.site.limit, int(full))
                await self.move(self.rng.choice(self.readers), comes=not full)
                await self.publish(publishers)
            await asyncio.to_thread(self.site.limit, 0)
            await self.settle(publishers)
        finally:
            await asyncio.to_thread(self.site.limit, 0)
            for client in (*publishers, *self.readers):
                await (client.go() if isinstance(client, Reader) else client.close())

    async def move(self, reader, comes):
        if reader.is_there:
            await reader.go(abort=self.rng.random() < 0.5)
        elif comes:
            await reader.come(lambda: self.rng.choice(self.site.servers))

    async def publish(self, publishers, most=2 * QUEUE):
        await asyncio.gather(*(self.say(one, self.rng.randint(1, most)) for one in publishers))

    async def say(self, publisher, count):
        texts = [f"m{self.said + number}" for number in range(count)]
        self.said += count
        positions, _ = await publisher.ask("attempt", self.group, texts)
        for position, text in zip(positions, texts, strict=True):
            if position is None:
                self.refused.append(text)
            else:
                assert self.told.setdefault(tuple(position[:2]), text) == text

    async def settle(self, publishers):
        """Everybody comes back, and has exactly what was taken."""
        refused = len(self.refused)
        await self.publish(publishers, most=1)
        assert len(self.refused) == refused, "there is room again"
        for reader in self.readers:
            if not reader.is_there:
                await reader.come(lambda: self.rng.choice(self.site.servers))
        last = max(self.told)
        for reader in self.readers:
            await until(lambda reader=reader: reader.at == last)
            assert reader.got == self.told
            assert reader.jumps == reader.refusals == [] and not reader.gaps
        taken = [self.told[position] for position in sorted(self.told)]
        assert await asyncio.to_thread(kept, self.site, self.group) == taken
        assert not set(self.refused) & set(taken) and len({epoch for epoch, _ in self.told}) == 1


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_is_refused_as_something_is_full_is_told_and_the_rest_is_whole(site, seed):
    story = Story(site, seed)
    try:
        await story.play()
    except BaseException as error:
        error.add_note(f"seed {seed}: {len(story.told)} told, {len(story.refused)} refused")
        raise
    if isinstance(site, Full):
        assert story.refused
