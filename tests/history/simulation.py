"""
Some processes, their clients and a store, all in one event loop whose clock is not the real
one: thousands of schedules of faults in seconds.

Real are the groups, feeds, lines, chains and publish queues of each process. Simulated are
Redis, the connections to it, and the sockets.
"""

import asyncio
import copy
import itertools
import random
import selectors
from collections import Counter, deque
from types import SimpleNamespace

from filtered_websocket import WebSocketGroupFilter, current
from filtered_websocket.chains.chain import Chain
from filtered_websocket.chains.delivery import Delivery
from filtered_websocket.connections.subscription import Subscription
from filtered_websocket.groups import History, group
from filtered_websocket.history.base import Position, Retention, find_range, new_epoch
from filtered_websocket.history.feeds import Feeds
from filtered_websocket.history.memory import MemoryHistory
from filtered_websocket.hub.groups import Groups
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.presence.of_hub import HubPresence
from filtered_websocket.publishing.batches import Keep
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.queue import PublishQueue
from filtered_websocket.threads.budget import Budget
from filtered_websocket.threads.tasks import Tasks

from ..connections.test_connection import message_filter

NAME = "room"
KEY = group_key(NAME)
SIZE = 30
KEEP = Keep(Retention(SIZE, 1000.0))


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
        #: (epoch, offset) -> payload, of all that was ever appended.
        self.log = {}
        self.copies = []
        self.is_down = False
        self.subscribers = []

    def position(self):
        return self.memory._find(KEY, self.loop.time()).position

    def append(self, batch, retention, key):
        found = []
        before = self.position()
        self.memory.append(batch, retention, found.append, key)
        [answer] = found
        top = self.position()
        if top.offset > before.offset:
            for offset, item in enumerate(batch.items, before.offset + 1):
                assert (top.epoch, offset) not in self.log
                self.log[top.epoch, offset] = item.payload
        if self.publishes and top.offset > before.offset:
            placed = batch._replace(epoch=top.epoch, first=before.offset + 1)
            self.publish(placed)
        return answer

    def publish(self, batch):
        for subscriber in self.subscribers:
            subscriber.send(batch)

    def keeps(self, since):
        """Whether all since there is kept now."""
        state = self.memory._find(KEY, self.loop.time())
        return find_range(state.position, len(state.publications), since, None, False) is not None

    def replicate(self):
        self.copies = (
            [copy.deepcopy(self.memory._groups[KEY])] if KEY in self.memory._groups else []
        )

    def fail_over(self):
        """A replica that has got less takes its place: the run_id is another one."""
        for state in self.copies:
            now = copy.deepcopy(state)
            now.epoch = new_epoch()
            self.memory._groups[KEY] = self.memory._filled[KEY] = now
            now.due = float("inf")


class Store:
    """The store as one process sees it: over a connection that may be slow or cut."""

    def __init__(self, process, redis):
        self.redis = redis
        self.process = process
        self.publishes = redis.publishes
        self.reads = 0

    async def _trip(self):
        world = self.process.world
        if world.random.random() < 0.5:
            await asyncio.sleep(world.random.choice([0.001, 0.003, 0.01, 0.1]))
        if self.redis.is_down:
            raise ConnectionError("away")

    def append(self, batch, retention, on_done, idempotency_key=""):
        self.process.spawn(self._append(batch, retention, on_done, idempotency_key))

    async def _append(self, batch, retention, on_done, key):
        try:
            await self._trip()
            answer = self.redis.append(batch, retention, key)
            await self._trip()
        except ConnectionError as error:
            answer = error
        if self.process.world.random.random() < self.process.world.lost_answers:
            answer = ConnectionError("the answer was lost")
        on_done(answer)

    async def read(self, key, since=None, limit=None, reverse=False):
        self.reads += 1
        await self._trip()
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
        self.joined = False
        self.wanted = False
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
        self.wanted = self.joined = False
        self.redis.subscribers = [one for one in self.redis.subscribers if one is not self]

    async def _subscribe(self, generation):
        await asyncio.sleep(self.process.world.random.choice([0, 0.01, 0.3]))
        if self.redis.is_down or not self.wanted or generation != self.generation:
            return
        if self not in self.redis.subscribers:
            self.redis.subscribers.append(self)
        await asyncio.sleep(self.process.world.random.choice([0, 0.01]))
        if self.wanted and generation == self.generation:
            self.joined = True
            self.change.set()
            self.change = asyncio.Event()
            if self.late:
                self.late = False
                self.process.groups.joined_late(KEY)

    late = False

    def is_joined(self, key):
        return self.joined

    async def wait_joined(self, key):
        change = self.change
        if not self.joined:
            try:
                async with asyncio.timeout(5):
                    await change.wait()
            except TimeoutError:
                pass
        if not self.joined:
            self.late = True
        return self.joined

    def send(self, batch):
        """From Redis to this process, in order, maybe late."""
        self.queue.append(batch)
        self.process.spawn(self._arrive(self.generation))

    async def _arrive(self, generation):
        await asyncio.sleep(self.process.world.random.choice([0, 0, 0.01, self.process.slow]))
        if generation == self.generation and self.queue:
            batch = self.queue.popleft()
            if self.process.world.random.random() >= self.process.world.losses:
                self.process.groups.deliver(batch)

    def post(self, batch, on_sent):
        self.process.spawn(self._post(batch, on_sent))

    async def _post(self, batch, on_sent):
        await asyncio.sleep(self.process.world.random.choice([0, 0.01, 0.05]))
        if self.redis.is_down:
            self.note_lost(ConnectionError("away"))
            on_sent(ConnectionError("away"))
            return
        self.redis.publish(batch)
        on_sent(None)

    def cut(self):
        """The connection for subscriptions is lost, and all that is on its way."""
        self.redis.subscribers = [one for one in self.redis.subscribers if one is not self]
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
            await asyncio.sleep(self.process.world.random.choice([0.1, 1]))
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


