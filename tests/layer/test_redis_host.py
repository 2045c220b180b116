"""The two connections to one Redis: layer.redis_host."""

import asyncio
import itertools

import pytest
import redis
from channels_redis.utils import create_pool
from redis.asyncio import ConnectionPool
from redis.exceptions import MovedError, NoPermissionError

from filtered_websocket.layer import redis_host
from filtered_websocket.layer.redis_connection import pack
from filtered_websocket.layer.redis_host import Commands, Subscriber, at_node
from filtered_websocket.threads.tasks import end_tasks

from ..waiting import LIMIT, limited, until
from .scripted_redis import ScriptedRedis

pytestmark = pytest.mark.usefixtures("time_enough")

REFUSED = b"-NOPERM No permissions to access a channel\r\n"


@pytest.fixture(params=[2, 3])
async def server(request):
    async with ScriptedRedis(request.param) as server:
        yield server


async def stop(host, keep=False):
    await end_tasks([task for task in [host.stop(keep)] if task is not None])
    await asyncio.sleep(0)


@pytest.fixture
async def commands(server):
    commands = Commands(create_pool({"address": server.url}))
    yield commands
    await stop(commands)


class Answers(list):
    """Gets answers."""

    async def until(self, count):
        await until(lambda: len(self) >= count, 0)


class Awaited(Subscriber):
    """A subscriber whose changes can be awaited."""

    names = itertools.count()

    def subscribe(self, channel, who=None):
        return self._changed(channel, True, who)

    def unsubscribe(self, channel, who=None):
        return self._changed(channel, False, who)

    async def _changed(self, channel, is_wanted, who):
        done = asyncio.get_running_loop().create_future()

        def on_done(error):
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self.change(channel, is_wanted, who or f"{next(self.names)}", on_done)
        await done


class Events:
    """What a subscriber reports."""

    def __init__(self):
        self.messages = []
        self.lost = []

    def message(self, channel, data):
        self.messages.append((channel, data))


@pytest.fixture
def events():
    return Events()


@pytest.fixture
async def subscriber(server, events):
    pool = create_pool({"address": server.url})
    subscriber = Awaited(pool, events.message, events.lost.append)
    yield subscriber
    await stop(subscriber)


@pytest.fixture
def pauses(monkeypatch):
    """How many failures in a row there were, each time that it paused."""
    pauses = []

    def pause(failures):
        pauses.append(failures)
        return 0.001

    monkeypatch.setattr(redis_host, "pause", pause)
    return pauses


@pytest.fixture
def deaf(monkeypatch):
    """redis-py loses a cancellation: before Python 3.12, asyncio.wait_for does at times."""
    opened = []
    open_connection = redis_host.open_connection

    async def open_all_the_same(*args):
        opening = asyncio.ensure_future(open_connection(*args))
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            connection = await opening
        opened.append(connection)
        return connection

    monkeypatch.setattr(redis_host, "open_connection", open_all_the_same)
    return opened


# Commands


async def test_commands_open_one_connection_when_the_first_is_given(server, commands):
    assert server.connections == 0
    answers = Answers()
    server.answer = lambda command: b":%d\r\n" % int(command[1])
    for number in range(3):
        commands.send(pack(("A", str(number))), answers.append)
    await answers.until(3)
    commands.send(pack(("A", "3")), answers.append)
    await answers.until(4)
    assert answers == [0, 1, 2, 3] and server.connections == 1


async def test_a_connection_that_was_lost_is_opened_again_by_the_next_command(server, commands):
    answers = Answers()
    commands.send(pack(("A",)), answers.append)
    await answers.until(1)
    server.clients[0].transport.abort()
    await until(lambda: commands._connection is None, 0)
    commands.send(pack(("A",)), answers.append)
    await answers.until(2)
    assert answers == [1, 1] and server.connections == 2


async def test_what_waits_for_an_answer_fails_with_its_connection(server, commands):
    answers = Answers()
    server.answer = lambda command: None
    commands.send(pack(("A",)), answers.append)
    await until(lambda: server.commands, 0)
    server.clients[0].transport.abort()
    await answers.until(1)
    assert isinstance(answers[0], ConnectionError)


async def test_where_nobody_listens_each_command_fails_later_and_once(server, commands):
    server.refuse()
    answers = Answers()

    def again(error):
        answers.append(error)
        commands.send(pack(("C",)), answers.append)

    commands.send(pack(("A",)), again)
    commands.send(pack(("B",)), answers.append)
    assert answers == []
    await answers.until(3)
    assert {type(error) for error in answers} == {redis.ConnectionError}


