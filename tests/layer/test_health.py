"""Outages of the channel layer: detected, and over."""

import asyncio
import time
import weakref

import pytest
from redis._parsers.base import BaseParser

from filtered_websocket.layer import health
from filtered_websocket.layer.health import LayerHealth, Probes, is_away, is_replica
from filtered_websocket.threads import tasks

from ..waiting import limited
from .test_link import FakeHub, Layer, answers, is_listening


@pytest.fixture(autouse=True)
def quick(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.2, "LAYER_SETTLE": 0}
    monkeypatch.setattr(tasks, "MAX_PAUSE", 0.02)


class Away:
    """An outage whose probes answer what the test says; records what happens, in order."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.story = []
        self.tasks = []
        self.told = asyncio.Event()
        self.outages = LayerHealth(self.probe, self.rejoin, self.lost, self.back, self.spawn)

    async def probe(self):
        answer = self.answers.pop(0) if self.answers else None
        self._tell("probe" if answer is None else "no probe")
        return answer

    async def rejoin(self, at_once):
        self._tell("join again" if at_once else "go on joining")

    def lost(self, error):
        self._tell("lost")

    def back(self, seconds):
        self._tell("back")

    def spawn(self, run, name):
        self.tasks.append(asyncio.get_running_loop().create_task(run(), name=name))

    def _tell(self, what):
        self.story.append(what)
        self.told.set()

    async def until(self, what):
        async with limited():
            while what not in self.story:
                self.told.clear()
                await self.told.wait()

    async def over(self):
        async with limited():
            return await self.outages.wait_available(time.monotonic() + 10)

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


async def test_groups_are_joined_again_before_a_probe_and_two_probes_return_before_it_is_over():
    away = Away(OSError("refused"))
    assert await away.outages.wait_available(0)
    away.outages.note_lost(OSError("reset"))
    away.outages.note_lost(OSError("again"))
    assert away.outages.is_lost and not await away.outages.wait_available(0)
    assert await away.over()
    assert away.story == [
        *("lost", "join again", "no probe"),
        *("go on joining", "probe", "probe", "back"),
    ]
    await away.stop()


async def test_an_outage_goes_on_if_the_second_probe_is_lost():
    away = Away(None, OSError("again"))
    away.outages.note_lost(OSError("reset"))
    assert await away.over()
    assert away.story[2:] == ["probe", "no probe", "go on joining", "probe", "probe", "back"]
    await away.stop()


@pytest.mark.parametrize(
    ("answer", "away", "replica"),
    [
        ("CLUSTERDOWN The cluster is down", True, False),
        ("LOADING Redis is loading the dataset in memory", True, False),
        ("BUSY Redis is busy running a script.", True, False),
        ("NOREPLICAS Not enough good replicas to write.", False, False),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set", True, True),
        ("READONLY You can't write against a read only replica.", True, True),
        (
            "ERR Error running script: -READONLY You can't write against a read only replica",
            True,
            True,
        ),
        ("TRYAGAIN Multiple keys request during rehashing of slot", False, False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False, False),
        ("NOPERM this user has no permissions", False, False),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_what_redis_says_while_it_is_not_ready_is_an_outage(answer, away, replica):
    error = BaseParser.parse_error(answer)
    assert (is_away(error), is_replica(error)) == (away, replica)


def test_a_redis_that_cannot_be_reached_is_away_and_one_that_refuses_is_not():
    assert is_away(TimeoutError()) and is_away(ConnectionError())
    assert not is_away(PermissionError()) and not is_away(ValueError())
    assert not is_replica("READONLY")


async def test_an_outage_goes_on_until_all_answer_who_were_to_be_waited_for():
    away, answers = Away(), [False, True]

    async def answer():
        away.story.append("asked")
        return answers.pop(0)

    away.outages.wait_also(answer)
    away.outages.note_lost(OSError("reset"))
    assert await away.over()
    again = ["probe", "probe", "asked"]
    assert away.story == ["lost", "join again", *again, "go on joining", *again, "back"]
    await away.stop()


async def test_who_does_not_answer_for_publish_max_age_is_not_waited_for(settings):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "PUBLISH_MAX_AGE": 0}
    away = Away()

    async def answer():
        return False

    away.outages.wait_also(answer)
    away.outages.note_lost(OSError("reset"))
    assert await away.over()
    assert away.story == ["lost", "join again", "probe", "probe", "back"]
    await away.stop()


async def test_a_process_that_only_receives_detects_an_outage(monkeypatch):
    monkeypatch.setattr(health, "HEARTBEAT", 0.01)
    away = Away(None, None, ConnectionError())
    away.spawn(away.outages.watch, "watch")
    await away.until("back")
    assert away.story[:4] == ["probe", "probe", "no probe", "lost"]
    await away.stop()


async def test_a_probe_that_takes_too_long_is_sent_twice(monkeypatch):
    """A filter that holds up the loop is no outage of the layer."""
    monkeypatch.setattr(health, "HEARTBEAT", 0.01)
    away = Away(TimeoutError(), None, TimeoutError(), TimeoutError())
    away.spawn(away.outages.watch, "watch")
    await away.until("lost")
    assert away.story == ["no probe", "probe", "no probe", "no probe", "lost"]
    await away.stop()


async def test_the_heartbeat_sends_no_probe_during_an_outage(monkeypatch):
    monkeypatch.setattr(health, "HEARTBEAT", 0)
    monkeypatch.setattr(tasks, "MAX_PAUSE", 10)
    away = Away(*[OSError("refused")] * 3)
    away.outages.note_lost(OSError("reset"))
    await away.until("no probe")
    away.spawn(away.outages.watch, "watch")
    for _ in range(10):
        await asyncio.sleep(0)
    assert away.story.count("no probe") == 1
    await away.stop()


async def test_a_callback_may_raise_and_none_is_called_after_the_end():
    away = Away()
    tell = LayerHealth(away.probe, away.rejoin, lambda error: 1 / 0, away.back, away.spawn)
    with pytest.raises(ZeroDivisionError):
        tell.note_lost(OSError())
    await away.until("back")
    away.story.clear()
    away.outages.stop()
    away.outages.note_lost(OSError())
    assert away.story == [] and not away.outages.is_lost
    await away.stop()


async def test_a_layer_that_forgot_its_groups_is_found_and_joined_again(monkeypatch):
    """As channels_redis.core does after a FLUSHALL."""
    monkeypatch.setattr(health, "HEARTBEAT", 0.01)
    async with FakeHub(Layer()) as hub:
        assert await is_listening(hub)
        hub.layer.groups.clear()
        await hub.until(lambda: hub.back)
        assert "fws.g.first" in hub.layer.groups
        assert isinstance(hub.lost[0], TimeoutError)


class Connection:
    """As one of redis-py: keeps its callbacks weakly."""

    def __init__(self):
        self.callbacks = []
        self.cut = False

    def register_connect_callback(self, callback):
        method = weakref.WeakMethod(callback)
        if method not in self.callbacks:
            self.callbacks.append(method)

    def connect(self):
        for method in self.callbacks:
            method()(self)

    async def disconnect(self, nowait):
        assert nowait
        self.cut = True
        self.connect()
        raise ConnectionError("was cut already")


class Shard:
    def __init__(self):
        self._pubsub = type("PubSub", (), {"connection": Connection()})()


class Sharded(Layer):
    """Shaped like the pubsub layer of channels_redis, on three hosts."""

    def __init__(self):
        super().__init__()
        self._shards = [Shard(), Shard(), object()]
        self.silent = set()

    def _get_group_channel_name(self, group):
        return f"asgi__group__{group}"

    def _get_shard(self, name):
        assert name.startswith("asgi__group__")
        return self._shards[hash(name) % 3]

    async def group_send(self, group, message):
        if self._get_shard(self._get_group_channel_name(group)) not in self.silent:
            await super().group_send(group, message)


async def test_each_host_of_a_layer_is_probed():
    layer = Sharded()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        assert await answers(hub)
        for shard in layer._shards:
            layer.silent = {shard}
            assert not await hub.link.round_trip()
    assert layer.groups == {}


async def test_a_reconnect_of_the_subscriber_is_an_outage():
    layer = Sharded()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        assert await answers(hub)
        layer._shards[1]._pubsub.connection.connect()
        await hub.until(lambda: hub.back)
        assert "cut" in repr(hub.lost[0])


async def test_subscriber_connections_that_receive_nothing_are_closed():
    layer = Sharded()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        connections = [shard._pubsub.connection for shard in layer._shards[:2]]
        layer.silent = set(layer._shards)
        assert not await hub.link.round_trip()
        # A message of anybody shows that they live.
        layer.silent = set()
        assert await answers(hub)
        layer.silent = set(layer._shards)
        assert not await hub.link.round_trip()
        assert not any(connection.cut for connection in connections)
        assert not await hub.link.round_trip()
        assert all(connection.cut for connection in connections)
        layer.silent = set()
        await hub.until(lambda: hub.back)


async def test_a_stopped_link_reports_no_outage():
    layer = Sharded()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        assert await answers(hub)
    layer._shards[0]._pubsub.connection.connect()
    assert hub.lost == []


def test_the_hosts_of_the_core_layer_are_told_apart():
    class Core:
        ring_size = 4

        def consistent_hash(self, name):
            return hash(name) % 4

    assert len(Probes(Core(), print).keys) == 4


def test_a_host_that_no_name_hashes_to_is_not_probed():
    class Odd:
        ring_size = 2

    assert len(Probes(Odd(), print).keys) == 1


async def test_probes_of_an_earlier_round_are_ignored():
    probes = Probes(Layer(), print)
    await probes.send()
    [token] = probes._sent
    await probes.send()
    probes.handle(token)
    assert not probes._returned.is_set()
    probes.handle(*probes._sent)
    await probes.wait_returned()
