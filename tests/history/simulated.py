"""
What is around the processes of a simulation: a clock that is not the real one, a Redis, and each
process's connections to it, for commands and for subscriptions, which may be slow or cut.
"""

import asyncio
import contextlib
import copy
import selectors
from collections import defaultdict, deque

from redis.exceptions import ResponseError

from filtered_websocket.history.base import Position, find_range, new_epoch
from filtered_websocket.history.memory import MemoryHistory
from filtered_websocket.layer.envelope import group_key

NAME = "room"
KEY = group_key(NAME)


class Selector(selectors.SelectSelector):
    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen")
        if not ready:
            self.loop.now += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Where all wait, its clock goes on to the next timer."""

    def __init__(self):
        self.now = 0.0
        selector = Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        return self.now


class Redis:
    """The store and pub/sub of one Redis, and of a replica that may take its place."""

    def __init__(self, world, publishes):
        self.world = world
        self.publishes = publishes
        self.loop = world.loop
        self.memory = MemoryHistory(clock=self.loop.time)
        #: (epoch, offset) -> item, of all that was ever appended; and the places of a payload.
        self.log = {}
        self.places = defaultdict(list)
        #: The payloads that were appended, and not lost by a failover or a restart.
        self.line = []
        self.copy = None
        self.is_down = False
        #: It takes nothing more, as its memory is full; or it answers no question.
        self.is_full = self.is_unreadable = False
        self.subscribers = []
        #: How often another server has taken its place: nothing that was on its way arrives.
        self.server = 0

    def position(self):
        return self.memory._find(KEY, self.loop.time()).position

    def append(self, batch, retention, key):
        if self.is_full:
            raise ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        found = []
        before = self.position()
        self.memory.append(batch, retention, found.append, key)
        [answer] = found
        top = self.position()
        if top.offset == before.offset:
            return answer
        assert top.epoch == before.epoch and top.offset == before.offset + len(batch.items)
        for offset, item in enumerate(batch.items, before.offset + 1):
            assert (top.epoch, offset) not in self.log
            assert item.payload not in self.line, f"{item.payload} is appended twice"
            self.log[top.epoch, offset] = item
            self.places[item.payload].append(top._replace(offset=offset))
            self.line.append(item.payload)
        if self.publishes:
            self.publish(batch._replace(epoch=top.epoch, first=before.offset + 1))
        return answer

    def append_late(self, server, *call):
        """What nobody waits for any more."""
        if server == self.server:
            with contextlib.suppress(ResponseError):
                self.append(*call)

    def publish(self, batch):
        for subscriber in self.subscribers:
            subscriber.send(batch)

    def keeps(self, since):
        """Whether all since there is kept now."""
        state = self.memory._find(KEY, self.loop.time())
        return find_range(state.position, len(state.publications), since, None, False) is not None

    def replicate(self):
        self.position()
        self.copy = copy.deepcopy(self.memory._groups[KEY]), list(self.line)

    def fail_over(self):
        """A replica that has got less takes its place: the run_id is another one."""
        if self.copy is not None:
            self.server += 1
            state, line = copy.deepcopy(self.copy)
            state.epoch = new_epoch()
            state.due = float("inf")
            self.memory = MemoryHistory(clock=self.loop.time)
            self.memory._groups[KEY] = state
            if state.publications:
                self.memory._filled[KEY] = state
            elif not state.top:
                self.memory._empty[KEY] = state
            self.line = line
            # What it has is there in the new epoch, too.
            for offset, item in state.publications:
                self.log[state.epoch, offset] = item
                self.places[item.payload].append(Position(state.epoch, offset))

    def restart_empty(self):
        self.server += 1
        self.memory = MemoryHistory(clock=self.loop.time)
        self.line, self.copy = [], None


class Store:
    """The store as one process sees it: over a connection that may be slow or cut."""

    def __init__(self, process, redis):
        self.redis = redis
        self.process = process
        self.publishes = redis.publishes
        self.reads = 0
        self.order = asyncio.Lock()

    async def close(self):
        pass

    async def _trip(self):
        world = self.process.world
        if world.random.random() < 0.5:
            await asyncio.sleep(world.random.choice([0.001, 0.003, 0.01, world.answer_delay]))
        if self.redis.is_down:
            raise ConnectionError("away")

    def append(self, batch, retention, on_done, idempotency_key=""):
        self.process.spawn(self._append(batch, retention, on_done, idempotency_key))

    async def _append(self, batch, retention, on_done, key):
        world = self.process.world
        try:
            await self._trip()
            if world.happens(world.lost_answers):
                # Redis may run it at once, or much later than the process has given it up.
                late = world.random.choice([0, 3])
                world.loop.call_later(
                    late, self.redis.append_late, self.redis.server, batch, retention, key
                )
                raise ConnectionError("the answer was lost")
            answer = self.redis.append(batch, retention, key)
            await self._trip()
        except (ConnectionError, ResponseError) as error:
            answer = error
        on_done(answer)

    async def read(self, key, since=None, limit=None, reverse=False):
        self.reads += 1
        # One connection answers in order; after it was cut, another one may be faster.
        order = contextlib.nullcontext() if self.process.world.is_faulty else self.order
        async with order:
            return await self._read(key, since, limit, reverse)

    async def _read(self, key, since, limit, reverse):
        await self._trip()
        if self.redis.is_unreadable:
            raise ResponseError("WRONGTYPE")
        page = await self.redis.memory.read(key, since, limit, reverse)
        await self._trip()
        return page

    async def tops(self, keys):
        await self._trip()
        tops = await self.redis.memory.tops(keys)
        await self._trip()
        return tops


class Link:
    """The link of one process: its connection for subscriptions is a queue with delays."""

    is_lossless = False

    def __init__(self, process, redis):
        self.process, self.redis = process, redis
        self.random = process.world.random
        self.joined = self.wanted = self.late = False
        self.queue = deque()
        self.is_lost = False
        self.available = asyncio.Event()
        self.available.set()
        self.change = asyncio.Event()
        self.generation = 0

    @property
    def is_available(self):
        return not self.is_lost

    def want(self, key):
        self.wanted = True
        self.process.spawn(self._subscribe(self.generation))

    def unwant(self, key):
        self.wanted = self.joined = self.late = False
        self.generation += 1
        self.queue.clear()
        self.unsubscribe()

    def unsubscribe(self):
        self.redis.subscribers = [one for one in self.redis.subscribers if one is not self]

    async def _subscribe(self, generation):
        await asyncio.sleep(self.random.choice([0, 0.01, 0.3]))
        if self.redis.is_down or not self.wanted or generation != self.generation:
            return
        if self not in self.redis.subscribers:
            self.redis.subscribers.append(self)
        await asyncio.sleep(self.random.choice([0, 0.01]))
        if self.wanted and generation == self.generation:
            self.joined = True
            self.change.set()
            self.change = asyncio.Event()
            if self.late:
                self.late = False
                self.process.groups.joined_late(KEY)

    def is_joined(self, key):
        return self.joined

    async def wait_joined(self, key):
        change = self.change
        if not self.joined:
            try:
                async with asyncio.timeout(self.process.world.join_limit):
                    await change.wait()
            except TimeoutError:
                pass
        if not self.joined:
            self.late = self.wanted
        return self.joined

    def send(self, batch):
        """From Redis to this process, in order, maybe late."""
        self.queue.append(batch)
        self.process.spawn(self._arrive(self.generation))

    async def _arrive(self, generation):
        await asyncio.sleep(self.random.choice([0, 0, 0.01, self.process.slow]))
        if generation == self.generation and self.queue:
            batch = self.queue.popleft()
            if not self.process.world.happens(self.process.world.losses):
                self.process.groups.deliver(batch)

    def post(self, batch, on_sent):
        self.process.spawn(self._post(batch, on_sent))

    async def _post(self, batch, on_sent):
        await asyncio.sleep(self.random.choice([0, 0.01, 0.05]))
        if self.redis.is_down:
            self.note_lost(ConnectionError("away"))
            on_sent(ConnectionError("away"))
            return
        self.redis.publish(batch)
        on_sent(None)

    def cut(self):
        """The connection for subscriptions is lost, and all that is on its way."""
        self.unsubscribe()
        self.queue.clear()
        self.joined = False
        self.generation += 1
        self.note_lost(ConnectionError("cut"))

    def note_lost(self, error):
        if not self.is_lost:
            self.is_lost = True
            self.available.clear()
            self.process.spawn(self._come_back())

    async def _come_back(self):
        while True:
            await asyncio.sleep(self.random.choice([0.1, 1]))
            if self.redis.is_down:
                continue
            if self.wanted and not self.joined:
                await self._subscribe(self.generation)
            if not self.wanted or self.joined:
                break
        self.is_lost = False
        self.available.set()
        self.process.groups.layer_back()

    async def wait_available(self, deadline):
        try:
            async with asyncio.timeout(0.1):
                await self.available.wait()
        except TimeoutError:
            pass
        return not self.is_lost
