"""Presence in a real Redis: presence.redis and presence.scripts."""

import asyncio
from collections import Counter

import pytest
from redis.crc import key_slot
from redis.exceptions import NoScriptError, ResponseError

from filtered_websocket.conf import conf
from filtered_websocket.presence.base import Call, Entry, Info, Stats
from filtered_websocket.presence.ledger import Ledger
from filtered_websocket.presence.redis import AT_ONCE, COMMANDS, RedisStore

from ..waiting import until
from .worlds import LEASE, call, entry, redis_world


class Counted:
    """A host that counts commands, and how often one is sent when all have been answered."""

    def __init__(self, host):
        self._host = host
        self.is_plain = host.is_plain
        self.channel_of = host.channel_of
        self.commands = []
        self.round_trips = self._open = 0

    def execute(self, group, command, on_reply):
        self.commands.append(command)
        self.round_trips += not self._open
        self._open += 1

        def take(reply):
            self._open -= 1
            on_reply(reply)

        self._host.execute(group, command, take)

    def take(self):
        commands, self.commands = self.commands, []
        return [command[0] for command in commands]


@pytest.fixture
def counted(redis):
    return Counted(redis.layer)


def keys_of(redis, group):
    return {kind: redis.leases(group, kind) for kind in "lue"}


async def test_all_keys_of_a_group_are_in_one_slot_and_end_together(redis):
    await call(redis.store, "a", "g", ("c1", entry("ann")))
    names = sorted(redis.client.keys())
    assert len(set(map(key_slot, map(str.encode, names)))) == 1
    assert names == sorted(keys_of(redis, "g").values())
    assert all(name.startswith(f"{conf.NAMESPACE}:{{") for name in names)
    ends = {redis.client.execute_command("PEXPIRETIME", name) for name in names}
    lease = int(float(redis.client.hget(redis.leases("g"), "a")))
    assert ends == {lease + LEASE * 1000 // 3}


async def test_an_empty_group_has_no_keys(redis):
    await call(redis.store, "a", "g", ("c1", entry("ann")), ("c2", entry()))
    await call(redis.store, "a", "g", ("c1", None), ("c2", None))
    await call(redis.store, "b", "g", expires=True)
    assert redis.client.keys() == []


async def test_a_lease_ends_by_redis_own_clock(redis):
    """The only test that waits for it: 1 ms, and the keys stay for as long as the other's."""
    short = RedisStore(redis.layer, 0.001)
    await call(short, "dead", "g", ("c1", entry("ann")))
    await call(redis.store, "b", "g", ("c2", entry()))
    gone, there = [], True
    while there and not gone:
        gone += (await call(redis.store, "b", "g", expires=True)).events
        there = "c1" in (await redis.store.members("g")).entries
    # A busy machine may have taken so long that all keys had ended before the second join.
    assert [event.connection for event in gone] in (["c1"], [])
    assert list((await redis.store.members("g")).entries) == ["c2"]


async def test_what_nobody_renews_is_gone_with_its_keys(redis):
    await call(RedisStore(redis.layer, 0.001), "a", "g", ("c1", entry()))
    await until(lambda: redis.client.keys() == [])
    assert await redis.store.members("g") == (0, {})


async def test_a_script_that_redis_does_not_know_is_sent_once(redis, counted):
    redis.client.script_flush()
    store = RedisStore(counted, LEASE)
    await call(store, "a", "g", ("c1", entry()))
    assert counted.take() == ["EVALSHA", "EVAL"]
    await call(store, "a", "g", ("c2", entry()))
    assert counted.take() == ["EVALSHA"]


@pytest.mark.parametrize("kind", "lue")
async def test_when_redis_evicts_a_key_the_next_renewals_bring_everyone_back(redis, kind):
    """A site whose Redis has a limit of memory may lose any one of the three."""
    ledgers = [Ledger(redis.store, origin) for origin in "ab"]
    for ledger in ledgers:
        ledger.add("g", f"c-{ledger.origin}", Info("ann"))
        await ledger.flush()
    redis.client.delete(keys_of(redis, "g")[kind])
    for _ in range(2):
        for ledger in ledgers:
            await ledger.renew()
            await ledger.flush()
    assert sorted((await redis.store.members("g")).entries) == ["c-a", "c-b"]
    assert await redis.store.stats("g") == Stats(2, 1)


async def test_entries_without_their_leases_are_nobodys(redis):
    await call(redis.store, "a", "g", ("c1", entry()))
    redis.client.delete(redis.leases("g"))
    assert await redis.store.members("g") == (0, {})


async def test_an_error_is_the_answer_to_its_call_alone(redis):
    redis.client.set(redis.leases("g"), "not ours")
    bad, good = await redis.store.change(
        "a", [Call("g", [("c1", entry())]), Call("h", [("c1", entry())])]
    )
    assert isinstance(bad, ResponseError) and good.after == 1
    with pytest.raises(ResponseError):
        await redis.store.members("g")


async def test_an_answer_after_its_call_was_given_up_is_dropped(redis):
    reading = asyncio.ensure_future(redis.store.members("g"))
    await asyncio.sleep(0)
    reading.cancel()
    assert await redis.store.members("g") == (0, {})
    assert reading.cancelled()


class Silly:
    """A host that answers nonsense."""

    is_plain = True

    def __init__(self, reply):
        self.reply = reply

    def channel_of(self, group):
        return group

    def execute(self, group, command, on_reply):
        asyncio.get_running_loop().call_soon(on_reply, self.reply)


async def test_what_is_no_answer_is_an_error_and_no_loop():
    [answer] = await RedisStore(Silly([1, 2]), LEASE).change("a", [Call("g")])
    assert isinstance(answer, ValueError)
    with pytest.raises(NoScriptError):
        await RedisStore(Silly(NoScriptError("always")), LEASE).members("g")


@pytest.mark.parametrize(
    "options", [{"serializer_format": "json"}, {"symmetric_encryption_keys": ["secret"]}], ids=str
)
async def test_where_a_script_cannot_write_messages_the_caller_is_given_them(valkey, options):
    async with redis_world(valkey, **options) as world:
        assert not world.store.publishes
        heard = []
        await world.listen("x", lambda group, events: heard.extend(events), ["g"])
        answer = await call(world.store, "a", "g", ("c1", entry("ann")))
        await world.delivered()
        assert heard == [] and [event.connection for event in answer.events] == ["c1"]
        assert (await world.store.members("g")).entries == {"c1": Entry("a", entry("ann"))}


async def test_the_rights_that_are_documented_suffice_and_less_do_not(valkey, redis):
    redis.client.execute_command(
        *f"ACL SETUSER fws on >secret ~{conf.NAMESPACE}:* &asgi__group__{conf.NAMESPACE}.*".split(),
        *COMMANDS.split(),
    )
    redis.client.execute_command("ACL", "SETUSER", "less", "on", ">secret", "+evalsha", "+eval")

    def world(user):
        address = valkey.url.replace("//", f"//{user}:secret@")
        return redis_world(type("Valkey", (), {"url": address, "client": valkey.client})())

    async with world("fws") as allowed:
        await call(allowed.store, "dead", "g", ("c0", entry("bob")))
        await call(allowed.store, "a", "g", ("c1", entry("ann")), ("c2", entry("ann")))
        await allowed.end_lease("dead", ["g"])
        assert len((await call(allowed.store, "a", "g", ("c2", None), expires=True)).events) == 2
        assert len((await allowed.store.members("g")).entries) == 1
        assert await allowed.store.stats("g") == Stats(1, 1)
    async with world("less") as refused:
        with pytest.raises(PermissionError, match="its user needs"):
            await call(refused.store, "a", "g", ("c1", entry("ann")))


# Costs, in commands


async def test_a_join_is_one_command_however_many_are_there(redis, counted):
    ledger = Ledger(RedisStore(counted, LEASE), "a")
    for number in range(10_000):
        ledger.add("g", f"c{number}", Info(f"user{number}"))
    await ledger.flush()
    # 500 each; the first one sends the script.
    assert counted.take() in (["EVALSHA"] * 20, ["EVALSHA", "EVAL", *["EVALSHA"] * 19])
    ledger.add("g", "one more", Info("ann"))
    await ledger.flush()
    assert counted.take() == ["EVALSHA"]
    ledger.remove("g", "one more")
    await ledger.flush()
    assert counted.take() == ["EVALSHA"]
    # A renewal, and so each third of a lease.
    await ledger.renew()
    assert counted.take() == ["EVALSHA"]


@pytest.mark.repeats
async def test_renewals_are_one_command_for_each_group(redis, counted):
    ledger = Ledger(RedisStore(counted, LEASE), "a")
    for number in range(1000):
        for member in range(10):
            ledger.add(f"g{number}", f"c{number}-{member}", Info(f"user{member}"))
    await ledger.flush()
    assert counted.take().count("EVALSHA") == 1000
    await ledger.renew()
    assert counted.take() == ["EVALSHA"] * 1000
    ledger.add("g5", "one more", Info("ann"))
    await ledger.flush()
    assert counted.take() == ["EVALSHA"]


async def test_so_many_commands_are_sent_before_the_first_answer_is_waited_for(redis, counted):
    store = RedisStore(counted, LEASE)
    changing = asyncio.ensure_future(
        store.change("a", [Call(f"g{number}") for number in range(AT_ONCE + 5)])
    )
    await asyncio.sleep(0)
    assert len(counted.take()) == AT_ONCE
    assert len(await changing) == AT_ONCE + 5


def done_by(client):
    """What Redis has done since it was started: by command, and in bytes that it has read."""
    stats = client.info("commandstats")
    counts = {name.partition("_")[2]: one["calls"] for name, one in stats.items()}
    return Counter(counts), client.info("stats")["total_net_input_bytes"]


async def renewal(redis, ledger):
    """The commands that Redis runs for one renewal, in scripts, too; and the bytes it reads."""
    commands, size = done_by(redis.client)
    report = await ledger.renew()
    assert report.errors == {} and ledger.is_settled
    after, size_after = done_by(redis.client)
    del after["info"], commands["info"]
    return after - commands, size_after - size


#: What docs/presence.md promises of a renewal, for each group: commands in its script, bytes.
MOST_COMMANDS, MOST_BYTES = 12, 512


@pytest.mark.repeats
@pytest.mark.parametrize(("groups", "members"), [(1, 10_000), (1000, 10)])
async def test_what_redis_does_for_a_renewal_depends_on_groups_and_not_on_members(
    redis, counted, groups, members
):
    ledger = Ledger(RedisStore(counted, LEASE), "a")
    for number in range(groups):
        for member in range(members):
            ledger.add(f"g{number}", f"c{number}-{member}", Info(f"user{member}"))
    await ledger.flush()
    counted.round_trips = 0
    commands, size = await renewal(redis, ledger)
    assert commands.pop("evalsha") == groups
    assert sum(commands.values()) <= MOST_COMMANDS * groups, commands
    assert size < MOST_BYTES * groups
    assert counted.round_trips == -(-groups // AT_ONCE)
