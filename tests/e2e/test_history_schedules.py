"""
Processes and Redis are killed, stopped, ended and cut off at random, while clients come, go
and publish; what each client got and was told is compared with what Redis kept.
"""

import asyncio
import contextlib
import json
import random
import signal
import struct

import msgpack
import pytest
import redis

from filtered_websocket.history.scripts import keys_of
from filtered_websocket.layer.envelope import group_key, open_item

from ..waiting import MEASURED, limited, until
from .history_filters import SHORT
from .history_site import AWAY, Client, Reader, Site
from .processes import Daphne, Uvicorn
from .topologies import Pair

SEEDS, STEPS = (40, 40) if MEASURED else (3, 12)
READERS = 6


class Alone(Site):
    """Two processes on one Redis, which is empty after it was killed."""

    #: What happens to them, each as likely as the others.
    FAULTS = ("kill", "drain", "stop", "go_on", "cut_subscribers", "cut_publishers")
    FAULTS += ("restart_redis", "stop_redis")


class Watched(Site):
    """Two processes on a Redis whose replica takes its place when it is killed."""

    FAULTS = ("kill", "drain", "stop", "go_on", "cut_subscribers", "cut_publishers", "fail_over")

    def __init__(self, database, *kinds):
        self.pair = Pair()
        super().__init__(database, *kinds, hosts=[self.pair.host])

    def start_redis(self):
        return self.pair.master

    def stop_redis(self):
        self.pair.stop()

    @property
    def valkey(self):
        return self.pair.master


class Ledger:
    """What Redis has kept of two groups, in each of its lives."""

    def __init__(self, site, room, short):
        self._site = site
        self.room, self.short = self.groups = room, short
        #: Position -> text, of publications whose publisher was told the position.
        self.told = {group: {} for group in self.groups}
        #: The same of all, as far as Redis had them when it was last read.
        self.kept = {group: {} for group in self.groups}
        #: Epoch -> the last offset.
        self.tops = {}
        #: Epochs whose publications are lost.
        self.ended = set()

    def read(self, *, stops=False):
        """``stops`` has nobody write any more before, until Redis is killed."""
        with redis.Redis.from_url(self._site.valkey.url) as client:
            if stops:
                client.client_pause(3_600_000, all=False)
            for group in self.groups:
                meta, items = keys_of(group_key(group))
                position, kept = client.get(meta), client.lrange(items, 0, -1)
                if position is not None:
                    epoch, _, top = struct.unpack_from(">16s16sQ", position)
                    epoch = epoch.decode()
                    self.tops[epoch] = top
                    for offset, data in enumerate(kept, top - len(kept) + 1):
                        said = json.loads(open_item(msgpack.unpackb(data)).payload)
                        self.kept[group][epoch, offset] = said["text"]

    def end_life(self):
        """What was read last is lost, or not to be told from what is lost."""
        self.ended = set(self.tops)

    def check(self, reader):
        """
        What a reader was sent and told, against what was read last. What did not follow on
        the one before is among its jumps: so nothing else is missing.
        """
        for at, position in (*reader.jumps, *reader.refusals):
            assert self.is_lost(at, position, reader.group), f"{at}, and then {position}"
        told, kept = self.told[reader.group], self.kept[reader.group]
        assert all(kept[position] == text for position, text in told.items() if position in kept)
        for position, text in reader.got.items():
            assert kept.get(position, text) == told.get(position, text) == text, position
        if reader.group == self.room:
            assert told.keys() <= kept.keys() and reader.got.keys() <= kept.keys()
        texts = [(epoch, text) for (epoch, _), text in kept.items()]
        assert len(texts) == len(set(texts)), "appended twice"

    def is_lost(self, at, position, group):
        """Whether what follows on ``at`` is no longer kept."""
        epoch, offset = at
        if epoch in self.ended:
            return True
        top = self.tops[position[0]]
        return group == self.short and epoch in ("", position[0]) and top - SHORT > offset


