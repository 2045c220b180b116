"""The pubsub layer over connections of our own: layer.redis_layer."""

import asyncio
import gc
import os
import ssl
import weakref

import pytest
import redis
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio.connection import Connection
from redis.exceptions import NoPermissionError

from filtered_websocket.layer import redis_layer as module
from filtered_websocket.layer.redis_host import settle
from filtered_websocket.layer.redis_layer import redis_layer
from filtered_websocket.threads.tasks import end_tasks

from ..e2e.certificates import write_pair
from ..e2e.processes import Valkey
from ..e2e.topologies import Sentinel, closed_address, silent_address
from ..waiting import LIMIT, limited, until, wait_until
from .scripted_redis import ScriptedRedis

pytestmark = pytest.mark.usefixtures("time_enough")

MESSAGE = {"v": 1, "o": "0123456789abcdef", "g": "fws.g.x", "s": 0, "m": [[1, "t", "", b"a", {}]]}


@pytest.fixture(params=[2, 3])
async def server(request):
    async with ScriptedRedis(request.param) as server:
        yield server


class Listener:
    """One who listens to a layer."""

    def __init__(self, layer):
        self.layer = layer
        self.data = []
        self.lost = []
        self.channel = None

    async def __aenter__(self):
        self.layer.use()
        self.channel = await self.layer.new_channel()
        self.layer.listen(self.channel, self.data.append, self.lost.append)
        return self

    async def __aexit__(self, *_):
        self.layer.ignore(self.channel)
        await self.layer.leave()

    @property
    def messages(self):
        return list(map(self.layer.deserialize, self.data))

    async def until(self, count):
        await until(lambda: len(self.data) >= count, 0)


async def join(layer, group, channel):
    await _changed(layer.join, group, channel)


async def part(layer, group, channel):
    await _changed(layer.part, group, channel)


async def _changed(change, group, channel):
    done = asyncio.get_running_loop().create_future()
    change(group, channel, lambda error: settle(done, error))
    await done


def open_layer(*hosts, **options):
    """That of channels_redis, and ours."""
    theirs = RedisPubSubChannelLayer(hosts=list(hosts), **options)
    ours = redis_layer(theirs)
    assert ours is not None
    return theirs, ours


# With whom it speaks


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prefix": "liveé"},
        {"serializer_format": "json"},
        {"symmetric_encryption_keys": ["secret"]},
    ],
    ids=str,
)
async def test_it_understands_channels_redis_and_is_understood(valkey, options):
    """So old and new processes of one site run side by side."""
    theirs, ours = open_layer(valkey.url, **options)
    message = {**MESSAGE, "m": [[1, "t", "", "a", {}]]}
    mailbox = await theirs.new_channel()
    await theirs.group_add("g", mailbox)
    async with Listener(ours) as ann:
        await join(ours, "g", ann.channel)
        await until(lambda: numsub(valkey, theirs) == 2)
        await theirs.group_send("g", message)
        await ours.group_send("g", message)
        await ann.until(2)
        assert ann.messages == [message, message]
        async with limited():
            assert [await theirs.receive(mailbox) for _ in range(2)] == [message, message]
    await theirs.flush()


def numsub(valkey, layer):
    with valkey.client() as client:
        [(_, count)] = client.pubsub_numsub(f"{layer.prefix}__group__g")
    return count


async def test_what_is_sent_has_the_bytes_that_channels_redis_sends(server):
    theirs, ours = open_layer(server.url, prefix="é")
    await theirs.group_send("fws.g.x", MESSAGE)
    await ours.group_send("fws.g.x", MESSAGE)
    assert len(server.commands) == 2 and server.commands[0] == server.commands[1]
    assert server.commands[0][1] == "é__group__fws.g.x".encode()
    await theirs.flush()
    await ours.close()


async def test_each_name_is_on_the_host_that_channels_redis_chooses():
    async with ScriptedRedis() as first, ScriptedRedis() as second:
        theirs, ours = open_layer(first.url, second.url)
        async with Listener(ours) as ann:
            for number in range(20):
                await theirs.group_send(f"g{number}", MESSAGE)
                await ours.group_send(f"g{number}", MESSAGE)
                await join(ours, f"g{number}", ann.channel)
            for server in (first, second):
                sent = [name for name, _ in server.named(b"PUBLISH")]
                assert sent and sent[::2] == sent[1::2]
                assert [[name] for name in sent[::2]] == server.named(b"SUBSCRIBE")
            await theirs.flush()
        await ours.close()


