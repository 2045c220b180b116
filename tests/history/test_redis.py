"""The histories in Redis: history.redis."""

import asyncio
import contextlib
import itertools
import shutil
from types import SimpleNamespace

import msgpack
import pytest
import redis
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.exceptions import MovedError, OutOfMemoryError, ResponseError

from filtered_websocket.history.base import EMPTY_TTL, POSITION_TTL, Page, Position, Retention
from filtered_websocket.history.hosts import RIGHTS, SlotMoving, slot_of
from filtered_websocket.history.redis import MAX_TOGETHER, MAX_TOGETHER_BYTES, RedisHistory
from filtered_websocket.history.scripts import keys_of
from filtered_websocket.layer.envelope import Item, group_key, unseal
from filtered_websocket.layer.health import LOST
from filtered_websocket.layer.names import needed_rights
from filtered_websocket.layer.redis_layer import redis_layer

from ..e2e.processes import Process, Valkey, free_port
from ..e2e.topologies import Cluster, Move
from ..layer.scripted_redis import ScriptedRedis
from ..waiting import LIMIT, limited, until, wait_until
from .worlds import KEY, RETENTION, append, batch_of, texts

pytestmark = pytest.mark.usefixtures("time_enough")

BASE = "fws:{" + KEY.partition(".g.")[2] + "}:"
INFO = b"$8\r\nrun_id:a\r\n"


@pytest.fixture
def client(valkey):
    with valkey.client() as client:
        client.config_resetstat()
        yield client


@pytest.fixture
async def server():
    async with ScriptedRedis() as server:
        server.answer = lambda command: INFO if command[0] == b"INFO" else b"+?\r\n"
        yield server


class Opened:
    """``async with``: the store of a layer with these hosts."""

    def __init__(self, *hosts, **options):
        self.layer = RedisPubSubChannelLayer(hosts=list(hosts), **options)

    async def __aenter__(self):
        self.redis = redis_layer(self.layer)
        self.store = RedisHistory(self.layer, self.redis)
        return self.store

    async def __aexit__(self, *_):
        await self.redis.close()


# Publishing


async def test_a_batch_is_published_with_the_offsets_that_it_gets(valkey, client):
    item = Item(1, "b", "ann", b"\xff", {"x": ["bob"], "e": "news"})
    batch = batch_of(*"ab")._replace(items=[item] * 20)
    with redis.Redis.from_url(valkey.url) as listener, listener.pubsub() as pubsub:
        pubsub.subscribe(f"asgi__group__{KEY}")
        assert pubsub.get_message(timeout=LIMIT)["type"] == "subscribe"
        async with Opened(valkey.url) as store:
            assert store.publishes
            first = await append(store, batch)
            assert await append(store, batch) == first
            second = await append(store, batch._replace(first=20, items=[item]))
        assert second == Position(first.epoch, 21)
        received = [pubsub.get_message(timeout=LIMIT)["data"] for _ in range(2)]
        # A batch that came again is not published again.
        assert pubsub.get_message(timeout=0) is None
    for data, count, offset in zip(received, (20, 1), (1, 21), strict=True):
        kept = batch._replace(first=offset, items=[item] * count, epoch=first.epoch)
        assert unseal(msgpack.unpackb(data)) == kept
        assert data.endswith(b"\xa1s\xcf" + offset.to_bytes(8, "big"))


async def test_what_is_encrypted_is_kept_encrypted_and_sent_by_the_caller(valkey, client):
    async with Opened(valkey.url, symmetric_encryption_keys=["secret"]) as store:
        assert not store.publishes
        await append(store, batch_of("plain words"))
        assert texts(await store.read(KEY)) == ["plain words"]
    [stored] = client.lrange(BASE + "h", 0, -1)
    assert "plain" not in stored and client.info("commandstats").get("cmdstat_publish") is None


async def test_a_layer_of_another_format_publishes_nothing_by_itself(valkey, client):
    async with Opened(valkey.url, serializer_format="json") as store:
        assert not store.publishes
        await append(store, batch_of("a"))
        assert texts(await store.read(KEY)) == ["a"]