class Transport:
    closed = None

    def __init__(self, client):
        self.client = client

    def write(self, frame, done=None):
        for part in frame.parts:
            self.client.heard(bytes(part.payload))


class Connection:
    """As much of a connection as the groups use."""

    last_groups = None
    closing = False

    def __init__(self, process, id):
        self.id = id
        self.process = process
        self.joined = set()
        self.asked = {}
        self.subscriptions = {}
        self.tasks = []

    def add_subscription(self, subscription):
        self.subscriptions[subscription.group] = subscription

    def remove_subscription(self, group):
        self.subscriptions.pop(group, None)

    def start_task(self, steps, name):
        task = self.process.spawn(steps)
        self.tasks.append(task)
        return task


def number(web_socket_instance, message):
    epoch, offset, _ = current.position
    return b"%s %d %s" % (epoch.encode(), offset, message)


async def slow_number(web_socket_instance, message):
    await asyncio.sleep(0.002)
    return number(web_socket_instance, message)


class Process:
    def __init__(self, world, kind):
        self.world = world
        self.loop = world.loop
        self.tasks_running = set()
        self.counts = Counter()
        self.tasks = Tasks(self.counts)
        self.backlog = Budget()
        self.is_slow = kind != "def"
        self.slow = 0.05
        self.connections = {}
        self.events = SimpleNamespace(gap=self.gap)
        self.link = Link(self, world.redis)
        self.store = Store(self, world.redis)
        self.feeds = Feeds(self, lambda link: self.store)
        self.groups = Groups(self)
        self.presence = HubPresence(self, self.groups.tell)
        self.failed = 0
        self.queue = PublishQueue(self.tasks, lambda: self.link, self.fail, self.feeds)
        filters = {
            "def": [message_filter(number, WebSocketGroupFilter)],
            "async": [message_filter(slow_number, WebSocketGroupFilter)],
        }["async" if self.is_slow else kind]
        self.pipeline = SimpleNamespace(
            group=Chain("group", filters, bytes_only=True),
            send=Chain("send", ()),
            codec=None,
            failed=self.filter_failed,
        )
        self.delivery = Delivery(self, self, self.pipeline)
        self.deliver = self.delivery.deliver
        self.deliver_run = self.delivery.deliver_run
        self.prepare = self.delivery.prepare

    def send_one(self, connection, contents):
        connection.client.answer(contents)

    def filter_failed(self, error, where):
        raise AssertionError(f"{where}: {error!r}") from error

    def fail(self, group, items, error):
        self.failed += 1

    def call(self, function, *args):
        function(*args)

    def spawn(self, steps):
        task = self.loop.create_task(steps)
        self.tasks_running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task):
        self.tasks_running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.world.errors.append(task.exception())

    def gap(self, group, origin, missed):
        self.world.gaps += 1
        for connection in self.connections.values():
            connection.client.gap()

    def publish(self):
        text = f"m{next(self.world.numbers)}"
        self.queue.put(NAME, new_item(text), None, KEEP)


