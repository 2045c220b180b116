"""Which groups the hub's channel is in."""

import asyncio

import pytest

from ..waiting import limited
from .test_link import BATCH, FakeHub, Layer, is_listening, quick

__all__ = ["quick"]


async def test_groups_that_could_not_be_left_are_left_by_the_next_link(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    layer = Layer()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        layer.away = True
    assert layer.groups["fws.g.first"]
    layer.away = False
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        assert await hub.link.wait_joined("fws.g.x")
        assert not layer.groups.get("fws.g.first")
    assert not any(layer.groups.values())


async def test_a_channel_that_could_not_leave_its_groups_is_used_again_on_its_loop(settings):
    """The pubsub layer subscribes it again, for as long as the process lives."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    layer, other = Layer(), Layer()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        layer.away = True
        with pytest.raises(ConnectionError):
            await hub.link.send(BATCH)
    layer.away = False
    for new in (other, layer, layer):
        async with FakeHub(new) as hub:
            assert await is_listening(hub)
    assert layer.count("new_channel") == 2 and other.count("new_channel") == 1


async def test_a_cancellation_inside_the_layer_does_not_end_the_subscriber():
    class Cancelling(Layer):
        async def group_add(self, group, channel):
            if group == "fws.g.x" and self.count("add", group) == 0:
                self._call("add", group)
                raise asyncio.CancelledError
            await super().group_add(group, channel)

    async with FakeHub(Cancelling()) as hub:
        hub.link.want("fws.g.x")
        await hub.until(lambda: hub.back)
        assert await hub.link.wait_joined("fws.g.x")
        assert "cancel" in repr(hub.lost[0]).lower()


async def test_a_group_left_while_it_is_joined_again_is_left():
    async with FakeHub(Layer()) as hub:
        assert await is_listening(hub)
        hub.link._subscriptions.rejoin()
        hub.link.unwant("fws.g.first")
        hub.link.want("fws.g.x")
        assert await hub.link.wait_joined("fws.g.x")
        await hub.link.round_trip()
        assert not hub.layer.groups.get("fws.g.first")


async def test_a_group_add_that_fails_is_tried_again():
    layer = Layer()
    async with FakeHub(layer) as hub:
        assert await is_listening(hub)
        layer.away = True
        hub.link.want("fws.g.x")
        await hub.until(lambda: hub.lost)
        layer.away = False
        await hub.until(lambda: hub.back)
        assert await hub.link.wait_joined("fws.g.x")


async def test_memberships_are_renewed_before_the_layer_forgets_them():
    layer = Layer(group_expiry=0.06)
    async with FakeHub(layer) as hub:
        hub.link.want("fws.g.x")
        assert await hub.link.wait_joined("fws.g.x")
        async with limited():
            await layer.renewed.wait()
    assert not hub.lost


async def test_an_unwanted_group_is_left_and_may_be_wanted_again():
    async with FakeHub(Layer()) as hub:
        for _ in range(3):
            hub.link.want("fws.g.x")
            assert await hub.link.wait_joined("fws.g.x")
            hub.link.unwant("fws.g.x")
            await hub.link.round_trip()
        assert not hub.link.is_joined("fws.g.x")
        hub.link.want("fws.g.x")
        hub.link.unwant("fws.g.x")
        hub.link.want("fws.g.x")
        assert await hub.link.wait_joined("fws.g.x")


async def test_only_a_group_that_has_to_be_joined_again_is_reported():
    async with FakeHub(Layer()) as hub:
        keys = ["fws.g.x", "fws.g.y", "fws.g.z"]
        for key in keys:
            hub.link.want(key)
            assert await hub.link.wait_joined(key)
        subscriptions = hub.link._subscriptions
        subscriptions.report_interrupted([])
        subscriptions.rejoin()
        hub.link.want("fws.g.new")
        hub.link.unwant("fws.g.z")
        subscriptions.report_interrupted(["fws.g.y", *hub.link._probes.keys])
        await subscriptions.up_to_date.wait()
        assert hub.late == ["fws.g.x"]
