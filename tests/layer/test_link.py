"""The one mailbox on the channel layer: layer."""

import asyncio
import time

import pytest
from channels.layers import InMemoryChannelLayer

from filtered_websocket.layer import health
from filtered_websocket.layer.envelope import Batch, seal
from filtered_websocket.layer.link import LayerLink, LocalLink
from filtered_websocket.layer.publish_queue import new_item


class Layer(InMemoryChannelLayer):
    """An in-memory layer that can be away, and notes what it is asked."""

    def __init__(self, **kwargs):
        super().__init__(capacity=1000, **kwargs)
        self.away = False
        self.error = ConnectionError("away")
        self.calls = []
        self.bad = []
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
        return await super().receive(channel)

    def count(self, *call):
        return self.calls.count(call)


class House:
    """What the link tells its hub."""

    def __init__(self, layer):
        self.layer = layer
        self.publish_queue, self.lost, self.back, self.bad, self.late = [], [], [], [], []
        self.told = asyncio.Event()
        self.link = LayerLink(
            layer,
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
        async with asyncio.timeout(10):
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
    monkeypatch.setattr(health, "MAX_PAUSE", 0.02)


BATCH = Batch("o", "fws.g.x", 0, [new_item("hello")])


async def test_a_wanted_group_is_joined_once_and_heard():
    async with House(Layer()) as house:
        house.link.want("fws.g.x")
        joined = await asyncio.gather(*(house.link.joined("fws.g.x") for _ in range(50)))
        assert all(joined) and house.link.is_joined("fws.g.x")
        assert house.layer.count("add", "fws.g.x") == 1
        await house.link.send(BATCH)
        await house.until(lambda: house.publish_queue)
        assert house.publish_queue == [BATCH]
        assert await house.link.joined("fws.g.x")
    assert house.layer.groups == {}


async def test_what_was_wanted_for_a_moment_only_is_not_joined():
    async with House(Layer()) as house:
        assert await house_is_listening(house)
        house.link.want("fws.g.x")
        house.link.unwant("fws.g.x")
        house.link.unwant("fws.g.first")
        house.link.want("fws.g.first")
        await house.link.round_trip()
        assert house.layer.count("add", "fws.g.x") == 0
        assert house.layer.count("add", "fws.g.first") == 1
        assert house.layer.count("discard", "fws.g.first") == 0


async def test_leaving_while_a_join_is_under_way_does_not_leave_a_member_deaf():
    async with House(Layer()) as house:
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
        house.link.unwant("fws.g.x")
        await house.layer.discarding.wait()
        house.link.want("fws.g.x")  # the discard is in flight now
        assert await house.link.joined("fws.g.x")
        await house.link.send(BATCH)
        await house.until(lambda: house.publish_queue)


async def test_a_join_that_takes_too_long_answers_false_and_happens_later(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    layer = Layer()
    layer.away = True
    async with House(layer) as house:
        house.link.want("fws.g.x")
        assert not await house.link.joined("fws.g.x")
        layer.away = False
        await house.until(lambda: house.back)
        assert await house.link.joined("fws.g.x")
    assert len(house.lost) == 1 and isinstance(house.lost[0], ConnectionError)


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

    async with House(Slow()) as house:
        keys = [f"fws.g.{n}" for n in range(20)]
        for key in keys:
            house.link.want(key)
        house.link.want("fws.g.unwanted")
        waiting = [asyncio.ensure_future(house.link.joined(key)) for key in keys]
        waiting.append(asyncio.ensure_future(house.link.joined("fws.g.unwanted")))
        while house.layer.calls.count(("add", "fws.g.unwanted")) < 1:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        assert not any(await asyncio.gather(*waiting))
        house.link.unwant("fws.g.unwanted")
        gate.set()
        await house.until(lambda: len(house.late) == 20)
        assert sorted(house.late) == sorted(keys)
        await house.until(lambda: house.back)


async def test_a_layer_that_went_and_came_is_told_once_each_and_joined_again(caplog):
    layer = Layer()
    async with House(layer) as house:
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
        layer.away = True
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await house.link.send(BATCH)
        layer.groups.clear()
        layer.away = False
        await house.until(lambda: house.back)
        assert len(house.lost) == len(house.back) == 1 and house.back[0] > 0
        assert await house.link.joined("fws.g.x")
        await house.link.send(BATCH)
        await house.until(lambda: house.publish_queue)


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
    async with House(layer) as house:
        assert await house_is_listening(house)
        layer.away = True
        house.link.unwant("fws.g.first")
        await house.until(lambda: house.lost)
        layer.away = False
        await house.until(lambda: house.back)
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
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

    async with House(Stubborn()) as house:
        assert await house_is_listening(house)
    assert Stubborn.swallowed == 3


async def house_is_listening(house):
    house.link.want("fws.g.first")
    return await house.link.joined("fws.g.first")


async def test_no_error_of_the_layer_ends_the_listener():
    layer = Layer()
    async with House(layer) as house:
        assert await house_is_listening(house)
        layer.bad = [ValueError("garbage"), ValueError("garbage"), OSError("reset")]
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
        for _ in range(4):
            await house.link.send(BATCH)
        await house.until(lambda: len(house.publish_queue) == 4)
        assert len(house.bad) == 2 and len(house.lost) == 1
        await house.until(lambda: house.back)


async def test_no_error_of_the_hub_ends_the_listener(caplog):
    async with House(Layer()) as house:
        assert await house_is_listening(house)
        deliver, house.link._on_batch = house.link._on_batch, lambda batch: 1 / 0
        for _ in range(2):
            await house.link.send(BATCH._replace(key="fws.g.first"))
        assert await house.link.round_trip()
        house.link._on_batch = deliver
        await house.link.send(BATCH._replace(key="fws.g.first"))
        await house.until(lambda: house.publish_queue)
    assert caplog.text.count("cannot hand on what the channel layer brought") == 1
    assert "ZeroDivisionError" in caplog.text and house.lost == []


@pytest.mark.parametrize("message", [{"type": "chat.message"}, {"v": 9}, {"v": 1, "probe": "no"}])
async def test_what_is_no_envelope_is_skipped(message):
    async with House(Layer()) as house:
        assert await house_is_listening(house)
        await house.layer.group_send("fws.g.first", message)
        await house.layer.group_send("fws.g.first", seal(BATCH))
        await house.until(lambda: house.publish_queue)
        assert len(house.bad) == (0 if "probe" in message else 1)


async def test_who_does_not_listen_finds_the_layer_back_when_it_takes_a_probe():
    house = House(Layer())
    assert await house.link.round_trip()
    house.layer.away = True
    assert not await house.link.round_trip()
    with pytest.raises(ConnectionError):
        await house.link.send(BATCH)
    assert len(house.lost) == 1 and not await house.link.there(time.monotonic() + 0.01)
    house.layer.away = False
    assert await house.link.there(time.monotonic() + 10)
    await house.until(lambda: house.back)
    await house.link.stop()
    assert house.layer.groups == {}


async def test_a_hanging_layer_is_given_up_after_layer_timeout(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01, "LAYER_SETTLE": 0}

    class Hanging(Layer):
        async def group_send(self, group, message):
            if group == BATCH.key:
                await asyncio.Event().wait()
            await super().group_send(group, message)

    async with House(Hanging()) as house:
        assert await house_is_listening(house)
        with pytest.raises(TimeoutError):
            await house.link.send(BATCH)
        await house.until(lambda: house.back)


async def test_stopping_while_a_join_waits_lets_the_waiter_go():
    layer = Layer()
    layer.away = True
    house = House(layer)
    house.link.start()
    house.link.want("fws.g.x")
    waiting = asyncio.ensure_future(house.link.joined("fws.g.x"))
    await asyncio.sleep(0)
    await house.link.stop()
    assert await waiting is False


async def test_without_a_layer_the_loop_is_the_world():
    seen = []
    link = LocalLink(seen.append)
    link.start()
    link.want("a")
    assert link.is_joined("a") and await link.joined("a") and await link.round_trip()
    assert await link.there(0)
    await link.send(BATCH)
    link.unwant("a")
    await link.stop()
    assert seen == [BATCH]