async def test_a_batch_costs_redis_few_commands(valkey, client):
    async with Opened(valkey.url) as store:
        for origin in "opqrs":
            await append(store, batch_of(*"abcde", origin=origin))
        numbers = itertools.count(5)
        # Four origins have their last batches beside the position.
        for origins, more in (("s", {}), ("pqrs", {}), ("opqrs", {"get": 20, "set": 20})):
            client.config_resetstat()
            for origin in (origins * 20)[:20]:
                await append(store, batch_of("a", origin=origin, number=next(numbers)))
            each = dict.fromkeys(("get", "rpush", "ltrim", "set", "publish"), 20)
            calls = {
                name[8:]: stats["calls"] for name, stats in client.info("commandstats").items()
            }
            for name in more:
                each[name] += more[name]
            assert calls == each | {"evalsha": 20, "config|resetstat": 1}, origins


async def test_batches_of_many_groups_go_out_in_one_call(valkey, client):
    keys = [group_key(f"g{number}") for number in range(MAX_TOGETHER + 3)]
    async with Opened(valkey.url) as store:
        await append(store, batch_of("a"))
        client.config_resetstat()
        first = [append(store, batch_of("a", number=1, key=key)) for key in keys]
        assert [(await one).offset for one in first] == [1] * len(keys)
        large = [batch_of("a" * MAX_TOGETHER_BYTES, number=2, key=key) for key in keys[:3]]
        await asyncio.gather(*(append(store, batch) for batch in large))
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 2 + 3
        for key in keys[3:]:
            assert texts(await store.read(key)) == ["a"]


async def test_what_is_wrong_with_one_group_is_no_matter_of_the_others(valkey, client):
    keys = [group_key(f"g{number}") for number in range(3)]
    names = ["fws:{" + key.partition(".g.")[2] + "}:h" for key in keys]
    client.set(names[1], "no list")
    async with Opened(valkey.url) as store:
        client.set(
            names[1].replace("}:h", "}:m"), "e" * 16 + "r" * 16 + "\0" * 12, POSITION_TTL * 2
        )
        answers = [append(store, batch_of("a", key=key)) for key in keys]
        answers += [append(store, batch_of("b", number=1, key=key)) for key in keys]
        found = await asyncio.gather(*answers, return_exceptions=True)
    assert [getattr(answer, "offset", None) for answer in found] == [1, None, 1, 2, None, 2]
    assert isinstance(found[1], ResponseError) and "WRONGTYPE" in str(found[1])
    assert client.llen(names[0]) == client.llen(names[2]) == 2


async def test_a_bug_of_who_gets_an_answer_costs_no_other_answer(valkey, client, caplog):
    async with Opened(valkey.url) as store:
        for number in range(2):
            store.append(batch_of("a", number=number), RETENTION, lambda answer: 1 / 0)
        answer = await append(store, batch_of("a", key=group_key("other")))
    assert answer.offset == 1
    assert caplog.text.count("cannot handle an answer of Redis to fws.g.") == 1


async def test_many_positions_are_asked_for_in_one_write(server):
    answer = b"*5\r\n$1\r\ne\r\n:7\r\n:1\r\n:8\r\n*0\r\n"
    server.answer = lambda command: INFO if command[0] == b"INFO" else answer
    async with Opened(server.url) as store:
        await store.tops([KEY])
        chunks = server.chunks
        keys = [group_key(f"g{number}") for number in range(100)]
        assert await store.tops(iter(keys)) == dict.fromkeys(keys, Position("e", 7))
        assert server.chunks - chunks <= 2 and len(server.named(b"EVALSHA")) == 101


# How long it is kept


async def test_each_key_has_its_time(valkey, client):
    async with Opened(valkey.url) as store:
        for origin in "opqrs":
            await append(store, batch_of("a", origin=origin), Retention(9, 50), key=origin)
        await store.read(group_key("empty"))
    names = sorted(client.keys())
    ttls = {name.rpartition("}:")[2][0] for name in names if 0 < client.ttl(name) <= 604_850}
    assert len(names) == 9 and ttls == {"m", "h", "p", "k"}
    assert 50 < client.ttl(BASE + "h") + 1 <= 64 < client.ttl(BASE + "m") - 600_000
    assert client.ttl(BASE + "p:o") <= 300


