"""
Some processes, their clients and a store, all in one event loop whose clock is not the real
one: thousands of schedules of faults in seconds.

Real are the groups, feeds, lines, chains and publish queues of each process. Simulated are
Redis, the connections to it, and the sockets. Each client knows where it is, and checks every
message, answer and gap against all that was ever appended.
"""

import asyncio
import contextvars
import functools
import itertools
import random
from collections import Counter
from types import SimpleNamespace

from filtered_websocket import Drop, WebSocketGroupFilter, WebSocketSendFilter, current
from filtered_websocket.chains.chain import Chain
from filtered_websocket.chains.delivery import Delivery
from filtered_websocket.connections.subscription import Subscription
from filtered_websocket.exceptions import PublishError
from filtered_websocket.groups import History, group
from filtered_websocket.history import feeds
from filtered_websocket.history.base import Position, Retention
from filtered_websocket.history.feeds import Feeds
from filtered_websocket.history.lines import MAX_ASKED
from filtered_websocket.hub.groups import Groups
from filtered_websocket.layer.envelope import EXCLUDE
from filtered_websocket.presence.of_hub import HubPresence
from filtered_websocket.publishing.batches import Keep
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.queue import PublishQueue
from filtered_websocket.threads.budget import Budget
from filtered_websocket.threads.tasks import Tasks

from ..connections.test_connection import message_filter
from .simulated import KEY, NAME, Link, Redis, Store, VirtualLoop

SIZE = 30
#: Seconds within which all have everything once the faults are over, where nothing is compared
#: from time to time: what has come shows what has not.
PROMPT = 10.0
#: What a filter drops for all.
HIDDEN = b"hidden"
#: A send filter drops about every third message for a client, and other ones for another.
SHARES = 3


def told(check):
    """A check whose failure is told at the end of the step, whoever catches it."""

    @functools.wraps(check)
    def checked(self, *args):
        try:
            check(self, *args)
        except Exception as error:
            self.world.errors.append(error)
            raise

    return checked


class Transport:
    closed = None
    unsent = 0

    def __init__(self, client):
        self.client = client

    def hold(self):
        """What is written leaves at once, held or not."""

    release = hold

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
        self.context = contextvars.Context()
        self.joined = set()
        self.asked = {}
        self.subscriptions = {}
        self.tasks = []

    def add_subscription(self, subscription):
        self.subscriptions[subscription.group] = subscription
        return subscription

    def remove_subscription(self, group):
        return self.subscriptions.pop(group, None)

    def start_task(self, steps, name):
        task = self.process.spawn(steps)
        self.tasks.append(task)
        return task


class Asking(Subscription):
    """Knows how often the latest of its joins has read the history."""

    async def recover(self, joiner, read, since):
        self.reads = reads = []

        def counted(since):
            reads.append(None)
            return read(since)

        return await super().recover(joiner, counted, since)

    @property
    def may_give_up(self):
        return len(self.reads) == MAX_ASKED


def number(web_socket_instance, message):
    if HIDDEN in message:
        raise Drop
    epoch, offset, _ = current.position
    return b"%s %d %s" % (epoch.encode(), offset, message)


async def slow_number(web_socket_instance, message):
    await asyncio.sleep(0.002)
    return number(web_socket_instance, message)


def is_for(client, payload):
    """Whether the send filter lets a client have it."""
    return (int(payload.split()[1]) + client.id) % SHARES > 0


def send(web_socket_instance, message):
    client = web_socket_instance.client
    if not is_for(client, message.split(b" ", 2)[2]):
        client.world.hidden += 1
        raise Drop
    assert message.startswith(b"%s %d " % (current.position[0].encode(), current.position[1]))


async def slow_send(web_socket_instance, message):
    await asyncio.sleep(0.002)
    return send(web_socket_instance, message)


NUMBER, SLOW_NUMBER = (message_filter(one, WebSocketGroupFilter) for one in (number, slow_number))
SEND, SLOW_SEND = (message_filter(one, WebSocketSendFilter) for one in (send, slow_send))
#: The filters of the group chain, and those of the send chain.
FILTERS = {
    "plain": ([], []),
    "def": ([NUMBER], []),
    "async": ([SLOW_NUMBER], []),
    "send": ([NUMBER], [SEND]),
    "async and send": ([SLOW_NUMBER], [SEND]),
    "async send": ([NUMBER], [SLOW_SEND]),
}


