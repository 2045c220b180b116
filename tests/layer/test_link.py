"""The hub's connection to the channel layer."""

import asyncio
import time
from collections import Counter

import pytest
from channels.layers import InMemoryChannelLayer
from django.test import override_settings

from filtered_websocket.layer import health
from filtered_websocket.layer.envelope import Batch, seal
from filtered_websocket.layer.links import link_to
from filtered_websocket.publishing.items import new_item
from filtered_websocket.threads import tasks
from filtered_websocket.threads.tasks import Tasks

from ..waiting import LIMIT, limited, until


class Layer(InMemoryChannelLayer):
    """An in-memory layer that can fail, and records the calls."""

    def __init__(self, **kwargs):
        super().__init__(capacity=1000, **kwargs)
        self.away = False
        self.error = ConnectionError("away")
        self.calls = []
        self.bad = []
        #: What comes next off the wire, whatever it is.
        self.raw = []
        self.discarding = asyncio.Event()
        self.renewed = asyncio.Event()

    def _call(self, *call):
        if ".probe." not in call[-1]:
            self.calls.append(call)
        if self.calls.count(call) == 3:
            self.renewed.set()
        if self.away:
            raise self.error

    async def new_channel(self, prefix="specific."):
        self._call("new_channel")
        return await super().new_channel(prefix)

    async def group_add(self, group, channel):
        self._call("add", group)
        await asyncio.sleep(0)
        await super().group_add(group, channel)

    async def group_discard(self, group, channel):
        self._call("discard", group)
        self.discarding.set()
        await asyncio.sleep(0)
        await super().group_discard(group, channel)

    async def group_send(self, group, message):
        self._call("send", group)
        await super().group_send(group, message)

    async def send(self, channel, message):
        if self.away:
            raise self.error
        await super().send(channel, message)

    async def receive(self, channel):
        if self.bad:
            raise self.bad.pop()
        if self.raw:
            return self.raw.pop(0)
        return await super().receive(channel)

    def count(self, *call):
        return self.calls.count(call)


class FakeHub:
    """Keeps what the link reports to its hub."""

    def __init__(self, layer):
        self.layer = layer
        self.publish_queue, self.lost, self.back, self.bad, self.late = [], [], [], [], []
        self.told = asyncio.Event()
        self.counts = Counter()
        self.link = link_to(
            layer,
            Tasks(self.counts),
            self._note(self.publish_queue),
            self._note(self.lost),
            self._note(self.back),
            self._note(self.bad),
            self._note(self.late),
        )

    def _note(self, seen):
        def note(what):
            seen.append(what)
            self.told.set()

        return note

    async def until(self, condition):
        async with limited():
            while not condition():
                self.told.clear()
                await self.told.wait()

    async def __aenter__(self):
        self.link.start()
        return self

    async def __aexit__(self, *_):
        await self.link.stop()


@pytest.fixture(autouse=True)
def quick(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.5, "LAYER_SETTLE": 0}
    monkeypatch.setattr(tasks, "MAX_PAUSE", 0.02)


BATCH = Batch("o", "fws.g.x", 0, [new_item("hello")])
#: Deeper than repr() goes.
DEEP = []
for _ in range(10_000):
    DEEP = [DEEP]


async def test_a_wanted_group_is_joined_once_and_heard():
    async with FakeHub(Layer()) as hub:
        hub.link.want("fws.g.x")
        joined = await asyncio.gather(*(hub.link.wait_joined("fws.g.x") for _ in range(50)))
        assert all(joined) and hub.link.is_joined("fws.g.x")
        assert hub.layer.count("add", "fws.g.x") == 1
        await hub.link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)
        assert hub.publish_queue == [BATCH]
        assert await joins(hub, "fws.g.x")
    assert hub.layer.groups == {}


async def test_what_was_wanted_for_a_moment_only_is_not_joined():
    async with FakeHub(Layer()) as hub:
        assert await is_listening(hub)
        hub.link.want("fws.g.x")
        hub.link.unwant("fws.g.x")
        hub.link.unwant("fws.g.first")
        hub.link.want("fws.g.first")
        await hub.link.round_trip()
        assert hub.layer.count("add", "fws.g.x") == 0
        assert hub.layer.count("add", "fws.g.first") == 1
        assert hub.layer.count("discard", "fws.g.first") == 0