async def test_whoever_appends_leaves_the_time_that_is_promised(valkey, client):
    retention = Retention(9, 1000)
    async with Opened(valkey.url) as store, Opened(valkey.url) as other:
        await append(store, batch_of("a"), retention)
        assert 1000_000 < client.pttl(BASE + "h") <= 1250_000
        # As long after as another one may count on it.
        client.pexpire(BASE + "h", 1125_000)
        await append(store, batch_of("b", number=1), retention)
        assert 1000_000 < client.pttl(BASE + "h") <= 1125_000
        await append(other, batch_of("c", origin="p"), retention)
        assert client.pttl(BASE + "h") > 1125_000
        client.pexpire(BASE + "h", 1125_000)
        # A batch that came before: what it was to renew may have been renewed long ago.
        async with Opened(valkey.url) as again:
            await append(again, batch_of("c", origin="p"), retention)
        assert client.pttl(BASE + "h") > 1125_000
        await store.forget(KEY)
        await append(store, batch_of("d", number=2), retention)
        assert client.pttl(BASE + "h") > 1125_000
        client.pexpire(BASE + "h", 1)
        assert await asyncio.to_thread(wait_until, lambda: not client.exists(BASE + "h"))
        await append(store, batch_of("e", number=3), retention)
        assert client.pttl(BASE + "h") > 1125_000


async def test_what_is_published_to_all_the_time_keeps_its_time(valkey, client):
    retention = Retention(9, 1000)
    async with Opened(valkey.url) as store:
        now = 0
        store.loop = SimpleNamespace(time=lambda: now)
        for number in range(30):
            await append(store, batch_of("a", number=number), retention)
            left = client.pttl(BASE + "h")
            assert left > 1000_000
            # The next one comes before this publisher has to renew it.
            now += 100
            client.pexpire(BASE + "h", left - 100_000)


async def test_what_is_older_than_the_time_is_given_to_nobody(valkey, client):
    retention = Retention(9, 1000)
    async with Opened(valkey.url) as store, Opened(valkey.url) as other:
        first = await append(store, batch_of("a"), retention)
        assert texts(await store.read(KEY)) == ["a"]
        # As after 1000 s: Redis frees the list later.
        client.pexpire(BASE + "m", POSITION_TTL * 1000)
        assert client.exists(BASE + "h")
        assert await store.read(KEY, first._replace(offset=0)) == Page([], first, recovered=False)
        assert await store.read(KEY, first) == await store.read(KEY) == Page([], first)
        await append(other, batch_of("b", origin="p"), retention)
        assert texts(await store.read(KEY)) == ["b"]


async def test_no_more_is_kept_than_the_size_and_an_eighth_and_no_more_is_read(valkey, client):
    lengths = set()
    async with Opened(valkey.url) as store:
        for number in range(40):
            seen = await append(store, batch_of(str(number), number=number), Retention(16, 60))
            lengths.add(client.llen(BASE + "h"))
            expected = list(map(str, range(max(0, number - 15), number + 1)))
            assert texts(await store.read(KEY)) == expected
            page = await store.read(KEY, seen._replace(offset=max(0, seen.offset - 16)))
            assert page.recovered and texts(page) == expected
            if number >= 16:
                older = seen._replace(offset=seen.offset - 17)
                assert not (await store.read(KEY, older)).recovered
        assert max(lengths) == 18
        # Another size counts from the next publication on.
        await append(store, batch_of("z", number=40), Retention(2, 60))
        assert texts(await store.read(KEY)) == ["39", "z"] and client.llen(BASE + "h") == 2


async def test_who_asks_for_what_nobody_publishes_leaves_nothing_for_long(valkey, client):
    async with Opened(valkey.url) as store:
        first = (await store.read(KEY)).position
        assert 0 < client.pttl(BASE + "m") <= EMPTY_TTL * 1000
        # Whoever follows it asks again and again.
        client.pexpire(BASE + "m", EMPTY_TTL * 500)
        assert await store.tops([KEY]) == {KEY: first}
        assert client.pttl(BASE + "m") > EMPTY_TTL * 500
        # What comes then is all that was published since.
        await append(store, batch_of("a"), Retention(9, 50))
        page = await store.read(KEY, first)
        assert page.recovered and texts(page) == ["a"]
        assert client.ttl(BASE + "m") > POSITION_TTL
        lone = (await store.read(group_key("lone"))).position
        client.flushall()
        assert not (await store.read(group_key("lone"), lone)).recovered