class Process:
    def __init__(self, world, kind):
        self.world = world
        self.id = next(world.numbers)
        self.loop = world.loop
        self.tasks_running = set()
        self.counts = Counter()
        self.tasks = Tasks(self.counts)
        self.backlog = Budget()
        #: Whether messages wait for a chain, while it is told that others are lost.
        self.is_slow = "async" in kind
        group_filters, send_filters = FILTERS[kind]
        self.slow = 0.05
        self.connections = {}
        self.events = SimpleNamespace(gap=self.gap)
        self.link = Link(self, world.redis)
        self.store = Store(self, world.redis)
        self.feeds = Feeds(self, lambda link: self.store)
        self.groups = Groups(self)
        self.presence = HubPresence(self, self.groups.tell)
        self.queue = PublishQueue(self.tasks, lambda: self.link, self.fail, self.feeds)
        self.pipeline = SimpleNamespace(
            group=Chain("group", group_filters, bytes_only=True),
            send=Chain("send", send_filters),
            codec=None,
            protocol=None,
            failed=self.filter_failed,
        )
        self.delivery = Delivery(self, self, self.pipeline)
        self.pushes = None
        self.deliver = self.delivery.deliver
        self.deliver_run = self.delivery.deliver_run
        self.prepare = self.delivery.prepare
        self.drop_unsent = self.delivery.drop_unsent

    def send_one(self, connection, contents):
        connection.client.answer(contents)
        return True

    def filter_failed(self, error, where):
        raise AssertionError(f"{where}: {error!r}") from error

    def dropped(self, error, where):
        pass

    def fail(self, group, items, error):
        raise AssertionError("all publishers wait") from error

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

    @property
    def position(self):
        found = self.groups._by_name.get(NAME)
        return None if found is None or found.feed is None else found.feed.position

    @told
    def gap(self, group, origin, missed):
        self.world.gaps += 1
        lost = self.position
        if not (self.is_slow or lost is None or self.world.may_skip):
            assert not self.world.redis.keeps(lost), f"{lost} is kept, and told as lost"
        for connection in self.connections.values():
            connection.client.jumps += 1

    def publish(self, may_repeat=True):
        random = self.world.random
        words = [f"{self.id}", f"{next(self.world.numbers)}"]
        if random.random() < 0.1:
            words.append(HIDDEN.decode())
        here = list(self.connections)
        exclude = [random.choice(here)] if here and random.random() < 0.2 else []
        key = ""
        if may_repeat and random.random() < 0.1:
            key = random.choice("ab")
        item = new_item(" ".join(words), exclude=exclude)
        done = self.loop.create_future()
        keep = Keep(self.world.retention, key)
        self.queue.put(NAME, item, done, keep)
        self.world.publishes.append((self, item, key, done))

    async def end(self):
        for client in [connection.client for connection in self.connections.values()]:
            client.go()
        await self.feeds.stop()
        for task in tuple(self.tasks_running):
            task.cancel()
        self.link.unwant(None)
        self.link.generation += 1
        self.link.is_lost = False


