"""One connection to Redis: layer.redis_connection."""

import asyncio
import os

import hiredis
import pytest
import redis
from channels_redis.utils import create_pool, decode_hosts
from redis.asyncio.connection import Connection
from redis.credentials import CredentialProvider
from redis.exceptions import NoPermissionError

from filtered_websocket.layer import redis_connection
from filtered_websocket.layer.redis_connection import can_take_over, open_connection, pack
from filtered_websocket.threads.tasks import end_tasks

from ..waiting import LIMIT, until
from .scripted_redis import HELLO, ScriptedRedis, push

pytestmark = pytest.mark.usefixtures("time_enough")


@pytest.fixture(params=[2, 3])
async def server(request):
    async with ScriptedRedis(request.param) as server:
        yield server


@pytest.fixture(autouse=True)
def throttle(monkeypatch):
    monkeypatch.setattr(redis_connection, "_throttle", redis_connection.LogThrottle())


class Owner:
    """Opens connections, and keeps what they report."""

    def __init__(self, server, subscribes=False):
        self.pool = create_pool({"address": server.url})
        self.subscribes = subscribes
        self.answers = []
        self.messages = []
        self.lost = []
        self.connection = None

    async def open(self):
        on_message = (lambda *message: self.messages.append(message)) if self.subscribes else None
        self.connection = await open_connection(self.pool, self.lost.append, on_message)
        return self.connection

    def send(self, *command):
        self.connection.send(pack(command), self.answers.append)

    async def until_answers(self, count):
        await until(lambda: len(self.answers) >= count, 0)


@pytest.fixture
async def owner(server):
    owner = Owner(server)
    await owner.open()
    yield owner
    owner.connection.abort(ConnectionError("the test ends"))
    await asyncio.sleep(0)


@pytest.fixture
async def subscriber(server):
    owner = Owner(server, subscribes=True)
    await owner.open()
    yield owner
    owner.connection.abort(ConnectionError("the test ends"))
    await asyncio.sleep(0)


def count_writes(connection):
    """The sizes of what is written from now on."""
    sizes = []

    class Transport:
        def __init__(self, transport):
            self.transport = transport

        def write(self, data):
            sizes.append(len(data))
            self.transport.write(data)

        def __getattr__(self, name):
            return getattr(self.transport, name)

    connection._transport = Transport(connection._transport)
    return sizes


# Commands


async def test_a_thousand_commands_of_one_turn_are_one_write_and_answered_in_order(server, owner):
    server.answer = lambda command: b":%d\r\n" % int(command[1])
    sizes = count_writes(owner.connection)
    for number in range(1000):
        owner.send("PUBLISH", str(number), "x" * 200)
    assert sizes == [] and owner.answers == []
    await owner.until_answers(1000)
    assert owner.answers == list(range(1000))
    assert len(sizes) == 1 and sizes[0] == sum(
        len(pack(("PUBLISH", str(number), "x" * 200))) for number in range(1000)
    )
    assert owner.connection.is_idle and owner.lost == []


async def test_an_answer_may_come_byte_by_byte_and_with_others(server, owner):
    server.byte_by_byte = True
    owner.send("A")
    await owner.until_answers(1)
    server.byte_by_byte = False
    server.answer = lambda command: None
    owner.send("B")
    owner.send("C")
    await until(lambda: len(server.commands) == 3, 0)
    server.clients[0].say(b":2\r\n$3\r\na\r")
    await until(lambda: len(owner.answers) == 2, 0)
    server.clients[0].say(b"\n\r\n")
    await owner.until_answers(3)
    assert owner.answers == [1, 2, b"a\r\n"]


async def test_an_error_is_an_answer_of_redis_pys_class(server, owner):
    server.answer = lambda command: b"-NOPERM no permissions to access a channel\r\n"
    owner.send("PUBLISH", "a", "b")
    owner.send("PUBLISH", "a", "b")
    await owner.until_answers(2)
    assert {type(answer) for answer in owner.answers} == {NoPermissionError}
    assert owner.lost == []


@pytest.mark.repeats
async def test_without_an_answer_in_time_all_fail_and_the_connection_ends(server, owner, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.5}
    server.answer = lambda command: b":1\r\n" if command[0] == b"A" else None
    for name in ("A", "B", "C"):
        owner.send(name)
    await owner.until_answers(3)
    assert owner.answers[0] == 1 and len(owner.lost) == 1
    for error in owner.answers[1:]:
        assert isinstance(error, TimeoutError) and "within 0.5 s" in str(error)
    await until(lambda: not server.clients)
    assert owner.connection.is_idle and len(owner.answers) == 3