async def test_a_thousand_groups_of_one_turn_are_one_write_of_one_command_each(server):
    _, ours = open_layer(server.url)
    await ours.group_send("first", MESSAGE)
    chunks, answers = server.chunks, []
    for number in range(1000):
        ours.publish(f"g{number}", MESSAGE, answers.append)
    assert answers == []
    await until(lambda: len(answers) == 1000, 0)
    assert len(server.commands) == 1001
    # The operating system may hand over one write in several pieces of 64 KiB.
    assert server.chunks - chunks <= 4
    await ours.close()


# Receiving


async def test_each_listener_gets_the_messages_of_its_own_groups_once(server):
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann, Listener(ours) as bob:
        await join(ours, "a", ann.channel)
        await join(ours, "a", ann.channel)
        await join(ours, "a", bob.channel)
        await join(ours, "b", bob.channel)
        await part(ours, "a", ann.channel)
        await join(ours, "c", ann.channel)
        subscriber = server.clients[0]
        for name in (b"a", b"b", b"c", b"d"):
            subscriber.say(server.message(b"asgi__group__" + name, name))
        await bob.until(2)
        await ann.until(1)
        assert bob.data == [b"a", b"b"] and ann.data == [b"c"]
        # Both were in it until now.
        assert server.named(b"UNSUBSCRIBE") == []
        await part(ours, "a", bob.channel)
        await part(ours, "a", bob.channel)
        assert server.named(b"UNSUBSCRIBE") == [[b"asgi__group__a"]]
    await ours.close()


async def test_who_is_in_a_group_and_does_not_listen_costs_nothing(server):
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann:
        await join(ours, "a", "stranger")
        await join(ours, "a", ann.channel)
        server.clients[0].say(server.message(b"asgi__group__a", b"1"))
        await ann.until(1)
    await ours.close()


async def test_a_loss_is_told_to_every_listener(server):
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann, Listener(ours) as bob:
        await join(ours, "a", ann.channel)
        ours.close_subscribers(ours.heard())
        assert len(ann.lost) == len(bob.lost) == 1
        await join(ours, "a", ann.channel)
    await ours.close()


async def test_a_redis_that_is_no_master_any_more_is_left(server):
    """By each connection: it would go on to carry messages, which the others do not get."""
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann:
        await join(ours, "g", ann.channel)
        await ours.group_send("g", MESSAGE)
        server.answer = lambda command: None
        sending = asyncio.ensure_future(ours.group_send("g", MESSAGE))
        await until(lambda: len(server.named(b"PUBLISH")) == 2)
        server.answer = server.confirm
        ours.reconnect("g")
        with pytest.raises(ConnectionError):
            await sending
        assert len(ann.lost) == 1
        await join(ours, "g", ann.channel)
        await ours.group_send("g", MESSAGE)
        assert server.connections == 4
    await ours.close()


async def test_sending_raises_what_redis_answers(server):
    server.answer = lambda command: b"-NOPERM no permissions\r\n"
    _, ours = open_layer(server.url)
    with pytest.raises(NoPermissionError):
        await ours.group_send("a", MESSAGE)
    with pytest.raises(TypeError):
        await ours.group_send("a", {"v": object()})
    # Whoever gives up waiting is no problem for the answer.
    sending = asyncio.ensure_future(ours.group_send("a", MESSAGE))
    await until(lambda: len(server.commands) == 2, 0)
    sending.cancel()
    await asyncio.wait([sending])
    with pytest.raises(NoPermissionError):
        await ours.group_send("a", MESSAGE)
    await ours.close()


# Beginning and end


async def test_the_links_of_one_loop_share_connections_that_stay_for_a_while(server, monkeypatch):
    monkeypatch.setattr(module, "IDLE", 3600)
    theirs, ours = open_layer(server.url)
    for _ in range(3):
        assert redis_layer(theirs) is ours
        async with Listener(ours) as ann:
            await join(ours, "a", ann.channel)
            await ours.group_send("a", MESSAGE)
    assert server.connections == 2
    await until(lambda: server.commands[-1] == [b"UNSUBSCRIBE", b"asgi__group__a"], 0)
    await ours.close()
    await until(lambda: not server.clients)


