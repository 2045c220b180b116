"""A history store with all that can happen to it, and what it must keep through that."""

import asyncio
import copy
import itertools
import random
from contextlib import suppress

from filtered_websocket.history.base import (
    EMPTY_TTL,
    POSITION_TTL,
    REMEMBERED,
    Position,
    Retention,
    StaleBatch,
)
from filtered_websocket.history.scripts import Renewals
from filtered_websocket.layer.envelope import Batch, Stamper, group_key
from filtered_websocket.publishing.items import new_item

KEY = group_key("room")
RETENTION = Retention(5, 60.0)


def append(store, batch, retention=RETENTION, key=""):
    """A future of the position; for a store that answers later."""
    done = asyncio.get_running_loop().create_future()

    def on_done(answer):
        if isinstance(answer, Exception):
            done.set_exception(answer)
        else:
            done.set_result(answer)

    store.append(batch, retention, on_done, key)
    return done


def batch_of(*messages, origin="o", number=0, key=KEY):
    return Batch(origin, key, number, [new_item(message) for message in messages])


def texts(page):
    return [publication.data.decode() for publication in page.publications]


class Model:
    """What a store of one group must answer, in the plainest form."""

    def __init__(self):
        #: None: another one than all before, which the next answer tells.
        self.epoch = None
        self.top = 0
        #: Offset -> text.
        self.kept = {}
        #: What each origin sent last: number, position, end. Each idempotency key: position, end.
        self.last = {}
        self.keys = {}
        #: When what is kept expires, and when an epoch without publications does.
        self.ends = self.empty_until = 0.0

    def move_to(self, now):
        self.last = {name: entry for name, entry in self.last.items() if entry[-1] > now}
        self.keys = {name: entry for name, entry in self.keys.items() if entry[-1] > now}
        if self.ends <= now:
            self.kept.clear()
        if not self.top and self.empty_until <= now:
            self.epoch = None

    def append(self, batch, key, now):
        """The offset that is answered, and whether it is a new one."""
        if batch.origin in self.last and batch.first <= self.last[batch.origin][0]:
            number, position, _ = self.last[batch.origin]
            return (position if batch.first == number else None), False
        if key in self.keys:
            position = self.keys[key][0]._replace(repeated=True)
            self.last[batch.origin] = batch.first, position, now + REMEMBERED
            return position, False
        self.ends = now + RETENTION.ttl
        for item in batch.items:
            self.top += 1
            self.kept[self.top] = item.payload.decode()
        for offset in sorted(self.kept)[: -RETENTION.size]:
            del self.kept[offset]
        return Position(self.epoch, self.top), True

    def page(self, since, limit, reverse):
        """The texts of a page, or None."""
        wanted = range(1, self.top + 1)
        begins = min(self.kept, default=self.top + 1) if not reverse else self.top
        if since is not None:
            if since.epoch not in ("", self.epoch) or since.offset not in range(self.top + 1):
                return None
            if reverse:
                wanted, begins = range(1, since.offset), since.offset - 1
            else:
                wanted, begins = range(since.offset + 1, self.top + 1), since.offset + 1
            if wanted and begins not in self.kept:
                return None
        offsets = [offset for offset in wanted if offset in self.kept]
        return [self.kept[offset] for offset in offsets[:: -1 if reverse else 1]][:limit]


class Reader:
    """Who comes and goes, and knows nothing but a position."""

    def __init__(self):
        self.position = None
        self.knows = 0