async def test_leaving_and_joining_again_at_once_ends_joined():
    async with FakeHub(Layer()) as hub:
        hub.link.want("fws.g.x")
        assert await joins(hub, "fws.g.x")
        hub.link.unwant("fws.g.x")
        await hub.layer.discarding.wait()
        hub.link.want("fws.g.x")  # the discard is in flight now
        assert await joins(hub, "fws.g.x")
        await hub.link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)


async def test_a_join_that_takes_too_long_answers_false_and_happens_later(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    layer = Layer()
    layer.away = True
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        assert not await hub.link.wait_joined("fws.g.x")
        layer.away = False
        await hub.until(lambda: hub.back)
        assert await joins(hub, "fws.g.x")
    assert len(hub.lost) == 1 and isinstance(hub.lost[0], ConnectionError)


async def test_a_group_that_is_joined_again_only_after_the_outage_is_told():
    gate = asyncio.Event()
    gate.set()

    class Slow(Layer):
        async def group_add(self, group, channel):
            if group == "fws.g.x":
                await gate.wait()
            await super().group_add(group, channel)

    async with FakeHub(Slow()) as hub:
        for key in ("fws.g.x", "fws.g.y"):
            hub.link.want(key)
            assert await joins(hub, key)
        gate.clear()
        hub.link._health.note_lost(ConnectionError("away"))
        await hub.until(lambda: hub.back)
        assert hub.link.is_joined("fws.g.y") and not hub.link.is_joined("fws.g.x")
        gate.set()
        await hub.until(lambda: hub.late)
        assert hub.late == ["fws.g.x"]


async def test_a_slow_layer_joins_many_groups_side_by_side_and_tells_the_late(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.2, "LAYER_SETTLE": 0}
    gate = asyncio.Event()

    class Slow(Layer):
        async def group_add(self, group, channel):
            if ".probe." not in group:
                self.calls.append(("add", group))
            async with asyncio.timeout(None):
                await gate.wait()
            await super().group_add(group, channel)

    async with FakeHub(Slow()) as hub:
        keys = [f"fws.g.{n}" for n in range(20)]
        for key in keys:
            hub.link.want(key)
        hub.link.want("fws.g.unwanted")
        waiting = [asyncio.ensure_future(hub.link.wait_joined(key)) for key in keys]
        waiting.append(asyncio.ensure_future(hub.link.wait_joined("fws.g.unwanted")))
        while hub.layer.calls.count(("add", "fws.g.unwanted")) < 1:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        assert not any(await asyncio.gather(*waiting))
        hub.link.unwant("fws.g.unwanted")
        gate.set()
        await hub.until(lambda: len(hub.late) == 20)
        assert sorted(hub.late) == sorted(keys)
        await hub.until(lambda: hub.back)


async def test_a_layer_that_went_and_came_is_told_once_each_and_joined_again(caplog):
    layer = Layer()
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        assert await joins(hub, "fws.g.x")
        layer.away = True
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await hub.link.send(BATCH)
        layer.groups.clear()
        layer.away = False
        await hub.until(lambda: hub.back)
        assert len(hub.lost) == len(hub.back) == 1 and hub.back[0] > 0
        assert await joins(hub, "fws.g.x")
        await hub.link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)


async def test_a_group_left_while_the_layer_was_away_is_left_when_it_is_back():
    """As the pubsub layer does, this one forgets a member before it fails."""
    subscribed = set()

    class HalfWay(Layer):
        async def group_add(self, group, channel):
            await super().group_add(group, channel)
            if ".probe." not in group:
                subscribed.add(group)

        async def group_discard(self, group, channel):
            if channel in self.groups.get(group, {}):
                del self.groups[group][channel]
                self._call("discard", group)
                subscribed.discard(group)

    layer = HalfWay()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        layer.away = True
        hub.link.unwant("fws.g.first")
        await hub.until(lambda: hub.lost)
        layer.away = False
        await hub.until(lambda: hub.back)
        hub.link.want("fws.g.x")
        assert await joins(hub, "fws.g.x")
        assert subscribed == {"fws.g.x"}