class Client:
    """Comes and goes, and checks all that it gets."""

    def __init__(self, world, id):
        self.world = world
        self.id = id
        self.process = self.connection = None
        #: Where it is: what it heard last, or was told.
        self.position = None
        #: How often it was told that something is lost before what it hears next.
        self.jumps = 0
        #: Nothing is known of what comes before what it hears next.
        self.begins = False
        #: What the answer said, before anybody has told whether it was recovered.
        self.is_whole = None

    def come(self, process, since, latest=False):
        self.process = process
        connection = Connection(process, f"c{self.id}.{next(self.world.numbers)}")
        connection.client = self
        connection.transport = Transport(self)
        self.connection = process.connections[connection.id] = connection
        self.begins = since is None
        self.join(since, latest)

    def join(self, since, latest=False):
        connection, world = self.connection, self.world
        self.jumps = 0
        self.since = since
        self.wants_latest = latest and since is None
        rule = group(NAME, history=History(SIZE, 1000), latest=latest)
        subscription = connection.subscriptions.get(NAME) or Asking(NAME, {}, rule)
        subscription.since = since
        joining = self.process.groups.join(connection, self.process, NAME, subscription)
        world.returns += since is not None or self.wants_latest
        self.process.spawn(self.joins(joining, connection, subscription, since))

    async def joins(self, joining, connection, subscription, since):
        joined = await joining
        if self.connection is not connection or self.since is not since:
            return
        if since is None and not self.wants_latest:
            assert joined == (subscription.position is not None)
        elif joined:
            assert subscription.recovery.recovered == self.is_whole

    @told
    def answer(self, contents):
        """Called with what the groups send as the answer, before anything newer."""
        place = self.connection.subscriptions[NAME].position
        self.is_whole = False
        if place is None:
            assert self.world.is_faulty and not contents
            self.world.unread += 1
            self.begins = True
        elif self.wants_latest:
            self.is_whole = any_of(True, False) if self.may_give_up and not contents else True
            self.begins = True
            self.send(contents)
            assert self.begins or self.sees_nothing_between(self.position, place, True)
            self.world.latest += bool(contents)
            self.take(place, contents)
        else:
            self.answer_since(Position(*self.since), place, contents)
            self.take(place, contents)

    def send(self, contents):
        """What the group chain has made, which a send chain may keep from this client."""
        assert self.process.delivery.send_one(self.connection, contents)

    def answer_since(self, since, place, contents):
        if not since.epoch:
            since = since._replace(epoch=place.epoch)
        self.position, self.begins, before = since, False, self.jumps
        self.jumps = 0
        self.send(contents)
        is_possible = self.is_possible(since, place)
        if contents:
            # All or nothing.
            self.is_whole = True
            self.world.recovered += 1
            assert is_possible and (
                self.world.is_sent_later or self.sees_nothing_between(self.position, place, True)
            ), f"a part: {since} to {self.position}, not {place}"
        elif is_possible and self.sees_nothing_between(since, place, True, self.passes):
            # There was nothing; it may have been told as lost all the same.
            self.is_whole = True
            is_gone = not self.world.redis.keeps(since) and since[:2] != place[:2]
            if is_gone or self.may_give_up:
                self.is_whole = any_of(True, False)
            self.world.recovered += 1
        else:
            self.world.told += 1
            may_be_kept = self.world.may_skip or self.may_give_up
            assert may_be_kept or not self.world.redis.keeps(since), f"{since} is kept"
        self.jumps = 0 if not self.process.is_slow else before

    @property
    def may_give_up(self):
        return self.world.is_faulty and self.connection.subscriptions[NAME].may_give_up

    def is_possible(self, since, place):
        return since.epoch == place.epoch and 0 <= since.offset <= place.offset

    def take(self, place, contents):
        """It has been told that it is at ``place``, and has got ``contents`` or will get them."""
        if not (contents and self.world.is_sent_later):
            self.position, self.begins = place, False

    def passes(self, place):
        """Whether the group chain hands the publication there on to this connection."""
        item = self.world.redis.log.get(place[:2])
        if item is None or self.connection.id in item.meta.get(EXCLUDE, ()):
            return False
        return self.world.kind == "plain" or HIDDEN not in item.payload

    def sees(self, place):
        """Whether the publication there is to reach this connection."""
        if not self.passes(place):
            return False
        return not self.world.sends or is_for(self, self.world.redis.log[place[:2]].payload)

    def sees_nothing_between(self, last, place, last_too=False, sees=None):
        if last is None or last.epoch != place.epoch or last.offset > place.offset:
            return False
        between = range(last.offset + 1, place.offset + last_too)
        return not any(map(sees or self.sees, ((place.epoch, offset) for offset in between)))

    def place_of(self, frame):
        """Where it was appended; nearly always there is one such place."""
        if self.world.kind != "plain":
            epoch, offset, payload = frame.split(b" ", 2)
            place = Position(epoch.decode(), int(offset))
            assert self.world.redis.log[place[:2]].payload == payload
            return place
        places = self.world.redis.places[frame]
        if self.begins:
            return places[-1]
        for place in places:
            if self.follows(place) and not self.jumps:
                return place
        return places[-1]

    def follows(self, place):
        last = self.position
        return last is not None and last[:2] != place[:2] and self.sees_nothing_between(last, place)

    @told
    def heard(self, frame):
        assert self.connection is not None, "it has left"
        place = self.place_of(frame)
        assert self.sees(place), f"{place} is not for it"
        last = self.position
        if self.begins or last is None:
            self.begins = False
        elif not self.follows(place):
            assert self.jumps, f"{last} then {place}"
            self.jumps -= 1
            assert self.world.may_skip or not self.world.redis.keeps(last), f"{last} is kept"
        elif not self.process.is_slow:
            # What waits for a slow chain comes after it was told.
            self.jumps = 0
        self.position = place
        self.world.heard += 1

    def is_up_to_date(self):
        if self.begins or self.position is None or self.jumps:
            return True
        return self.sees_nothing_between(self.position, self.world.redis.position(), True)

    def go(self):
        connection, self.connection = self.connection, None
        self.process.groups.leave(connection, self.process, NAME)
        for task in connection.tasks:
            task.cancel()
        self.process.delivery.left(connection, NAME)
        del self.process.connections[connection.id]