class Client:
    """Comes and goes, and checks all that it gets."""

    def __init__(self, world, id):
        self.world = world
        self.id = id
        self.process = self.connection = None
        #: Where it is: what it heard last, or was told.
        self.position = None
        #: How often something may be missing between what it hears.
        self.may_jump = 0

    @property
    def is_here(self):
        return self.connection is not None

    def come(self, process, since):
        self.process = process
        connection = Connection(process, f"c{self.id}.{next(self.world.numbers)}")
        connection.client = self
        connection.transport = Transport(self)
        self.connection = process.connections[connection.id] = connection
        rule = group(NAME, history=History(SIZE, 1000))
        subscription = Subscription(NAME, {}, rule)
        subscription.since = since
        self.may_jump = int(since is None)
        joining = process.groups.join(connection, process, NAME, subscription)
        self.world.returns += since is not None
        process.spawn(self.joins(joining, connection, subscription, since))

    async def joins(self, joining, connection, subscription, since):
        joined = await joining
        if self.connection is connection and since is not None:
            assert joined == (subscription.recovery.position is not None)

    def answer(self, contents):
        """Called with what the groups send as the answer, before anything newer."""
        place = self.connection.subscriptions[NAME].position
        last = self.position
        self.may_jump = 0
        for content in contents:
            self.connection.transport.write(content)
        if place is None:
            self.world.unread += 1
            self.may_jump = 1
        elif self.position[:2] == place[:2]:
            self.world.recovered += 1
        else:
            # All or nothing, and nothing only where it is no longer kept.
            assert self.position == last, f"a part: {last} to {self.position}, not {place}"
            self.world.told += 1
            assert not self.world.redis.keeps(last), f"{last} is kept, and told as lost"
            self.position = place

    def heard(self, frame):
        epoch, offset, payload = frame.split(b" ", 2)
        place = Position(epoch.decode(), int(offset))
        assert self.world.redis.log[place[:2]] == payload
        last = self.position
        if last is not None and place[:2] != (last.epoch, last.offset + 1):
            assert self.may_jump, f"{last} then {place}"
            self.may_jump -= 1
        elif not self.process.is_slow:
            self.may_jump = 0
        self.position = place
        self.world.heard += 1

    def gap(self):
        # What waits for a slow chain comes after it was told.
        self.may_jump += 1

    def is_up_to_date(self):
        top = self.world.redis.position()
        return self.may_jump > 0 or self.position is None or self.position[:2] == top[:2]

    def go(self):
        connection, self.connection = self.connection, None
        self.process.groups.leave(connection, self.process, NAME)
        for task in connection.tasks:
            task.cancel()
        self.process.delivery.left(NAME)
        del self.process.connections[connection.id]
        self.may_jump = 0


class World:
    def __init__(self, loop, seed, publishes, kind, faults):
        self.loop = loop
        self.random = random.Random(seed)
        self.errors = []
        self.gaps = self.heard = self.recovered = self.told = self.unread = 0
        #: How many came with a position.
        self.returns = 0
        self.numbers = itertools.count()
        pick = self.random.choice
        self.lost_answers = pick([0, 0, 0.1])
        self.losses = pick([0, 0, 0.1])
        self.redis = Redis(self, publishes)
        self.processes = [Process(self, kind) for _ in range(2)]
        self.clients = [Client(self, number) for number in range(5)]
        self.happenings = [self.publish] * 8 + [self.come_or_go] * 8 + [self.wait] * 6
        if not faults:
            self.lost_answers = self.losses = 0
            return
        self.happenings += pick([[], [self.cut], [self.cut, self.go_down]])
        self.happenings += pick([[], [], [], [self.redis.replicate, self.redis.fail_over]])
        self.happenings += pick([[], [], [], [self.forget]])
        self.happenings += pick([[], [self.slow_down]])

    async def run(self, steps):
        for _ in range(steps):
            outcome = self.random.choice(self.happenings)()
            if outcome is not None:
                await outcome
        await self.settle()

    def publish(self):
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self.random.choice(self.processes).publish()

    def come_or_go(self):
        client = self.random.choice(self.clients)
        if client.connection is not None:
            client.go()
            return
        since = client.position if self.random.random() < 0.8 else None
        if since is None:
            client.position = None
        process = self.random.choice(self.processes)
        client.come(process, since)

    async def wait(self):
        await asyncio.sleep(self.random.choice([0, 0.001, 0.003, 0.01, 0.01, 0.1, 1]))

    def cut(self):
        self.random.choice(self.processes).link.cut()

    def go_down(self):
        self.redis.is_down = True
        for process in self.processes:
            process.link.cut()
        self.loop.call_later(self.random.choice([0.1, 2, 8]), self.come_up)

    def come_up(self):
        self.redis.is_down = False

    async def forget(self):
        await self.redis.memory.forget(KEY)

    def slow_down(self):
        self.random.choice(self.processes).slow = self.random.choice([0.01, 0.5, 3])

    async def settle(self):
        """No fault any more: after two comparisons all have everything."""
        self.losses = self.lost_answers = 0
        await asyncio.sleep(60)
        assert not self.errors, self.errors
        for client in self.clients:
            if client.connection is not None:
                top = self.redis.position()
                assert client.is_up_to_date(), f"{client.position} of {top}"
        for process in self.processes:
            assert process.queue.size == 0
            await process.feeds.stop()
            for task in tuple(process.tasks_running):
                task.cancel()
        await asyncio.sleep(1)


def simulate(seed, steps, publishes, kind, faults=True):
    """One schedule; returns what happened in it."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        world = World(loop, seed, publishes, kind, faults)
        loop.run_until_complete(world.run(steps))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return world