async def test_what_is_unknown_is_forgotten_without_a_trace(valkey, client):
    async with Opened(valkey.url) as store:
        await store.forget(KEY)
    assert client.keys() == []


async def test_an_item_that_cannot_be_read_is_told_as_a_loss(valkey, client, caplog):
    async with Opened(valkey.url) as store:
        position = await append(store, batch_of("a"))
        client.rpush(BASE + "h", "no item")
        for _ in range(2):
            page = await store.read(KEY)
            assert page == ([], position, False)
        await store.forget(KEY)
        assert (await store.read(KEY)).recovered
    assert caplog.text.count("cannot read what Redis keeps of the group fws.g.") == 1


# Another server


async def test_what_a_replica_had_not_got_is_told_when_it_is_the_master():
    old = await asyncio.to_thread(Valkey)
    new = await asyncio.to_thread(Valkey, None, "--replicaof", f"127.0.0.1 {old.port}")
    try:
        async with Opened(old.url) as before, Opened(new.url) as after:
            with new.client() as replica:
                assert wait_until(lambda: replica.info()["master_link_status"] == "up")
                seen = await append(before, batch_of(*"abc"))
                assert wait_until(lambda: replica.llen(BASE + "h") == 3)
                # A reader of a replica that has all is served; a writer must go elsewhere.
                with pytest.raises(ConnectionError, match="no longer the master"):
                    await append(after, batch_of("x", origin="p"))
                replica.replicaof("no", "one")
                lost = await append(before, batch_of("d", number=3))
            for since in (seen, lost):
                page = await after.read(KEY, since)
                assert not page.recovered and page.position.offset == 3
            again = await append(after, batch_of("d", number=3))
            assert (again.offset, again.epoch) == (4, page.position.epoch) != lost
            assert texts(await after.read(KEY, page.position)) == ["d"]
            assert texts(await after.read(KEY)) == list("abcd")
    finally:
        for server in (new, old):
            await asyncio.to_thread(server.stop)


async def test_a_server_that_starts_again_without_data_is_told():
    valkey = await asyncio.to_thread(Valkey)
    try:
        async with Opened(valkey.url) as store:
            seen = await append(store, batch_of(*"abc"))
            valkey = await asyncio.to_thread(valkey.restart)
            page = await read_when_it_is_back(store, seen)
            assert not page.recovered and page.position.offset == 0
            assert (await append(store, batch_of("d", number=3))).offset == 1
            assert not (await store.read(KEY, seen)).recovered
    finally:
        await asyncio.to_thread(valkey.stop)


async def read_when_it_is_back(store, since):
    async with limited():
        while True:
            with contextlib.suppress(*LOST):
                return await store.read(KEY, since)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("error", ["-OOM command not allowed", "-ERR no such thing"])
async def test_an_error_of_redis_is_the_answer(server, error):
    server.answer = lambda command: (
        INFO if command[0] == b"INFO" else error.encode() + b" when used\r\n"
    )
    async with Opened(server.url) as store:
        with pytest.raises(OutOfMemoryError if "OOM" in error else ResponseError):
            await append(store, batch_of("a"))


NOT_READY = (b"-CLUSTERDOWN The cluster is down\r\n", b"-BUSY Redis is busy running a script\r\n")
PAGE = b"*5\r\n$1\r\ne\r\n:7\r\n:1\r\n:8\r\n*0\r\n"


@pytest.mark.parametrize("answer", NOT_READY)
async def test_a_redis_that_is_not_ready_is_away_for_all_batches_of_a_call(server, answer):
    server.answer = lambda command: INFO if command[0] == b"INFO" else answer
    async with Opened(server.url) as store:
        assert await store.answers()
        batches = [append(store, batch_of("a", key=group_key(name))) for name in "xyz"]
        errors = await asyncio.gather(*batches, return_exceptions=True)
        assert all(type(error) is ConnectionError for error in errors)
        assert "this Redis is not ready" in str(errors[0])
        # Not each alone, as where something is wrong with one of them.
        assert len(server.named(b"EVALSHA")) == 1
        assert not await store.answers()
        server.answer = lambda command: b"-NOPERM no\r\n"
        assert await store.answers()
        server.answer = lambda command: PAGE
        assert await store.answers()
        assert server.connections == 1