async def test_a_link_that_begins_while_another_one_ends_keeps_its_groups(server):
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann:
        async with Listener(ours) as bob:
            await asyncio.gather(*(join(ours, "a", one.channel) for one in (ann, bob)))
            await join(ours, "b", bob.channel)
        await ours.group_send("x", MESSAGE)
        await until(lambda: server.named(b"UNSUBSCRIBE"), 0)
        assert server.named(b"UNSUBSCRIBE") == [[b"asgi__group__b"]]
        assert ours._groups == {b"asgi__group__a": {ann.channel}}
    await ours.close()


async def test_connections_that_nobody_uses_are_closed(server, monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.01)
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann:
        await join(ours, "a", ann.channel)
        await ours.group_send("a", MESSAGE)
        assert len(server.clients) == 2
    await until(lambda: not server.clients)
    # The next use opens others.
    async with Listener(ours) as ann:
        await join(ours, "a", ann.channel)
    await until(lambda: not server.clients)
    assert server.connections == 3


async def test_the_end_of_the_last_link_ends_every_attempt(server):
    server.greet = lambda command: None
    _, ours = open_layer(server.url)
    async with Listener(ours) as ann:
        waiting = [
            asyncio.ensure_future(join(ours, "a", ann.channel)),
            asyncio.ensure_future(ours.group_send("a", MESSAGE)),
        ]
        await until(lambda: server.chunks == 2, 0)
    with pytest.raises(ConnectionError):
        await waiting[1]
    # Who does not listen any more is told nothing.
    assert not waiting[0].done()
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await until(lambda: not server.clients)
    await ours.close()


def test_a_loop_that_is_closed_closes_the_connections(valkey):
    """A ResourceWarning is an error in tests."""
    layer = RedisPubSubChannelLayer(hosts=[valkey.url])
    before = connected(valkey)

    async def use():
        ours = redis_layer(layer)
        ours.use()
        await join(ours, "a", await ours.new_channel())
        await ours.group_send("a", MESSAGE)
        return weakref.ref(asyncio.get_running_loop())

    loops = [asyncio.run(use()) for _ in range(2)]
    gc.collect()
    assert [loop() for loop in loops] == [None, None]
    assert wait_until(lambda: connected(valkey) <= before)


def connected(valkey):
    with valkey.client() as client:
        own = client.client_id()
        return {one["id"] for one in client.client_list()} - {str(own)}


def test_a_loop_that_is_closed_twice_or_while_it_runs_is_as_ever(valkey):
    loop = asyncio.new_event_loop()

    async def use():
        ours = redis_layer(RedisPubSubChannelLayer(hosts=[valkey.url]))
        await ours.group_send("a", MESSAGE)
        with pytest.raises(RuntimeError):
            loop.close()
        await ours.close()

    loop.run_until_complete(use())
    loop.close()
    loop.close()


def test_after_a_fork_the_child_has_connections_of_its_own(valkey):
    layer = RedisPubSubChannelLayer(hosts=[valkey.url])
    loop = asyncio.new_event_loop()

    async def use():
        ours = redis_layer(layer)
        await ours.group_send("a", MESSAGE)
        return ours

    parents = loop.run_until_complete(use())
    child = os.fork()
    if not child:
        status = 1
        try:
            asyncio.set_event_loop(None)
            assert asyncio.new_event_loop().run_until_complete(use()) is not parents
            # The connections are the parent's.
            loop.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    loop.run_until_complete(parents.group_send("a", MESSAGE))
    loop.close()


# Where redis-py does the work


class Sub(RedisPubSubChannelLayer):
    pass


class Own(Connection):
    pass