class any_of(tuple):
    """Equal to each of some."""

    def __new__(cls, *values):
        return super().__new__(cls, values)

    def __eq__(self, other):
        return other in tuple(self)

    __hash__ = None


class World:
    def __init__(self, loop, seed, publishes, kind, faults, compare):
        self.loop = loop
        self.kind = kind
        _, self.sends = FILTERS[kind]
        #: Whether a send chain waits, so that what an answer says it gets comes after it.
        self.is_sent_later = SLOW_SEND in self.sends
        self.random = random.Random(seed)
        self.errors = []
        self.gaps = self.heard = self.recovered = self.told = self.unread = self.latest = 0
        self.died = self.drained = self.repeated = self.fell = self.hidden = 0
        #: How many came with a position, or wanted the last publication.
        self.returns = 0
        self.numbers = itertools.count()
        #: Process, item, idempotency key and future of all that was published.
        self.publishes = []
        self.compare = compare
        self.is_faulty = faults
        #: Whether a history cannot be read now and then: what is missing then is told as lost.
        self.may_skip = False
        self.lost_answers = self.losses = 0
        self.answer_delay, self.join_limit = 0.1, 2
        self.retention = Retention(SIZE, 1000.0)
        self.redis = Redis(self, publishes)
        self.processes = [Process(self, kind) for _ in range(2)]
        self.clients = [Client(self, number) for number in range(5)]
        self.happenings = [self.publish] * 8 + [self.come_or_go] * 8 + [self.wait] * 6
        if not self.is_sent_later:
            # What waits for the send chain cannot be told from what is sent once more.
            self.happenings += [self.ask_again]
        if faults:
            self.add_faults(self.random.choice)

    def add_faults(self, pick):
        self.lost_answers = pick([0, 0, 0.1])
        self.losses = pick([0, 0, 0.1])
        self.answer_delay = pick([0.1, 0.1, 1.0])
        self.retention = Retention(SIZE, pick([1000.0, 1000.0, 0.5]))
        for some in (
            [[], [self.cut], [self.cut, self.go_down]],
            [[], [], [], [self.redis.replicate, self.fail_over]],
            [[], [], [], [self.forget]],
            [[], [], [], [self.restart_empty]],
            [[], [self.slow_down]],
            [[], [], [self.fill_up]],
            [[], [], [self.die], [self.drain]],
            [[], [], [], [], [], [], [self.make_unreadable]],
        ):
            self.happenings += pick(some)
        self.may_skip = self.make_unreadable in self.happenings

    def happens(self, probability):
        return probability > 0 and self.random.random() < probability

    async def run(self, steps):
        for _ in range(steps):
            outcome = self.random.choice(self.happenings)()
            if asyncio.iscoroutine(outcome):
                await outcome
            self.check()
        await self.settle()

    def publish(self):
        for _ in range(self.random.choice([1, 1, 1, 2, 3, 9])):
            self.random.choice(self.processes).publish()

    def come_or_go(self):
        client = self.random.choice(self.clients)
        if client.connection is not None:
            client.go()
            return
        client.come(self.random.choice(self.processes), *self.since(client))

    def since(self, client):
        """From where a client asks; and whether it wants the last publication instead."""
        chance, position = self.random.random(), client.position
        if position is None or chance < 0.2:
            return None, self.random.random() < 0.5
        if chance < 0.25:
            others = [-1, position.offset + 1000, 2**70]
            return Position(position.epoch, self.random.choice(others)), False
        if chance < 0.3:
            return Position("another", position.offset), False
        if chance < 0.35 and position.epoch == self.redis.position().epoch:
            return Position("", position.offset), False
        return Position(position.epoch, max(0, position.offset - (chance < 0.4))), False

    def ask_again(self):
        """A member asks once more for what is after a place."""
        client = self.random.choice(self.clients)
        if client.connection is not None and client.position is not None:
            client.join(client.position._replace(offset=max(0, client.position.offset - 2)))

    async def wait(self):
        await asyncio.sleep(self.random.choice([0, 0.001, 0.003, 0.01, 0.01, 0.1, 1]))

    # Faults

    def cut(self):
        self.random.choice(self.processes).link.cut()

    def go_down(self):
        self.redis.is_down = True
        for process in self.processes:
            process.link.cut()
        self.loop.call_later(self.random.choice([0.1, 2, 8]), self.come_up)

    def come_up(self):
        self.redis.is_down = False

    def fail_over(self):
        self.fell += 1
        self.redis.fail_over()
        if self.random.random() < 0.5:
            for process in self.processes:
                process.link.cut()

    def restart_empty(self):
        self.fell += 1
        self.go_down()
        self.redis.restart_empty()

    async def forget(self):
        await self.redis.memory.forget(KEY)

    def slow_down(self):
        self.random.choice(self.processes).slow = self.random.choice([0.01, 0.5, 3])

    def fill_up(self):
        self.redis.is_full = True
        self.loop.call_later(self.random.choice([0.01, 1]), self.have_room)

    def have_room(self):
        self.redis.is_full = False

    def make_unreadable(self):
        self.redis.is_unreadable = True
        self.loop.call_later(self.random.choice([0.01, 3]), self.make_readable)

    def make_readable(self):
        self.redis.is_unreadable = False

    async def die(self):
        """Of a process nothing is left at once; its clients come back to another one."""
        self.died += 1
        await self._replace(self.random.choice(self.processes))

    async def drain(self):
        """A process ends in order: what it has published is sent first."""
        self.drained += 1
        process = self.random.choice(self.processes)
        for client in [connection.client for connection in process.connections.values()]:
            client.go()
        try:
            async with asyncio.timeout(15):
                await process.queue.sent()
        except TimeoutError:
            pass
        await self._replace(process)

    async def _replace(self, process):
        place = self.processes.index(process)
        await process.end()
        self.processes[place] = Process(self, self.kind)

    # The end

    def check(self):
        if self.errors:
            raise self.errors[0]

    async def settle(self):
        """No fault any more: all have everything, or were told."""
        self.losses = self.lost_answers = 0
        self.answer_delay = 0.1
        for process in self.processes:
            process.slow = 0.05
        # The longest outage, and what is on its way longest.
        await asyncio.sleep(20)
        if self.compare:
            await asyncio.sleep(2 * feeds.COMPARE + 10)
        elif self.is_faulty and self.random.random() < 0.5:
            for process in self.processes:
                process.link.cut()
        else:
            # What nobody has seen before shows all what they have missed.
            self.processes[0].publish(may_repeat=False)
        await asyncio.sleep(PROMPT)
        self.check()
        for client in self.clients:
            if client.connection is not None:
                top = self.redis.position()
                assert client.is_up_to_date(), f"{client.position} of {top}"
        self.check_publishes()
        for process in self.processes:
            assert process.queue.size == 0
            await process.end()
        await asyncio.sleep(1)
        self.check()

    def check_publishes(self):
        """Each publisher was told the place of its own message, or an error."""
        by_key = {}
        latest = {}
        for process, item, key, done in self.publishes:
            if not done.done():
                assert process not in self.processes, "nobody told the publisher"
                continue
            error = done.exception()
            if error is not None:
                assert isinstance(error, PublishError) and self.is_faulty, error
                continue
            place = done.result()
            found = self.redis.log[place[:2]]
            if place.repeated:
                self.repeated += 1
                first = by_key.setdefault(key, found) if self.fell == 0 else found
                assert key and item.payload not in self.redis.line and first is found
                continue
            assert found.payload == item.payload, f"{place} is of {found}"
            if key and self.fell == 0:
                assert by_key.setdefault(key, found) is found
            if process in latest and latest[process].epoch == place.epoch:
                assert latest[process].offset < place.offset
            latest[process] = place


def simulate(seed, steps, publishes, kind, faults=True, compare=None):
    """One schedule; returns what happened in it."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    state, usual = random.getstate(), feeds.COMPARE
    random.seed(seed)
    if compare is None:
        compare = seed % 2 == 0
    if not compare:
        feeds.COMPARE = 1e9
    try:
        world = World(loop, seed, publishes, kind, faults, compare)
        loop.run_until_complete(world.run(steps))
    finally:
        feeds.COMPARE = usual
        random.setstate(state)
        asyncio.set_event_loop(None)
        loop.close()
    return world