class Clock:
    """In the place of a connection's event loop: its timers end when the test calls them."""

    def __init__(self, loop):
        self.call_soon = loop.call_soon
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, callback):
        self.timers.append(when)
        return asyncio.get_running_loop().call_later(3600, callback)


async def test_the_time_of_a_command_begins_when_it_is_given(server, owner, settings):
    """One timer serves many commands: it begins again with the oldest without an answer."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 2}
    connection = owner.connection
    clock = connection._loop = Clock(connection._loop)
    owner.send("A")
    await owner.until_answers(1)
    clock.now = 1.5
    server.answer = lambda command: None
    owner.send("B")
    assert clock.timers == [2.0]
    clock.now = 2.0
    connection._timer.cancel()
    connection._check_time()
    assert clock.timers == [2.0, 3.5] and owner.lost == []
    clock.now = 3.5
    connection._timer.cancel()
    connection._check_time()
    assert isinstance(owner.answers[1], TimeoutError)


async def test_a_command_that_waited_before_has_less_time(server, owner, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 2}
    clock = owner.connection._loop = Clock(owner.connection._loop)
    owner.connection.send(pack(("A",)), owner.answers.append, -0.5)
    assert clock.timers == [1.5]


async def test_a_timer_that_finds_every_command_answered_is_the_last(server, owner):
    owner.send("A")
    await owner.until_answers(1)
    owner.connection._timer.cancel()
    owner.connection._check_time()
    assert owner.connection._timer is None and owner.lost == []


async def test_an_end_in_the_middle_of_an_answer_fails_what_waits(server, owner):
    server.answer = lambda command: b"$5\r\nhal" if command[0] == b"A" else None
    owner.send("A")
    owner.send("B")
    await until(lambda: len(server.commands) == 2, 0)
    server.clients[0].transport.close()
    await owner.until_answers(2)
    assert owner.lost[0] is owner.answers[0] is owner.answers[1]
    assert isinstance(owner.lost[0], ConnectionError) and "it was closed" in str(owner.lost[0])


async def test_a_reset_is_told_with_its_cause(server, owner):
    reset = ConnectionResetError(104, "Connection reset by peer")
    owner.connection.connection_lost(reset)
    assert owner.lost[0].__cause__ is reset and "reset by peer" in str(owner.lost[0])
    owner.connection.connection_lost(None)
    owner.connection.abort(ConnectionError("again"))
    assert len(owner.lost) == 1
    owner.connection._transport.abort()


async def test_what_is_not_redis_ends_the_connection(server, owner):
    server.answer = lambda command: b"HTTP/1.1 400 Bad Request\r\n"
    owner.send("A")
    await owner.until_answers(1)
    assert "what Redis sent cannot be read" in str(owner.answers[0])


async def test_an_answer_to_no_command_ends_the_connection(server, owner):
    """Later answers would go to the wrong commands."""
    server.clients[0].say(b":1\r\n:2\r\n")
    await until(lambda: owner.lost, 0)
    assert "answer to no command" in str(owner.lost[0]) and len(owner.lost) == 1


async def test_what_is_said_unasked_is_no_answer(server, owner, subscriber):
    # Before 3.2 hiredis does not tell it from an answer.
    if server.protocol == 3 and hasattr(hiredis, "PushNotification"):
        server.clients[0].say(push(b"invalidate", b"a", b"b"))
    server.clients[1].say(push(b"invalidate", b"a", b"b"))
    owner.send("A")
    subscriber.send("SUBSCRIBE", "a")
    await owner.until_answers(1)
    await subscriber.until_answers(1)
    assert owner.answers == [1] and subscriber.answers[0][0] == b"subscribe"


async def test_what_is_sent_when_a_connection_ends_comes_too_late_for_it(server, owner):
    """Its owner knows of the end before anybody gets an error."""
    server.answer = lambda command: None
    order = []
    owner.connection._on_lost = lambda error: order.append("lost")
    owner.connection.send(pack(("A",)), lambda answer: order.append("failed"))
    owner.connection.abort(ConnectionError("over"))
    assert order == ["lost", "failed"]
    await asyncio.sleep(0)
    assert server.commands == []


async def test_a_callback_that_raises_costs_its_own_answer_only(server, owner, caplog):
    owner.connection.send(pack(("A",)), lambda answer: 1 / 0)
    owner.connection.send(pack(("B",)), lambda answer: 1 / 0)
    owner.send("C")
    await owner.until_answers(1)
    owner.connection.send(pack(("D",)), lambda answer: 1 / 0)
    owner.send("E")
    owner.connection.abort(ConnectionError("over"))
    assert len(owner.answers) == 2 and len(owner.lost) == 1
    assert caplog.text.count("cannot handle an answer or a message of Redis") == 1


# Messages


async def test_messages_come_with_channel_and_content_and_between_answers(server, subscriber):
    subscriber.send("SUBSCRIBE", "a")
    await subscriber.until_answers(1)
    sent = [(b"a", b"\x00\xff\r\n"), (b"a", b""), (b"b", b"x" * 100_000)]
    server.answer = lambda command: (
        b"".join(server.message(*one) for one in sent) + server.confirm(command)
    )
    subscriber.send("UNSUBSCRIBE", "a")
    await subscriber.until_answers(2)
    assert subscriber.messages == sent
    assert [list(answer)[:2] for answer in subscriber.answers] == [
        [b"subscribe", b"a"],
        [b"unsubscribe", b"a"],
    ]


async def test_a_command_for_subscriptions_may_wait_for_its_answer(server, subscriber, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    server.answer = lambda command: None
    subscriber.send("SUBSCRIBE", "a")
    assert subscriber.connection._timer is None and not subscriber.connection.is_idle


async def test_a_flood_lets_others_have_their_turn_and_is_not_read_meanwhile(
    server, subscriber, monkeypatch
):
    monkeypatch.setattr(redis_connection, "TURN", -1)
    transport = subscriber.connection._transport
    flood = b"".join(server.message(b"a", b"%d" % number) for number in range(50))
    subscriber.connection.data_received(flood)
    assert len(subscriber.messages) == 1 and not transport.is_reading()
    # Also what the transport had read before.
    subscriber.connection.data_received(server.message(b"a", b"50"))
    assert len(subscriber.messages) == 1
    await asyncio.sleep(0)
    assert len(subscriber.messages) == 2
    await until(transport.is_reading, 0)
    assert [int(data) for _, data in subscriber.messages] == list(range(51))


async def test_nothing_is_handed_over_after_the_end(server, subscriber, monkeypatch):
    monkeypatch.setattr(redis_connection, "TURN", -1)
    subscriber.connection.data_received(server.message(b"a", b"1") * 3)
    subscriber.connection.abort(ConnectionError("over"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(subscriber.messages) == 1


# Bounds


async def test_what_redis_does_not_read_is_not_all_written(server, owner, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": LIMIT}
    server.clients[0].transport.pause_reading()
    sizes = count_writes(owner.connection)
    number = 64 << 20 >> 16
    for _ in range(number):
        owner.send("PUBLISH", "a", "x" * 65_536)
    await until(lambda: not owner.connection._may_write, 0)
    written = sum(sizes)
    for _ in range(10):
        owner.send("PUBLISH", "a", "x")
        await asyncio.sleep(0)
    assert sum(sizes) == written < 48 << 20
    assert owner.connection._transport.get_write_buffer_size() < 2 * redis_connection.MAX_WRITE
    server.clients[0].transport.resume_reading()
    await owner.until_answers(number + 10)
    assert set(owner.answers) == {1} and max(sizes) < redis_connection.MAX_WRITE + 70_000


async def test_what_waits_is_freed_when_redis_does_not_read_in_time(server, owner, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    server.clients[0].transport.pause_reading()
    for _ in range(1000):
        owner.send("PUBLISH", "a", "x" * 65_536)
    await owner.until_answers(1000)
    assert {type(answer) for answer in owner.answers} == {TimeoutError}
    assert not owner.connection._unwritten and not owner.connection._pending


# Forks


async def test_a_child_writes_nothing_on_its_parents_connection(server, owner, monkeypatch):
    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    owner.send("A")
    await until(lambda: problems, 0)
    assert "before the fork" in str(problems[0]["exception"]) and server.commands == []


# Opening


async def test_a_handshake_that_is_refused_leaves_nothing_open(server):
    server.greet = lambda command: b"-NOAUTH Authentication required.\r\n"
    if server.protocol == 2:
        # It has nothing to say but the name of the library, which may be unknown.
        server.greet = lambda command: b"-WRONGPASS invalid username-password pair\r\n"
        server.__class__ = WithPassword
    with pytest.raises(redis.AuthenticationError):
        await Owner(server).open()
    await until(lambda: not server.clients)


class WithPassword(ScriptedRedis):
    url = property(lambda self: f"redis://:secret@127.0.0.1:{self.port}?protocol=2")


async def test_a_handshake_without_an_answer_ends_after_layer_timeout(server, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05}
    server.greet = lambda command: None
    with pytest.raises(TimeoutError):
        await Owner(server).open()
    await until(lambda: not server.clients)


async def test_a_cancelled_handshake_leaves_nothing_open(server):
    server.greet = lambda command: None
    opening = asyncio.ensure_future(Owner(server).open())
    await until(lambda: server.chunks, 0)
    await end_tasks([opening])
    assert opening.cancelled()
    await until(lambda: not server.clients)


async def test_redis_may_close_right_after_the_handshake(server, monkeypatch):
    monkeypatch.setattr(asyncio.StreamReader, "at_eof", lambda reader: True)
    with pytest.raises(ConnectionError, match="has closed"):
        await Owner(server).open()
    await until(lambda: not server.clients)


async def test_nobody_listening_is_redis_pys_error(server):
    server.refuse()
    with pytest.raises(redis.ConnectionError):
        await Owner(server).open()


async def test_redis_py_says_who_connects(server):
    said = []

    def greet(command):
        said.append(command)
        return HELLO if command[0] == b"HELLO" else b"+OK\r\n"

    server.greet = greet
    owner = Owner(server)
    owner.pool = create_pool(
        {
            "address": server.url.replace("?", "/3?"),
            "username": "ann",
            "password": "secret",
            "client_name": "site",
        }
    )
    await owner.open()
    if server.protocol == 3:
        assert [b"HELLO", b"3", b"AUTH", b"ann", b"secret"] in said
    else:
        assert [b"AUTH", b"ann", b"secret"] in said
    assert [b"CLIENT", b"SETNAME", b"site"] in said and [b"SELECT", b"3"] in said
    owner.connection.abort(ConnectionError("the test ends"))
    await asyncio.sleep(0)


# Whose connections can be taken over


class Streaming(CredentialProvider):
    """As those of redis-py that get a new token from time to time."""

    def get_credentials(self):
        return ("secret",)

    def on_next(self, callback):
        raise NotImplementedError


class Own(Connection):
    pass


def connect(connection):
    raise NotImplementedError


@pytest.mark.parametrize(
    "host",
    [
        *decode_hosts(None),
        *decode_hosts([("localhost", 6379)]),
        {"address": "rediss://ann:secret@localhost:6380/3?ssl_cert_reqs=none"},
        {"address": "unix:///run/redis.sock?db=2"},
        {"host": "a", "port": 1, "db": 4, "socket_timeout": 2, "retry_on_timeout": True},
        {"sentinels": [("a", 1)], "master_name": "m"},
        {"sentinels": [("a", 1)], "master_name": "m", "ssl": True},
        {"address": "redis://a", "credential_provider": redis.UsernamePasswordCredentialProvider()},
    ],
    ids=" ".join,
)
def test_every_usual_way_to_write_a_host_can_be_taken_over(host):
    """Pins the attributes of redis-py's connections that are used."""
    assert can_take_over(create_pool(host))