class Schedule:
    """What happens to a site, at random."""

    def __init__(self, site, seed):
        self.site = site
        self.rng = random.Random(seed)
        self.ledger = Ledger(site, f"room:{seed}", f"short:{seed}")
        self.readers = [Reader(self.rng.choice(self.ledger.groups)) for _ in range(READERS)]
        self.coming = {}
        self.stopped = []
        #: Until there is another in its place.
        self.ended = None
        self.said = 0
        self.is_over = False
        self.done = []

    @property
    def running(self):
        away = [*self.stopped, self.ended]
        return [one for one in self.site.servers if one not in away]

    def pick(self):
        return self.rng.choice(self.running or self.site.servers)

    @property
    def published(self):
        return len(self.ledger.told[self.ledger.room])

    async def play(self):
        publishers = [asyncio.create_task(self.publish(place)) for place in range(2)]
        try:
            for _ in range(STEPS):
                # Somebody comes or goes as often as something breaks.
                action = self.rng.choice((*self.site.FAULTS, *["come", "go"] * 4))
                self.done.append(action)
                await getattr(self, action)()
                # Now and then only when so many more were published.
                wanted = self.published + self.rng.choice([0, 0, 1, 5, 20])
                await until(lambda wanted=wanted: self.published >= wanted)
            await self.settle(publishers)
        finally:
            for server in self.stopped:
                server.signal(signal.SIGCONT)
            for task in (*publishers, *self.coming.values()):
                task.cancel()
            await asyncio.wait([*publishers, *self.coming.values()])
            for reader in self.readers:
                await reader.go()

    async def publish(self, place):
        """To both groups, by the process in this place, again after it was killed."""
        rng = random.Random(self.rng.random())
        while not self.is_over:
            await until(lambda: self.site.servers[place] is not self.ended)
            with contextlib.suppress(*AWAY):
                client = await Client.open(self.site.servers[place])
                client.on_message = lambda message: None
                try:
                    while not self.is_over:
                        await self.say(client, self.ledger.room, rng.choice([1, 1, 3, 10]))
                        await self.say(client, self.ledger.short, rng.choice([1, 3]))
                        # Leaves the machine to a process that starts.
                        await asyncio.sleep(0.01)
                finally:
                    await client.close(abort=True)

    async def say(self, client, group, count):
        texts = [f"m{self.said + n}" for n in range(count)]
        self.said += count
        positions = await client.publish(group, *texts)
        told = self.ledger.told[group]
        for position, text in zip(positions, texts, strict=True):
            assert told.setdefault(position, text) == text, position
        return positions[-1]

    # Clients

    async def come(self):
        away = [one for one in self.readers if not one.is_there and one not in self.coming]
        if away:
            reader = self.rng.choice(away)
            self.coming[reader] = asyncio.create_task(self.come_again(reader))
            if self.rng.random() < 0.5:
                await self.has_come(reader)

    async def come_again(self, reader):
        await reader.go()
        await reader.come(self.pick)

    async def has_come(self, reader):
        await self.coming[reader]
        del self.coming[reader]

    async def go(self):
        """One that is there, or was about to come."""
        reader = self.rng.choice(self.readers)
        task = self.coming.pop(reader, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await reader.go(abort=self.rng.random() < 0.5)

    # Processes

    async def kill(self):
        await self.replace(signal.SIGKILL)

    async def drain(self):
        await self.replace(signal.SIGTERM)

    async def replace(self, number):
        place = self.rng.randrange(2)
        server = self.ended = self.site.servers[place]
        server.signal(number)
        if server in self.stopped:
            self.stopped.remove(server)
            server.signal(signal.SIGCONT)
        await asyncio.to_thread(server.wait)
        self.site.servers[place] = await asyncio.to_thread(self.site.make, type(server))
        self.ended = None

    async def stop(self):
        if len(self.running) > 1:
            self.stopped.append(self.pick())
            self.stopped[-1].signal(signal.SIGSTOP)

    async def go_on(self):
        if self.stopped:
            self.stopped.pop().signal(signal.SIGCONT)

    # Redis

    async def restart_redis(self):
        await self.end_life()
        self.site.valkey = await asyncio.to_thread(self.site.valkey.restart)

    async def fail_over(self):
        """What was published last has not come to the replica."""
        pair = self.site.pair
        await asyncio.to_thread(pair.part)
        lost = self.published + 20
        await until(lambda: self.published >= lost)
        await self.end_life()
        await asyncio.to_thread(pair.fail_over)

    async def end_life(self):
        """Nothing is written to Redis from here on, until it is killed."""
        await asyncio.to_thread(self.ledger.read, stops=True)
        for reader in self.readers:
            self.ledger.check(reader)
        self.ledger.end_life()

    async def stop_redis(self):
        server = self.pick()
        self.site.valkey.signal(signal.SIGSTOP)
        try:
            if self.rng.random() < 0.3:
                await until(lambda: has_lost_layer(server))
        finally:
            self.site.valkey.signal(signal.SIGCONT)

    async def cut_subscribers(self):
        await asyncio.to_thread(self.site.do, "CLIENT", "KILL", "TYPE", "pubsub")

    async def cut_publishers(self):
        await asyncio.to_thread(self.site.do, "CLIENT", "KILL", "TYPE", "normal")

    # The end

    async def settle(self, publishers):
        """Everyone comes back, and has the last word of the group."""
        while self.stopped:
            await self.go_on()
        self.is_over = True
        async with limited():
            await asyncio.gather(*publishers)
        for reader in self.readers:
            if reader in self.coming:
                await self.has_come(reader)
            if not reader.is_there:
                await self.come_again(reader)
        last = await self.last_words()
        for reader in self.readers:
            await until(lambda reader=reader: reader.at == last[reader.group])
            await until(lambda reader=reader: reader.gaps >= reader.jumped)
        await asyncio.to_thread(self.ledger.read)
        for reader in self.readers:
            self.ledger.check(reader)

    async def last_words(self):
        """The last position of each group."""
        while True:
            with contextlib.suppress(*AWAY):
                client = await Client.open(self.pick())
                client.on_message = lambda message: None
                try:
                    return {group: await self.say(client, group, 1) for group in self.ledger.groups}
                finally:
                    await client.close()


def has_lost_layer(server):
    """It says it once for each outage, which may have begun before anybody asks."""
    said = server.output
    return said.rfind("layer_lost") > said.rfind("layer_back")


@pytest.fixture(scope="module", params=[Alone, *([Watched] if MEASURED else [])])
def site(request, database):
    site = request.param(database, Daphne, Uvicorn)
    yield site
    site.stop()


@pytest.mark.promise
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_after_a_random_schedule_everyone_has_all_in_order_once_or_was_told(site, seed):
    schedule = Schedule(site, seed)
    try:
        await schedule.play()
    except BaseException as error:
        error.add_note(f"seed {seed}: {', '.join(schedule.done)}")
        for reader in schedule.readers:
            error.add_note(f"{vars(reader) | {'got': list(reader.got)[-5:]}}")
        raise