class World:
    """One group of a store; ``happen`` does one random thing, and checks the answers."""

    def __init__(self, store, seed):
        self.store = store
        self.random = random.Random(seed)
        self.model = Model()
        self.epochs = set()
        #: All that was ever appended, whether it is still kept or not.
        self.published = []
        self.readers = [Reader() for _ in range(4)]
        # More than those whose last batches Redis has beside the position.
        self.stampers = [Stamper() for _ in range(6)]
        self.sent = []
        self.numbers = itertools.count()
        self.recovered = self.told = 0

    now = 0.0

    def told_epoch(self, epoch):
        if self.model.epoch is None:
            assert epoch and epoch not in self.epochs, "an epoch has come back"
            self.model.epoch = epoch
            self.epochs.add(epoch)
        assert epoch == self.model.epoch
        self.model.empty_until = self.now + EMPTY_TTL

    async def happen(self):
        kinds = [self.publish] * 12 + [self.come_back] * 16 + [self.look] * 8
        kinds += [self.repeat] * 4 + [self.use_key] * 2 + self.events
        await self.random.choice(kinds)()

    async def publish(self, key=""):
        count = 1 if key else self.random.choice([1, 1, 2, 3, 7])
        messages = [f"{next(self.numbers)}" for _ in range(count)]
        items = [new_item(message) for message in messages]
        await self.send(self.random.choice(self.stampers).stamp(KEY, items), key)

    async def use_key(self):
        await self.publish(self.random.choice("abc"))

    async def repeat(self):
        """Its answer was lost; or it is a copy that was on its way for long."""
        if self.sent:
            await self.send(*self.random.choice(self.sent[-4:]))

    async def send(self, batch, key):
        self.sent.append((batch, key))
        expected, is_new = self.model.append(batch, key, self.now)
        try:
            answer = await append(self.store, batch, key=key)
        except StaleBatch:
            assert expected is None
            return
        if is_new:
            self.told_epoch(answer.epoch)
            expected = expected._replace(epoch=answer.epoch)
            self.model.last[batch.origin] = batch.first, expected, self.now + REMEMBERED
            if key:
                self.model.keys[key] = expected, self.now + REMEMBERED
            self.published += [item.payload.decode() for item in batch.items]
        assert answer == expected

    async def come_back(self):
        """Everything since, in order, once; or it is told."""
        reader = self.random.choice(self.readers)
        page = await self.store.read(KEY, since=reader.position)
        self.told_epoch(page.position.epoch)
        if reader.position is not None:
            if page.recovered:
                assert texts(page) == self.published[reader.knows :]
                self.recovered += 1
            else:
                assert page.publications == []
                self.told += 1
        reader.position, reader.knows = page.position, len(self.published)

    async def look(self):
        """Anything may be asked for."""
        pick = self.random
        epoch = pick.choice([self.model.epoch or "", "", "other"])
        offset = pick.choice([-1, 0, 1, self.model.top, self.model.top + 1, 2**70])
        offset = pick.choice([offset, *range(max(0, self.model.top - 8), self.model.top + 1)])
        since = pick.choice([None, Position(epoch, offset)])
        limit, reverse = pick.choice([None, 0, 1, 2, 9]), pick.random() < 0.5
        # The epoch may be told only now.
        [top] = (await self.store.tops([KEY])).values()
        self.told_epoch(top.epoch)
        page = await self.store.read(KEY, since, limit, reverse)
        expected = self.model.page(since, limit, reverse)
        assert page.position == top == Position(self.model.epoch, self.model.top)
        assert (texts(page) if page.recovered else None) == expected, (since, limit, reverse)
        for publication in page.publications:
            assert self.model.kept[publication.offset] == publication.data.decode()

    def change_epoch(self):
        self.model.epoch = None

    async def forget(self):
        # What knows no epoch yet has nothing to forget.
        [top] = (await self.store.tops([KEY])).values()
        self.told_epoch(top.epoch)
        await self.store.forget(KEY)
        self.model.kept.clear()
        self.change_epoch()


class MemoryWorld(World):
    def __init__(self, store, clock, seed):
        super().__init__(store, seed)
        self.clock = clock
        self.events = [self.forget, self.wait_a_little, self.wait, self.expire, self.expire_all]

    @property
    def now(self):
        return self.clock.now

    async def wait_a_little(self):
        self.clock.now += self.random.choice([1, 20])
        self.model.move_to(self.now)

    async def wait(self):
        """As long as a group is known in which nothing is published."""
        self.clock.now += EMPTY_TTL
        self.model.move_to(self.now)

    async def expire(self):
        self.clock.now += RETENTION.ttl
        self.model.move_to(self.now)

    async def expire_all(self):
        self.clock.now += 1e9
        self.model = Model()


class RedisWorld(World):
    def __init__(self, store, client, seed):
        super().__init__(store, seed)
        self.client = client
        self.copy = None
        self.names = "fws:{" + KEY.partition(".g.")[2] + "}:"
        self.events = [
            self.forget,
            self.expire,
            self.lose_position,
            self.lose_all,
            self.forget_scripts,
            self.replicate,
            self.replicate,
            self.fail_over,
            self.fail_over,
        ]

    async def expire(self):
        if self.random.random() < 0.5:
            self.client.delete(self.names + "h")
        else:
            # Redis has not freed it yet. Whoever publishes then has not done so for long.
            self.client.pexpire(self.names + "m", POSITION_TTL * 1000)
            self.store.renewals = Renewals()
        self.model.kept.clear()

    async def lose_position(self):
        meta = self.client.get(self.names + "m") or b""
        for at in range(44, len(meta), 49):
            self.model.last.pop(meta[at : at + 16].decode(), None)
        self.client.delete(self.names + "m")
        self.model.kept.clear()
        self.model.top = 0
        self.change_epoch()

    async def lose_all(self):
        """As a Redis that starts again and has kept nothing."""
        self.client.flushall()
        self.model = Model()

    async def forget_scripts(self):
        self.client.script_flush()

    async def replicate(self):
        """A replica has got all until now."""
        names = list(self.client.scan_iter())
        dump = {name: (self.client.pttl(name), self.client.dump(name)) for name in names}
        self.copy = dump, copy.deepcopy(self.model)

    async def fail_over(self):
        """The replica is the master, whatever it has not got."""
        if self.copy is not None:
            dump, model = self.copy
            self.client.flushall()
            for name, (left, value) in dump.items():
                self.client.restore(name, left, value)
            self.model = copy.deepcopy(model)
            self.change_epoch()
            _, commands = self.store._find(KEY)
            with suppress(AttributeError):  # before the first command
                commands._connection.run_id = f"{self.random.getrandbits(160):040x}"