@pytest.mark.parametrize(
    "host",
    [
        {"host": "a", "connection_class": Own},
        {"host": "a", "parser_class": redis._parsers._AsyncRESP2Parser},
        {"host": "a", "encoder_class": redis._parsers.Encoder},
        {"host": "a", "redis_connect_func": connect},
        {"host": "a", "credential_provider": Streaming()},
        {"host": "a", "encoding": "latin-1"},
    ],
    ids=lambda host: next(name for name in host if name != "host"),
)
def test_what_may_behave_in_other_ways_is_left_to_redis_py(host):
    assert not can_take_over(create_pool(host))


def test_options_that_redis_py_refuses_are_its_error():
    with pytest.raises(TypeError):
        can_take_over(create_pool({"host": "a", "no_such_option": 1}))


@pytest.mark.parametrize("name", ["_reader", "_writer", "_parser"])
def test_connections_of_another_shape_are_left_to_redis_py(name, monkeypatch):
    pool = create_pool({"host": "a"})
    make = pool.make_connection

    class Other(Connection):
        def __getattribute__(self, asked):
            if asked == name:
                raise AttributeError(asked)
            return super().__getattribute__(asked)

    def other():
        connection = make()
        connection.__class__ = Other
        return connection

    monkeypatch.setattr(redis_connection, "CLASSES", (Other,))
    monkeypatch.setattr(pool, "make_connection", other)
    assert not can_take_over(pool)


def test_an_old_hiredis_is_left_to_redis_py(monkeypatch):
    monkeypatch.setattr(redis_connection, "pack", None)
    assert not can_take_over(create_pool({"host": "a"}))


def test_a_command_has_the_bytes_that_redis_py_sends():
    ours = pack(("PUBLISH", "asgi__group__é", b"\x00\xff"))
    theirs = Connection().pack_command("PUBLISH", "asgi__group__é", b"\x00\xff")
    assert ours == b"".join(theirs)
