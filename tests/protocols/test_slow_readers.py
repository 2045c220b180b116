"""Clients of the Centrifuge protocol that do not read what they are sent."""

import asyncio
import contextlib

import pytest

from filtered_websocket import WebSocketSendFilter
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.protocols import session

from .clients import app, speak
from .test_tokens import KEY, token

MAX_OUTBOX = 6_000
RULES = [
    group("kept", publish=True, history=History(size=100, ttl=60)),
    group("plain", publish=True),
    group("room", presence=True),
]


class Signed(WebSocketSendFilter):
    @classmethod
    def filter(cls, web_socket_instance, message):
        return message


class SignedLater(WebSocketSendFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        await asyncio.sleep(0)
        return message


def slow(application, **options):
    """A client whose socket takes one frame, and nothing more until it is read."""
    client = speak(application=application, **options)
    client._connecting._client._output = asyncio.Queue(1)
    return client


async def publish(client, messages, channel="kept"):
    for message in messages:
        assert await client.ask(publish={"channel": channel, "data": message}) == {"publish": {}}


async def offsets_until(client, key):
    """The offsets of publications that come before another push."""
    offsets = []
    while "pub" in (push := await client.push()):
        offsets.append(push["pub"]["offset"])
    assert key in push
    return offsets, push[key]


@pytest.mark.parametrize("slow_reader", ["close", "drop_newest"])
@pytest.mark.parametrize("filters", [[], [Signed], [SignedLater]], ids=["none", "send", "async"])
async def test_who_cannot_take_a_publication_is_unsubscribed_and_gets_it_later(
    settings, filters, slow_reader
):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": MAX_OUTBOX, "SLOW_READER": slow_reader}
    application = app(filters, RULES)
    async with speak(application=application) as ann, slow(application) as bob:
        place = (await bob.ask(subscribe={"channel": "kept"}))["subscribe"]
        messages = [f"{number:500}" for number in range(14)]
        await publish(ann, messages)
        offsets, told = await offsets_until(bob, "unsubscribe")
        assert told == {"code": 2500, "reason": "insufficient state"}
        assert offsets == list(range(1, len(offsets) + 1)) and len(offsets) < len(messages)
        wanted = {"recover": True, "epoch": place["epoch"], "offset": len(offsets)}
        result = (await bob.ask(subscribe={"channel": "kept", **wanted}))["subscribe"]
        rest = [one["data"] for one in result.get("publications", ())]
        while len(rest) < len(messages) - len(offsets):
            rest.append((await bob.push())["pub"]["data"])
        assert result["recovered"] and rest == messages[len(offsets) :]


class Gate(WebSocketSendFilter):
    """Lets messages pass once it is open."""

    opened: asyncio.Event

    @classmethod
    async def filter(cls, web_socket_instance, message):
        await cls.opened.wait()
        return message


@pytest.mark.parametrize("slow_reader", ["close", "drop_newest"])
async def test_whose_send_chain_cannot_take_a_publication_is_unsubscribed(settings, slow_reader):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": MAX_OUTBOX, "SLOW_READER": slow_reader}
    Gate.opened = asyncio.Event()
    application = app([Gate], RULES)
    async with speak(application=application) as ann, speak(application=application) as bob:
        await bob.ask(subscribe={"channel": "kept"})
        await publish(ann, [f"{number:500}" for number in range(30)])
        assert (await bob.push())["unsubscribe"]["code"] == 2500
        Gate.opened.set()
        assert await bob.ask(ping={}) == {"ping": {}}


@pytest.mark.parametrize("filters", [[], [SignedLater]], ids=["none", "async"])
async def test_who_reads_nothing_is_closed_where_the_site_says_so(settings, filters):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": MAX_OUTBOX}
    application = app(filters, RULES)
    async with speak(application=application) as ann, slow(application) as bob:
        await bob.ask(subscribe={"channel": "plain"})
        await publish(ann, [f"{number:500}" for number in range(30)], "plain")
        assert await bob.closed() == 3008


@pytest.mark.parametrize("filters", [[], [SignedLater]], ids=["none", "async"])
async def test_without_a_history_the_newest_may_be_dropped(settings, filters):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": MAX_OUTBOX, "SLOW_READER": "drop_newest"}
    application = app(filters, RULES)
    async with speak(application=application) as ann, slow(application) as bob:
        await bob.ask(subscribe={"channel": "plain"})
        await publish(ann, [f"{number:500}" for number in range(30)], "plain")
        dropped = get_hub().counts["dropped"]
        heard = [int((await bob.push())["pub"]["data"]) for _ in range(30 - dropped)]
        assert dropped and heard == sorted(heard)
        assert await bob.ask(ping={}) == {"ping": {}}


@pytest.mark.parametrize("chosen", ["drop_newest", "close"])
async def test_a_subscription_by_the_server_is_closed(settings, chosen):
    settings.FILTERED_WEBSOCKET = {
        "JWT_KEY": KEY,
        "MAX_OUTBOX": MAX_OUTBOX,
        "SLOW_READER": chosen,
    }
    application = app(rules=RULES)
    async with (
        speak(application=application) as ann,
        slow(application, connects=False) as bob,
    ):
        await bob.ask(connect={"token": token(channels=["kept"])})
        await publish(ann, [f"{number:500}" for number in range(30)])
        assert await bob.closed() == 3010


async def test_who_does_not_read_answers_is_not_read(monkeypatch):
    monkeypatch.setattr(session, "HIGH_WATER", 2_000)
    application = app(rules=RULES)
    async with slow(application) as ann:
        await ann.ask(subscribe={"channel": "room"})
        transport = ann.client.connection.transport
        asked = [{"id": number, "presence": {"channel": "room"}} for number in range(10, 210)]
        await ann.say(*asked)
        for number in range(10, 210):
            reply = await ann.hear()
            assert reply["id"] == number and ann.id in reply["presence"]["presence"]
            assert transport.unsent < 2_500


async def test_an_answer_that_is_longer_than_the_outbox_is_an_error(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 500}
    application = app(rules=RULES)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            ann = await stack.enter_async_context(speak(application=application))
            await ann.ask(subscribe={"channel": "room"})
        assert await ann.error(presence={"channel": "room"}) == 106
        stats = {"num_clients": 10, "num_users": 1}
        assert (await ann.ask(presence_stats={"channel": "room"}))["presence_stats"] == stats