async def test_a_redis_that_does_not_greet_fails_commands_after_layer_timeout(
    server, commands, settings
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    server.greet = lambda command: None
    answers = Answers()
    commands.send(pack(("A",)), answers.append)
    await answers.until(1)
    assert isinstance(answers[0], TimeoutError)


async def test_the_time_until_there_is_a_connection_counts(server, commands, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}

    given = asyncio.get_running_loop().time() - 30

    class Clock:
        time = staticmethod(lambda: given)

    commands._loop = Clock
    server.answer = lambda command: None
    commands.send(pack(("A",)), Answers().append)
    await until(lambda: server.commands, 0)
    # Not when it was written.
    assert [when for when, _ in commands._connection._pending] == [given]


async def test_stopping_fails_what_waits_and_a_kept_connection_stays(server, commands):
    answers = Answers()
    commands.send(pack(("A",)), answers.append)
    await stop(commands)
    await answers.until(1)
    assert isinstance(answers[0], ConnectionError)
    commands.send(pack(("A",)), answers.append)
    await answers.until(2)
    await stop(commands, keep=True)
    commands.send(pack(("A",)), answers.append)
    await answers.until(3)
    assert answers[1:] == [1, 1]
    await stop(commands)
    await until(lambda: not server.clients)


async def test_stopping_ends_a_handshake(server, commands):
    answers = Answers()
    server.greet = lambda command: None
    commands.send(pack(("A",)), answers.append)
    await until(lambda: server.chunks, 0)
    await stop(commands)
    await until(lambda: not server.clients)
    assert len(answers) == 1 and isinstance(answers[0], ConnectionError)


async def test_a_cancellation_from_outside_fails_what_waits(server, commands):
    """As asyncio.run does at its end."""
    answers = Answers()
    commands.send(pack(("A",)), answers.append)
    opening = commands._opening
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await answers.until(1)
    assert isinstance(answers[0], ConnectionError) and opening.cancelled()


async def test_a_connection_that_opens_although_it_was_stopped_is_closed(server, commands, deaf):
    answers = Answers()
    commands.send(pack(("A",)), answers.append)
    await asyncio.sleep(0)
    task = commands.stop()
    commands.send(pack(("B",)), answers.append)
    await asyncio.wait([task])
    await answers.until(2)
    assert isinstance(answers[0], ConnectionError) and answers[1] == 1
    await until(lambda: len(server.clients) == 1)
    assert len(deaf) == 2 and server.commands == [[b"B"]]


# Subscriptions


async def test_a_subscription_stands_when_redis_has_confirmed_it(server, subscriber, events):
    held = []
    server.answer = lambda command: held.append(command)
    joining = asyncio.ensure_future(subscriber.subscribe(b"a"))
    await until(lambda: held, 0)
    assert not joining.done()
    server.clients[0].say(server.confirm(held[0]) + server.message(b"a", b"1"))
    await joining
    await until(lambda: events.messages, 0)
    assert events.messages == [(b"a", b"1")] and events.lost == []


async def test_many_subscriptions_of_one_turn_are_one_write(server, subscriber):
    await subscriber.subscribe(b"first")
    chunks = server.chunks
    names = [b"%d" % number for number in range(500)]
    await asyncio.gather(*map(subscriber.subscribe, names))
    assert server.chunks == chunks + 1 and len(server.commands) == 501
    await asyncio.gather(*map(subscriber.subscribe, names))
    assert len(server.commands) == 501
    await asyncio.gather(*map(subscriber.unsubscribe, names))
    assert len(server.commands) == 1001 and server.chunks == chunks + 2


async def test_those_who_want_one_channel_share_a_subscription_but_no_cancellation(
    server, subscriber
):
    joining = [asyncio.ensure_future(subscriber.subscribe(b"a")) for _ in range(3)]
    await asyncio.sleep(0)
    joining[0].cancel()
    await asyncio.gather(*joining[1:])
    assert joining[0].cancelled() and server.commands == [[b"SUBSCRIBE", b"a"]]


async def test_a_confirmation_of_another_channel_is_none(server, subscriber, events, pauses):
    """It would be taken for joined, and what is published to it would be missed."""
    await subscriber.subscribe(b"a")
    server.answer = lambda command: server.confirm([command[0], b"x"])
    with pytest.raises(ConnectionError, match="out of turn"):
        await subscriber.subscribe(b"b")
    server.answer = server.confirm
    await subscriber.subscribe(b"b")
    assert subscriber._subscribed == {b"a", b"b"} and len(events.lost) >= 1


async def test_a_change_of_the_same_one_replaces_the_earlier(server, subscriber):
    first, second = [], []
    subscriber.change(b"a", True, "ann", first.append)
    subscriber.change(b"a", True, "ann", second.append)
    await until(lambda: second, 0)
    assert first == [] and second == [None] and server.commands == [[b"SUBSCRIBE", b"a"]]


async def test_a_refusal_is_the_error_of_who_asked_and_the_next_may_ask_again(
    server, subscriber, events
):
    server.answer = lambda command: REFUSED
    with pytest.raises(NoPermissionError):
        await subscriber.subscribe(b"a")
    server.answer = server.confirm
    await subscriber.subscribe(b"a")
    assert events.lost == [] and server.connections == 1


async def test_a_refusal_that_nobody_waits_for_is_reported(server, subscriber, events, pauses):
    await subscriber.subscribe(b"a")
    server.answer = lambda command: REFUSED
    server.clients[0].transport.abort()
    await until(lambda: len(events.lost) == 2, 0)
    assert isinstance(events.lost[1], NoPermissionError)


async def test_however_long_redis_is_silent_a_channel_has_one_command(server, subscriber):
    await subscriber.subscribe(b"a")
    server.answer = lambda command: None
    for _ in range(20):
        for change in (subscriber.unsubscribe, subscriber.subscribe):
            task = asyncio.ensure_future(change(b"a", "ann"))
            await asyncio.sleep(0)
            assert len(subscriber._waiters[b"a"]) == 1
            task.cancel()
            await asyncio.wait([task])
    await until(lambda: len(server.commands) == 2, 0)
    assert server.commands[1] == [b"UNSUBSCRIBE", b"a"]
    server.answer = server.confirm
    server.clients[0].say(server.confirm(server.commands[1]))
    # Wanted again meanwhile.
    async with limited():
        await subscriber.subscribe(b"a")
    assert server.named(b"SUBSCRIBE") == [[b"a"], [b"a"]]
    assert subscriber._subscribed == {b"a"} and subscriber._waiters == {}


async def test_who_leaves_before_there_is_a_connection_is_not_subscribed(server, subscriber):
    joining = asyncio.ensure_future(subscriber.subscribe(b"a"))
    await asyncio.sleep(0)
    await subscriber.unsubscribe(b"a")
    await joining  # nobody would ever confirm it
    told = []
    subscriber.change(b"c", True, "ann", told.append)
    subscriber.unwant(b"c")
    assert told == [] and subscriber._waiters == {}
    await subscriber.subscribe(b"b")
    assert server.commands == [[b"SUBSCRIBE", b"b"]]


async def test_a_loss_is_reported_at_once_and_all_channels_are_subscribed_again(
    server, subscriber, events, pauses
):
    names = {b"%d" % number for number in range(100)}
    await asyncio.gather(*map(subscriber.subscribe, names))
    await subscriber.unsubscribe(b"7")
    server.commands.clear()
    server.clients[0].transport.abort()
    await until(lambda: events.lost, 0)
    await subscriber.subscribe(b"8")
    await until(lambda: len(server.commands) == 99, 0)
    assert {command[1] for command in server.commands} == names - {b"7"}
    assert len(events.lost) == 1 and isinstance(events.lost[0], ConnectionError)
    # A connection that had stood is opened again without a pause.
    assert server.connections == 2 and pauses == []


async def test_a_loss_without_subscriptions_is_no_loss(server, subscriber, events):
    await subscriber.subscribe(b"a")
    await subscriber.unsubscribe(b"a")
    server.clients[0].transport.abort()
    await until(lambda: subscriber._connection is None, 0)
    assert events.lost == [] and subscriber._opening is None


async def test_attempts_to_connect_pause_longer_and_tell_who_waits(
    server, subscriber, events, pauses
):
    server.refuse()
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            await subscriber.subscribe(b"a")
    await until(lambda: len(pauses) > 5)
    assert pauses[:5] == [1, 2, 3, 4, 5] and events.lost == []


async def test_a_redis_that_greets_and_cuts_is_not_asked_without_a_pause(
    server, subscriber, events, pauses
):
    server.answer = lambda command: server.clients[-1].transport.abort()
    with pytest.raises(ConnectionError):
        await subscriber.subscribe(b"a")
    await until(lambda: server.connections > 3)
    assert pauses[:3] == [1, 2, 3]
    server.answer = server.confirm
    await until(lambda: subscriber._subscribed == {b"a"})
    assert subscriber._failures == 0


async def test_a_connection_that_is_cut_is_lost_and_another_one_opened(
    server, subscriber, events, pauses
):
    subscriber.cut()
    await subscriber.subscribe(b"a")
    subscriber.cut()
    assert len(events.lost) == 1
    await subscriber.subscribe(b"a")
    assert server.connections == 2


async def test_an_answer_of_a_lost_connection_changes_nothing(server, subscriber, pauses):
    await subscriber.subscribe(b"a")
    server.answer = lambda command: None
    leaving = asyncio.ensure_future(subscriber.unsubscribe(b"a"))
    await until(lambda: len(server.commands) == 2, 0)
    subscriber.cut()
    with pytest.raises(ConnectionError):
        await leaving
    server.answer = server.confirm
    await subscriber.subscribe(b"a")
    assert subscriber._subscribed == {b"a"} and subscriber._asked == set()


async def test_stopping_ends_attempts_and_what_waits_for_them(server, subscriber, pauses):
    server.refuse()
    with pytest.raises(redis.ConnectionError):
        await subscriber.subscribe(b"a")
    joining = asyncio.ensure_future(subscriber.subscribe(b"a"))
    await asyncio.sleep(0)
    await stop(subscriber)
    with pytest.raises(ConnectionError):
        await joining


async def test_a_kept_connection_has_no_subscriptions_left(server, subscriber, events):
    await asyncio.gather(*map(subscriber.subscribe, [b"a", b"b"]))
    await stop(subscriber, keep=True)
    await until(lambda: len(server.commands) == 4, 0)
    assert sorted(server.named(b"UNSUBSCRIBE")) == [[b"a"], [b"b"]]
    await subscriber.subscribe(b"a")
    assert server.connections == 1 and events.lost == []


async def test_a_subscriber_that_opens_although_it_was_stopped_is_closed(server, subscriber, deaf):
    joining = asyncio.ensure_future(subscriber.subscribe(b"a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task = subscriber.stop()
    with pytest.raises(ConnectionError):
        await joining
    await asyncio.wait([task])
    await until(lambda: not server.clients)
    assert len(deaf) == 1 and subscriber._connection is None and server.commands == []


async def test_a_connection_that_comes_too_late_does_not_end_the_current_one(
    server, events, subscriber, deaf
):
    greet, held = server.greet, []
    server.greet = held.append
    refused = asyncio.ensure_future(subscriber.subscribe(b"x"))
    await until(lambda: held, 0)
    [late] = server.clients
    subscriber.stop().cancel()
    await asyncio.gather(refused, return_exceptions=True)
    server.greet = greet
    await subscriber.subscribe(b"y")
    for command in held:
        late.say(greet(command))
    await until(lambda: late not in server.clients, 0)
    assert (server.connections, events.lost) == (2, [])


# Commands that depend on the connection


async def test_a_command_is_built_for_the_connection_on_which_it_is_sent(server):
    async def open_named(pool, on_lost):
        connection = await redis_host.open_connection(pool, on_lost)
        connection.run_id = f"server {server.connections}"
        return connection

    def build(connection):
        return pack(("EVAL", connection.run_id))

    commands, answers = Commands(create_pool({"address": server.url}), open_named), Answers()
    commands.send(build, answers.append)
    commands.send(pack(("PING",)), answers.append)
    await answers.until(2)
    commands.send(build, answers.append)
    await answers.until(3)
    await stop(commands)
    commands.send(build, answers.append)
    await answers.until(4)
    assert server.commands == [
        [b"EVAL", b"server 1"],
        [b"PING"],
        [b"EVAL", b"server 1"],
        [b"EVAL", b"server 2"],
    ]
    await stop(commands)


@pytest.mark.parametrize(
    ("moved", "address"),
    [("12182 10.0.0.7:7001", ("10.0.0.7", 7001)), ("12182 :7001", ("10.0.0.1", 7001))],
)
def test_a_node_of_a_cluster_is_where_another_one_says(moved, address):
    pool = at_node(ConnectionPool(host="10.0.0.1", port=6379, password="x"), MovedError(moved))
    options = pool.make_connection()
    assert (options.host, options.port) == address and options.password == "x"