async def test_who_has_no_store_any_more_waits_for_nothing(server):
    server.answer = lambda command: INFO if command[0] == b"INFO" else NOT_READY[0]
    async with Opened(server.url) as store:
        with pytest.raises(ConnectionError):
            await append(store, batch_of("a"))
        await store.close()
        assert await store.answers()
        assert len(server.named(b"EVALSHA")) == 1


async def test_a_redis_that_is_no_master_any_more_is_left(server):
    """With the connections of the layer, which a replica would take messages from."""
    readonly = b"-READONLY You can't write against a read only replica.\r\n"
    answers = {b"INFO": INFO, b"PUBLISH": b":1\r\n", b"EVALSHA": readonly}
    server.answer = lambda command: answers[command[0]]
    opened = Opened(server.url)
    async with opened as store:
        await opened.redis.group_send("g", {})
        with pytest.raises(ConnectionError, match="no longer the master"):
            await append(store, batch_of("a"))
        answers[b"EVALSHA"] = APPENDED
        assert (await append(store, batch_of("a"))).offset == 7
        await opened.redis.group_send("g", {})
        assert server.connections == 4


async def test_connections_of_a_store_without_a_layer_leave_it_as_well(server):
    answers = [b"-READONLY You can't write against a read only replica.\r\n", APPENDED]
    server.answer = lambda command: INFO if command[0] == b"INFO" else answers.pop(0)
    store = RedisHistory(RedisChannelLayer(hosts=[server.url]))
    with pytest.raises(ConnectionError, match="no longer the master"):
        await append(store, batch_of("a"))
    assert (await append(store, batch_of("a"))).offset == 7
    assert server.connections == 2
    await store.close()


async def test_a_server_without_a_run_id_keeps_nothing(server):
    server.answer = lambda command: b"$8\r\nrun_id:\r\r\n"
    async with Opened(server.url) as store:
        with pytest.raises(RuntimeError, match="has no run_id"):
            await append(store, batch_of("a"))
        assert server.named(b"EVALSHA") == []
        await until(lambda: not server.clients)


async def test_who_waits_no_longer_is_no_problem_for_the_answer(server):
    server.answer = lambda command: INFO if command[0] == b"INFO" else None
    async with Opened(server.url) as store:
        reading = asyncio.ensure_future(store.read(KEY))
        await until(lambda: server.named(b"EVALSHA"), 0)
        reading.cancel()
        await asyncio.wait([reading])
        server.answer = lambda command: b"$1\r\n?\r\n"
        server.clients[0].say(b"$1\r\n?\r\n")
        async with limited():
            await store.forget(KEY)


async def test_a_layer_that_is_closed_waits_for_no_run_id(server):
    server.answer = lambda command: None
    async with Opened(server.url) as store:
        reading = asyncio.ensure_future(store.read(KEY))
        await until(lambda: server.named(b"INFO"), 0)
    with pytest.raises(ConnectionError):
        await reading
    await until(lambda: not server.clients)


# Rights, versions and topologies


async def test_the_rights_that_are_named_are_enough_and_a_missing_one_is_named(valkey, client):
    layer = RedisPubSubChannelLayer(hosts=[valkey.url])
    rights = f"{needed_rights(layer)} ~fws:* {RIGHTS}".split()
    client.acl_setuser("site", enabled=True, nopass=True)
    url = valkey.url.replace("//", "//site:x@")
    for given, missing in ((rights, False), ([r for r in rights if r != "+info"], True)):
        client.execute_command("ACL", "SETUSER", "site", "reset", "on", "nopass", *given)
        async with Opened(url) as store:
            if missing:
                with pytest.raises(PermissionError, match=r"needs .* ~fws:\* \+info"):
                    await append(store, batch_of("a"))
                continue
            seen = await append(store, batch_of(*"abcdefg"), key="order 1")
            assert (await store.read(KEY, seen)).recovered
            await store.forget(KEY)
            client.delete(BASE + "m")
            assert texts(await store.read(KEY)) == []
    client.acl_deluser("site")


async def speaks(url):
    async with Opened(url) as store:
        seen = await append(store, batch_of("a"))
        await append(store, batch_of(*"bc", number=1))
        page = await store.read(KEY, seen)
        assert texts(page) == ["b", "c"] and page.recovered
        assert texts(await store.read(KEY, limit=2, reverse=True)) == ["c", "b"]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_versions_of_the_protocol(valkey, client, protocol):
    await speaks(f"{valkey.url}?protocol={protocol}")