async def test_a_link_stops_although_a_cancellation_was_swallowed():
    class Stubborn(Layer):
        swallowed = 0

        async def receive(self, channel):
            try:
                return await super().receive(channel)
            except asyncio.CancelledError:
                Stubborn.swallowed += 1
                if Stubborn.swallowed > 2:
                    raise
                return {"v": 0}

    async with FakeHub(Stubborn()) as hub:
        assert await is_listening(hub)
    assert Stubborn.swallowed == 3


async def is_listening(hub):
    hub.link.want("fws.g.first")
    return await joins(hub, "fws.g.first")


async def joins(hub, key):
    """Whether it joins, with as much time as anything may take on a busy machine."""
    async with limited():
        while not await hub.link.wait_joined(key):  # noqa: ASYNC110
            await asyncio.sleep(0)
    return True


async def answers(hub):
    """Whether a layer that is there answers, with as much time."""
    with override_settings(FILTERED_WEBSOCKET={"LAYER_TIMEOUT": LIMIT, "LAYER_SETTLE": 0}):
        return await hub.link.round_trip()


async def test_no_error_of_the_layer_ends_the_listener():
    layer = Layer()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        layer.bad = [ValueError("garbage"), ValueError("garbage"), OSError("reset")]
        hub.link.want("fws.g.x")
        assert await joins(hub, "fws.g.x")
        for _ in range(4):
            await hub.link.send(BATCH)
        await hub.until(lambda: len(hub.publish_queue) == 4)
        assert len(hub.bad) == 2 and len(hub.lost) == 1
        await hub.until(lambda: hub.back)


async def test_a_layer_that_cannot_connect_as_it_is_configured_is_lost():
    layer = Layer()
    layer.away, layer.error = True, ValueError("Redis URL must specify a scheme")
    async with FakeHub(layer) as hub:
        await hub.until(lambda: hub.lost)
        assert hub.lost == [layer.error] and hub.bad == [] and not hub.link.is_available
        layer.away = False
        await hub.until(lambda: hub.back)


async def test_no_error_of_the_hub_ends_the_listener(caplog):
    async with FakeHub(Layer()) as hub:
        assert await is_listening(hub)
        deliver, hub.link._on_batch = hub.link._on_batch, lambda batch: 1 / 0
        for _ in range(2):
            await hub.link.send(BATCH._replace(key="fws.g.first"))
        assert await answers(hub)
        hub.link._on_batch = deliver
        await hub.link.send(BATCH._replace(key="fws.g.first"))
        await hub.until(lambda: hub.publish_queue)
    assert caplog.text.count("cannot deliver a batch from the channel layer") == 1
    assert "ZeroDivisionError" in caplog.text and hub.lost == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "chat.message"},
        {"v": 9},
        {"v": 1, "probe": "no"},
        {"v": 1, "probe": []},
        {"v": 1, "probe": {}},
        {"v": 1, "probe": None},
        {"v": [], "probe": []},
        {"v": 1, "m": DEEP},
        {**seal(BATCH), "m": [[1, "t", "", DEEP, {}]]},
        {**seal(BATCH), "o": "o" * 65},
        [],
        None,
    ],
    ids=lambda message: f"{message!r:.40}" if "m" not in (message or ()) else "m",
)
async def test_what_is_no_envelope_is_skipped(message):
    async with FakeHub(Layer()) as hub:
        assert await is_listening(hub)
        hub.layer.raw.append(message)
        for _ in range(2):
            await hub.layer.group_send("fws.g.first", seal(BATCH))
        await hub.until(lambda: len(hub.publish_queue) == 2)
        assert len(hub.bad) == 1 and hub.counts["task_failed"] == 0


async def test_for_a_publisher_an_outage_is_over_when_the_layer_accepts_a_probe():
    hub = FakeHub(Layer())
    assert await answers(hub)
    hub.layer.away = True
    assert not await hub.link.round_trip()
    with pytest.raises(ConnectionError):
        await hub.link.send(BATCH)
    assert len(hub.lost) == 1 and not await hub.link.wait_available(time.monotonic() + 0.01)
    hub.layer.away = False
    assert await hub.link.wait_available(time.monotonic() + LIMIT)
    await hub.until(lambda: hub.back)
    await hub.link.stop()
    assert hub.layer.groups == {}