@pytest.mark.parametrize(
    "layer",
    [
        None,
        RedisChannelLayer(),
        Sub(),
        RedisPubSubChannelLayer(hosts=[{"host": "a", "connection_class": Own}]),
        RedisPubSubChannelLayer(hosts=["redis://a", {"host": "a", "encoding": "latin-1"}]),
        RedisPubSubChannelLayer(hosts=[{"host": "a", "no_such_option": 1}]),
        RedisPubSubChannelLayer(hosts="redis://a"),
        RedisPubSubChannelLayer(hosts=["http://a"]),
    ],
    ids=["none", "core", "subclass", "class", "encoding", "option", "text", "scheme"],
)
async def test_anything_else_has_none(layer):
    assert redis_layer(layer) is None and redis_layer(layer) is None


async def test_a_layer_of_another_shape_has_none(monkeypatch):
    layer = RedisPubSubChannelLayer()
    del layer._args
    monkeypatch.setattr(RedisPubSubChannelLayer, "__getattr__", object.__getattribute__)
    assert redis_layer(layer) is None


# Topologies


async def speaks(*hosts, **options):
    """A message comes back."""
    _, ours = open_layer(*hosts, **options)
    async with Listener(ours) as ann:
        await join(ours, "g", ann.channel)
        await ours.group_send("g", MESSAGE)
        await ann.until(1)
        assert ann.messages == [MESSAGE]
    await ours.close()


async def test_a_unix_socket_and_a_database(tmp_path):
    valkey = await asyncio.to_thread(Valkey, None, "--unixsocket", str(tmp_path / "s"))
    try:
        await speaks(f"unix://{tmp_path}/s?db=3")
    finally:
        await asyncio.to_thread(valkey.stop)