async def test_the_redis_of_debian(tmp_path):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path))
    server = Process([program, *options])
    try:
        server.said("Ready to accept connections")
        await speaks(f"redis://127.0.0.1:{port}")
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_cluster_has_all_keys_of_a_group_in_one_slot():
    # By default the port of its bus is 10 000 above, where other programs take theirs.
    options = "--cluster-enabled", "yes", "--cluster-port", str(free_port())
    valkey = await asyncio.to_thread(Valkey, None, *options)
    try:
        with valkey.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            assert wait_until(
                lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
            )
            await speaks(valkey.url)
            async with Opened(valkey.url) as store:
                for origin in "pqrs":
                    await append(store, batch_of("d", origin=origin), RETENTION, key=origin)
            slots = {
                client.execute_command("CLUSTER", "KEYSLOT", name) for name in client.scan_iter()
            }
            assert len(client.keys()) == 3 + 4 and len(slots) == 1
    finally:
        await asyncio.to_thread(valkey.stop)


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.stop()


GROUPS = [group_key(f"room {number}") for number in range(20)]


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}], ids=str)
async def test_a_cluster_is_asked_where_the_keys_are(cluster, options):
    for node in cluster.nodes:
        cluster.do(node, "FLUSHALL")
    async with Opened(cluster.nodes[0].url, **options) as store:
        for number in range(2):
            batches = [batch_of("a", number=number, key=key) for key in GROUPS]
            answers = await asyncio.gather(*(append(store, batch) for batch in batches))
            assert [answer.offset for answer in answers] == [number + 1] * len(GROUPS)
        assert {top.offset for top in (await store.tops(GROUPS)).values()} == {2}
        assert len(store.hosts._nodes) == 2
        # A node that fails is forgotten: the one that was named asks who has its slots.
        for node in store.hosts._nodes.values():
            node._connection.abort(ConnectionError("lost"))
            options = node._pool.connection_kwargs
            port, options["port"] = options["port"], 1
            found = await asyncio.gather(*map(store.read, GROUPS), return_exceptions=True)
            options["port"] = port
            assert any(isinstance(one, LOST) for one in found)
            assert node not in store.hosts._owners.values()
        async with limited():
            for key in GROUPS:
                assert texts(await store.read(key)) == ["a", "a"]
        await store.close()
    assert sum(cluster.do(node, "DBSIZE") for node in cluster.nodes) == 2 * len(GROUPS)


async def test_no_node_is_asked_for_who_has_ended(server):
    server.answer = lambda command: INFO if command[0] == b"INFO" else b"-MOVED 1 a:1\r\n"
    async with Opened(server.url) as store:
        answer = append(store, batch_of("a"))
        await store.close()
        with pytest.raises(MovedError):
            await answer


#: What a node says of keys on their way to another one: it has none, some, or not this one.
MOVING = (
    b"-ASK 1 127.0.0.1:1\r\n",
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    b"-ERR Script attempted to access a non local key in a cluster node script: a\r\n",
)
APPENDED = b"*1\r\n$25\r\n" + b"e" * 16 + (7).to_bytes(8, "big") + b"\0\r\n"


async def test_while_keys_move_a_call_is_tried_again(server):
    answers = iter([*MOVING, APPENDED])
    server.answer = lambda command: INFO if command[0] == b"INFO" else next(answers)
    async with Opened(server.url) as store, limited():
        assert await append(store, batch_of("a")) == Position("e" * 16, 7)
    assert len(server.named(b"EVALSHA")) == len(MOVING) + 1


async def test_a_move_that_takes_longer_than_layer_timeout_is_told(server):
    server.answer = lambda command: INFO if command[0] == b"INFO" else MOVING[0]
    async with Opened(server.url) as store:
        loop, now = store.loop, itertools.count(0, LIMIT / 3)
        store.loop = SimpleNamespace(
            time=lambda: next(now), call_later=lambda _, *call: loop.call_soon(*call)
        )
        async with limited():
            with pytest.raises(SlotMoving, match=r"is moving the keys of this group .* \(AskError"):
                await append(store, batch_of("a"))
    # For as long as LAYER_TIMEOUT, which is LIMIT here.
    assert len(server.named(b"EVALSHA")) == 4


