"""Which groups the mailbox is in: memberships, as a link keeps them."""

import asyncio

import pytest

from .test_link import BATCH, House, Layer, house_is_listening, quick

__all__ = ["quick"]


async def test_groups_that_could_not_be_left_are_left_by_the_next_link(settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    layer = Layer()
    async with House(layer) as house:
        assert await house_is_listening(house)
        layer.away = True
    assert layer.groups["fws.g.first"]
    layer.away = False
    async with House(layer) as house:
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
        assert not layer.groups.get("fws.g.first")
    assert not any(layer.groups.values())


async def test_a_mailbox_that_was_left_behind_is_taken_up_again_on_its_loop(settings):
    """The pubsub layer subscribes it again, for as long as the process lives."""
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.05, "LAYER_SETTLE": 0}
    layer, other = Layer(), Layer()
    async with House(layer) as house:
        assert await house_is_listening(house)
        layer.away = True
        with pytest.raises(ConnectionError):
            await house.link.send(BATCH)
    layer.away = False
    for new in (other, layer, layer):
        async with House(new) as house:
            assert await house_is_listening(house)
    assert layer.count("new_channel") == 2 and other.count("new_channel") == 1


async def test_a_cancellation_inside_the_layer_does_not_end_the_subscriber():
    class Cancelling(Layer):
        async def group_add(self, group, channel):
            if group == "fws.g.x" and self.count("add", group) == 0:
                self._call("add", group)
                raise asyncio.CancelledError
            await super().group_add(group, channel)

    async with House(Cancelling()) as house:
        house.link.want("fws.g.x")
        await house.until(lambda: house.back)
        assert await house.link.joined("fws.g.x")
        assert "cancel" in repr(house.lost[0]).lower()


async def test_a_group_left_while_it_is_joined_again_is_left():
    async with House(Layer()) as house:
        assert await house_is_listening(house)
        house.link._subscriptions.rejoin()
        house.link.unwant("fws.g.first")
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
        await house.link.round_trip()
        assert not house.layer.groups.get("fws.g.first")


async def test_a_group_add_that_fails_is_tried_again():
    layer = Layer()
    async with House(layer) as house:
        assert await house_is_listening(house)
        layer.away = True
        house.link.want("fws.g.x")
        await house.until(lambda: house.lost)
        layer.away = False
        await house.until(lambda: house.back)
        assert await house.link.joined("fws.g.x")


async def test_memberships_are_renewed_before_the_layer_forgets_them():
    layer = Layer(group_expiry=0.06)
    async with House(layer) as house:
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
        async with asyncio.timeout(10):
            await layer.renewed.wait()
    assert not house.lost


async def test_an_unwanted_group_is_left_and_may_be_wanted_again():
    async with House(Layer()) as house:
        for _ in range(3):
            house.link.want("fws.g.x")
            assert await house.link.joined("fws.g.x")
            house.link.unwant("fws.g.x")
            await house.link.round_trip()
        assert not house.link.is_joined("fws.g.x")
        house.link.want("fws.g.x")
        house.link.unwant("fws.g.x")
        house.link.want("fws.g.x")
        assert await house.link.joined("fws.g.x")