@pytest.mark.repeats
@pytest.mark.parametrize("protocol", [2, 3])
async def test_tls(tmp_path, protocol):
    key, certificate = write_pair(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with ScriptedRedis(protocol, ssl=context) as server:
        server.answer = lambda command: (
            (server.message(command[1], command[2]) if command[0] == b"PUBLISH" else b"")
            + server.confirm(command)
        )
        host = {"address": f"rediss://localhost:{server.port}", "protocol": protocol}
        # By default 5 s, in which a busy machine may not shake hands.
        host |= {"socket_connect_timeout": LIMIT, "socket_timeout": LIMIT}
        _, ours = open_layer({**host, "ssl_ca_certs": str(certificate)})
        async with Listener(ours) as ann:
            await join(ours, "g", ann.channel)
            [subscriber] = server.clients
            for _ in range(20):
                await ours.group_send("g", {**MESSAGE, "x": b"x" * 100_000})
            assert len(server.named(b"PUBLISH")) == 20
            subscriber.say(server.message(b"asgi__group__g", b"x" * 1_000_000))
            await ann.until(1)
            assert len(ann.data[0]) == 1_000_000
        await ours.close()
        await until(lambda: not server.clients)
        with pytest.raises(redis.ConnectionError):
            await open_layer(host)[1].group_send("g", MESSAGE)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_least_rights_and_a_channel_without_one(valkey, protocol):
    with valkey.client() as client:
        client.execute_command(
            *("ACL", "SETUSER", "site", "on", ">secret", "resetchannels", "&asgi__group__fws.*"),
            *("+subscribe", "+unsubscribe", "+publish"),
        )
    host = f"redis://site:secret@127.0.0.1:{valkey.port}/0?protocol={protocol}"
    _, ours = open_layer(host)
    async with Listener(ours) as ann:
        await join(ours, "fws.g", ann.channel)
        for refused in (join(ours, "other", ann.channel), ours.group_send("other", MESSAGE)):
            with pytest.raises(NoPermissionError):
                await refused
        await ours.group_send("fws.g", MESSAGE)
        await ann.until(1)
        assert ann.lost == []
        # Who loses the right is cut by Redis.
        with valkey.client() as client:
            client.execute_command("ACL", "SETUSER", "site", "resetchannels")
        await until(lambda: any(isinstance(error, NoPermissionError) for error in ann.lost))
    await ours.close()


@pytest.fixture(scope="module")
def sentinel(valkey_server):
    sentinel = Sentinel(valkey_server)
    yield sentinel
    sentinel.stop()


async def test_sentinels_that_are_gone_or_silent_do_not_hide_the_others(sentinel, settings):
    """With the machine of a master its Sentinel is gone, which redis-py asks first."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 8}
    with silent_address() as silent:
        sentinels = [silent, closed_address(), sentinel.address]
        _, ours = open_layer({"sentinels": sentinels, "master_name": "mymaster"})
        async with Listener(ours) as ann:
            # Both connections ask at the same time.
            await asyncio.gather(join(ours, "g", ann.channel), ours.group_send("other", MESSAGE))
            await ours.group_send("g", MESSAGE)
            await ann.until(1)
            pools = [host._pool for host in (*ours._commands.values(), *ours._subscribers.values())]
            for pool in pools:
                asked = pool.sentinel_manager.sentinels
                ports = [one.connection_pool.connection_kwargs["port"] for one in asked]
                assert sorted(ports) == sorted(port for _, port in sentinels)
                assert ports[0] == sentinel.port
        await ours.close()


@pytest.mark.parametrize("given", [None, {"socket_timeout": 60, "socket_connect_timeout": 0.5}])
async def test_each_sentinel_has_its_share_of_the_time(settings, given):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 3}
    sentinels = [("127.0.0.1", port) for port in (1, 2)]
    host = {"sentinels": sentinels, "master_name": "m", "sentinel_kwargs": given}
    _, ours = open_layer(host)
    [commands] = ours._commands.values()
    for sentinel in commands._pool.sentinel_manager.sentinels:
        options = sentinel.connection_pool.connection_kwargs
        assert options["socket_timeout"] == 1
        assert options["socket_connect_timeout"] == (0.5 if given else 1)
    assert host["sentinel_kwargs"] is given
    await ours.close()


async def test_the_master_that_sentinel_names_is_found_again_after_a_failover():
    first = await asyncio.to_thread(Valkey)
    second = await asyncio.to_thread(
        Valkey, None, "--replicaof", "127.0.0.1", str(first.port), "--repl-diskless-sync-delay", "0"
    )
    sentinel = await asyncio.to_thread(Sentinel, first)
    try:
        await asyncio.to_thread(sentinel.said, r"\+slave ")
        _, ours = open_layer({"sentinels": [sentinel.address], "master_name": "mymaster"})
        async with Listener(ours) as ann:
            await join(ours, "g", ann.channel)
            await ours.group_send("g", MESSAGE)
            await ann.until(1)
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(sentinel.said, r"\+switch-master ")
            await until_sent(ours, ann)
            assert len(ann.lost) >= 1
            with second.client() as client:
                assert "asgi__group__g" in client.pubsub_channels()
        await ours.close()
    finally:
        for process in (sentinel, second, first):
            await asyncio.to_thread(process.stop)


async def until_sent(layer, listener):
    """Send until a message comes back."""
    count = len(listener.data)

    async def send():
        while True:
            try:
                await layer.group_send("g", MESSAGE)
            except Exception:
                await asyncio.sleep(0.05)

    sending = asyncio.ensure_future(send())
    await listener.until(count + 1)
    await end_tasks([sending])


# Commands of other wings


async def test_a_command_goes_to_the_host_of_its_group_in_order_with_messages(valkey):
    theirs, ours = open_layer(valkey.url)
    async with Listener(ours) as listener:
        await join(ours, "g", listener.channel)
        assert ours.channel_of("g") == theirs._get_layer()._get_group_channel_name("g")
        answers = []
        ours.publish("g", {"n": 1}, answers.append)
        ours.execute("g", ("PUBLISH", ours.channel_of("g"), theirs.serialize({"n": 2})), id)
        ours.execute("g", ("NO SUCH",), answers.append)
        ours.publish("g", {"n": 3}, answers.append)
        await listener.until(3)
        await until(lambda: len(answers) == 3)
        assert listener.messages == [{"n": 1}, {"n": 2}, {"n": 3}]
        assert isinstance(answers[1], redis.ResponseError)


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [
        ({}, True),
        ({"serializer_format": "json"}, False),
        ({"symmetric_encryption_keys": ["secret"]}, False),
    ],
    ids=str,
)
async def test_it_is_known_whether_a_script_can_write_its_messages(valkey, options, is_plain):
    _, ours = open_layer(valkey.url, **options)
    assert ours.is_plain is is_plain


def test_messages_of_a_layer_that_does_not_show_its_serializer_are_not_written():
    assert not module._is_plain(type("Layer", (), {})())