async def test_a_call_that_waits_for_a_move_fails_when_the_store_is_closed(server):
    server.answer = lambda command: INFO if command[0] == b"INFO" else MOVING[1]
    async with Opened(server.url) as store, limited():
        answer = append(store, batch_of("a"))
        await until(lambda: len(server.named(b"EVALSHA")) > 1)
        await store.close()
        with pytest.raises(SlotMoving):
            await answer


async def test_while_a_slot_moves_a_batch_is_appended_once_or_changes_nothing(cluster):
    key, retention = group_key("moves"), Retention(50, 60)
    async with Opened(cluster.nodes[0].url) as store:
        loop, waits = store.loop, []

        def call_later(*call):
            waits.append(call)
            return loop.call_later(*call)

        def say(origin, number, known=""):
            text = f"{origin}{number}"
            batch = batch_of(text, origin=origin, number=number, key=key)
            return append(store, batch, retention, known)

        store.loop = SimpleNamespace(time=loop.time, call_later=call_later)
        # The last four origins are beside the position, the others have keys of their own.
        [first, *_] = [await say(origin, 0) for origin in "opqrst"]
        await say("t", 1, "order 1")
        move = await asyncio.to_thread(Move, cluster, slot_of(key))
        # What needs no other keys than those goes on.
        assert (await say("t", 2)).offset == 8
        assert (await say("t", 3, "order 1")).repeated
        # That of "o" would make a key for another origin.
        waiting = [say("o", 1), say("s", 1, "order 2"), say("u", 0)]
        await until(lambda: len(waits) >= 6)
        assert cluster.do(move.source, "LLEN", keys_of(key)[1]) == 8
        for name in await asyncio.to_thread(move.left):
            await asyncio.to_thread(move.take, name)
            seen = len(waits)
            await until(lambda seen=seen: len(waits) >= seen + 3)
        assert not any(one.done() for one in waiting)
        await asyncio.to_thread(move.finish)
        async with limited():
            places = await asyncio.gather(*waiting)
        # The answers were lost, say: it is the other node that knows them now.
        again = [say("o", 1), say("s", 1, "order 2"), say("u", 0)]
        assert await asyncio.gather(*again) == places
        page = await store.read(key)
        assert texts(page)[:8] == ["o0", "p0", "q0", "r0", "s0", "t0", "t1", "t2"]
        assert sorted(texts(page)[8:]) == ["o1", "s1", "u0"]
        assert page.publications[0].offset == 1 and page.position.offset == 11
        # Another server has them, as after a failover: nobody can tell that nothing is lost.
        assert not (await store.read(key, first)).recovered
        await store.close()


@pytest.mark.parametrize("subclass", [False, True])
async def test_another_layer_of_channels_redis_has_connections_of_its_own(valkey, client, subclass):
    class Own(RedisPubSubChannelLayer):
        """May change messages."""

    layer = (Own if subclass else RedisChannelLayer)(hosts=[valkey.url])
    store = RedisHistory(layer)
    assert not store.publishes
    seen = await append(store, batch_of("a"))
    await append(store, batch_of(*"bc", number=1))
    page = await store.read(KEY, seen)
    assert page.recovered and texts(page) == ["b", "c"]
    assert client.info("commandstats").get("cmdstat_publish") is None
    await store.close()
    unused = RedisHistory(layer)
    waiting = append(unused, batch_of("d", number=3))
    await unused.close()
    with pytest.raises(ConnectionError):
        await waiting


async def test_each_group_is_kept_where_its_channel_is():
    async with ScriptedRedis() as one, ScriptedRedis() as other:
        for server in (one, other):
            server.answer = lambda command: INFO if command[0] == b"INFO" else b"*1\r\n$0\r\n\r\n"
        async with Opened(one.url, other.url) as store:
            for number in range(20):
                key = group_key(f"g{number}")
                await store.forget(key)
                store.append(batch_of("a", key=key), RETENTION, lambda answer: None)
                await store.forget(key)
            for server in (one, other):
                names = [command[2] for command in server.named(b"EVALSHA")]
                assert names and names[::3] == names[1::3] == names[2::3]