async def test_a_call_to_a_hanging_layer_ends_after_layer_timeout(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01, "LAYER_SETTLE": 0}

    class Hanging(Layer):
        async def group_send(self, group, message):
            if group == BATCH.key:
                await asyncio.Event().wait()
            await super().group_send(group, message)

    async with FakeHub(Hanging()) as hub:
        assert await is_listening(hub)
        with pytest.raises(TimeoutError):
            await hub.link.send(BATCH)
        await hub.until(lambda: hub.back)


async def test_what_is_being_posted_when_a_link_stops_is_told_to_nobody():
    class Hanging(Layer):
        async def group_send(self, group, message):
            if group != BATCH.key:
                return await super().group_send(group, message)
            posting.set()
            await asyncio.Event().wait()

    posting, told = asyncio.Event(), []
    async with FakeHub(Hanging()) as hub:
        assert await is_listening(hub)
        hub.link.post(BATCH, told.append)
        await posting.wait()
        await hub.link.stop()
    assert told == []


async def test_what_the_layer_cancels_has_failed():
    class Cancels(Layer):
        async def group_send(self, group, message):
            if group == BATCH.key:
                raise asyncio.CancelledError
            await super().group_send(group, message)

    told = []
    async with FakeHub(Cancels()) as hub:
        assert await is_listening(hub)
        hub.link.post(BATCH, told.append)
        await until(lambda: told)
    [error] = told
    assert isinstance(error, ConnectionError)


async def test_a_layer_that_takes_everything_and_brings_nothing_gets_new_connections(
    settings, monkeypatch
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.02, "LAYER_SETTLE": 0}
    monkeypatch.setattr(health, "HEARTBEAT", 0.001)

    class Deaf(Layer):
        is_deaf = True

        async def group_send(self, group, message):
            if not self.is_deaf:
                await super().group_send(group, message)

    async with FakeHub(Deaf()) as hub:
        closed = asyncio.Event()

        async def close():
            closed.set()
            hub.layer.is_deaf = False

        hub.link._probes.close_connections = close
        async with limited():
            await closed.wait()
        await hub.until(lambda: hub.back)


async def test_stopping_ends_the_wait_for_a_join():
    layer = Layer()
    layer.away = True
    hub = FakeHub(layer)
    hub.link.start()
    hub.link.want("fws.g.x")
    waiting = asyncio.ensure_future(hub.link.wait_joined("fws.g.x"))
    await asyncio.sleep(0)
    await hub.link.stop()
    assert await waiting is False


async def test_a_task_of_a_link_that_fails_is_started_again(monkeypatch, caplog):
    """The errors here are those of bugs, as no error of the layer gets this far."""
    monkeypatch.setattr(health, "HEARTBEAT", 0.01)
    async with FakeHub(Layer()) as hub:
        assert await is_listening(hub)
        link, names = hub.link, []

        def fail_once(owner, name):
            call = getattr(owner, name)

            def fail(*args):
                setattr(owner, name, call)
                names.append(name)
                raise LookupError(name)

            setattr(owner, name, fail)

        async def failed(count):
            async with limited():
                while len(names) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

        fail_once(link._health, "_probe")
        await failed(1)
        fail_once(link, "_handle")
        fail_once(link._subscriptions, "_on_up_to_date")
        link.want("fws.g.x")
        assert await link.wait_joined("fws.g.x")
        await failed(3)
        await hub.until(lambda: hub.back)
        hub.back.clear()
        fail_once(link._health, "_rejoin")
        link._health.note_lost(OSError())
        await hub.until(lambda: hub.back)
        await link.send(BATCH)
        await hub.until(lambda: hub.publish_queue)
        # That of a subscription is an error of the layer as well.
        assert sorted(names) == ["_handle", "_on_up_to_date", "_probe", "_rejoin"]
        assert hub.counts["task_failed"] == 3
    lines = {str(record.args[0]) for record in caplog.records if "started again" in record.msg}
    assert lines == {"fws-listen", "fws-heartbeat", "fws-probe"}


async def test_an_outage_ends_although_its_callback_raises():
    hub = FakeHub(Layer())
    hub.link._health._on_back = lambda seconds: 1 / 0
    hub.link._health.note_lost(OSError())
    assert await hub.link.wait_available(time.monotonic() + LIMIT)
    async with limited():
        while hub.link._tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert hub.counts["task_failed"] == 1
    await hub.link.stop()
