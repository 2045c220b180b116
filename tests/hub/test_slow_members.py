"""Groups with history, and members that have no room for what was published."""

import asyncio

import pytest

from filtered_websocket import PublishError, WebSocketSendFilter
from filtered_websocket.conf import conf
from filtered_websocket.history import ahistory
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import connect

from ..history.driver import SlowNumber, ask, route
from ..waiting import until
from .test_histories import world as world

MAX_OUTBOX = 3_000


class Signed(WebSocketSendFilter):
    _registers = False

    @classmethod
    def filter(cls, web_socket_instance, message):
        return message


class Gate(WebSocketSendFilter):
    """Lets messages pass once it is open."""

    _registers = False
    opened: asyncio.Event

    @classmethod
    async def filter(cls, web_socket_instance, message):
        await cls.opened.wait()
        return message


@pytest.mark.repeats
@pytest.mark.parametrize(
    "filters", [[], [SlowNumber], [Signed], [Gate]], ids=["none", "async", "send", "gate"]
)
async def test_a_member_that_cannot_take_a_publication_is_told_and_never_misses_one(
    world, settings, filters
):
    chosen = {"MAX_OUTBOX": MAX_OUTBOX, "SLOW_READER": "drop_newest"}
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, **chosen}
    Gate.opened = asyncio.Event()
    app = route(*filters)
    async with connect(app) as ann, connect(app) as bob:
        await ask(bob, "join", "plain:1")
        await ask(bob, "join", "room:1")
        connection, counts = bob.connection, get_hub().counts
        if not filters:
            # Without a history the site's setting holds.
            await ann.connection.apublish("x" * (MAX_OUTBOX + 1), "plain:1")
            await until(lambda: counts["dropped"])
        dropped = counts["dropped"]
        for number in range(4):
            # Together: what comes at once is written at once.
            ann.connection.publish(f"{number}" * (MAX_OUTBOX // 4), "room:1")
        await ann.connection.apublish("y" * (MAX_OUTBOX + 1), "room:1")
        await until(lambda: connection.closing)
        Gate.opened.set()
        assert await bob.closed() == 4101
        assert counts["dropped"] == dropped
        assert (await ahistory("room:1")).position.offset == 5


@pytest.mark.parametrize("filters", [[], [SlowNumber], [Signed]], ids=["none", "async", "send"])
async def test_who_has_no_room_for_what_was_missed_gets_no_part_of_it(world, settings, filters):
    settings.FILTERED_WEBSOCKET = {**settings.FILTERED_WEBSOCKET, "MAX_OUTBOX": MAX_OUTBOX}
    app = route(*filters)
    opening = connect(app)
    # A socket that takes one frame, and nothing more until it is read.
    opening._client._output = asyncio.Queue(1)
    async with connect(app) as ann, opening as bob:
        for number in range(5):
            position = await ann.connection.apublish(f"{number}" * 900, "room:1")
        connection, transport = bob.connection, bob.connection.transport
        assert (await connection.recover("room:1", (position.epoch, 0)))[:2] == (False, position)
        assert transport.unsent == 0 and await bob.received_nothing()
        taken = await connection.recover("room:1", (position.epoch, 3))
        assert taken.recovered
        again = await connection.recover("room:1", (position.epoch, 1))
        assert again[:2] == (False, position) and transport.unsent <= MAX_OUTBOX
        # It is a member all the same; what it does not take ends the connection, not the memory.
        for _ in range(4):
            await ann.connection.apublish("x" * 900, "room:1")
            assert transport.unsent <= MAX_OUTBOX
        await until(lambda: connection.closing)
        assert (await bob.receive())[-1] == "3"
        assert await bob.closed() == 4101


async def test_of_the_longest_message_one_byte_more_is_refused_and_not_kept(world):
    longest = conf.MAX_MESSAGE_SIZE
    async with connect(route()) as ann, connect(route()) as bob:
        (_, (epoch, _, _)), _ = await ask(bob, "join", "room:1")
        assert await ann.connection.apublish(b"x" * longest, "room:1") == (epoch, 1, False)
        assert len(await bob.receive()) == longest
        for publish_to in (ann.connection.apublish, ann.connection.publish):
            with pytest.raises(PublishError, match=f"{longest + 1} bytes"):
                await publish_to(b"x" * (longest + 1), "room:1")
        assert (await ahistory("room:1")).position == (epoch, 1, False)
        assert (await bob.connection.recover("room:1", (epoch, 0))).recovered
        assert len(await bob.receive()) == longest


async def test_who_speaks_no_protocol_stays_a_member_when_something_is_lost(world):
    async with connect(route()) as ann, connect(route()) as bob:
        await ask(bob, "join", "room:1")
        get_hub().groups._by_name["room:1"].feed.lose()
        await ann.connection.apublish("on", "room:1")
        assert await bob.receive() == "on"
