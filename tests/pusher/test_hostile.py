"""What a hostile client of the Pusher protocol cannot do."""

import asyncio
import json

import pytest
from django.contrib.auth.models import User

from filtered_websocket.connections import reading
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import publish
from filtered_websocket.pusher.session import Session
from filtered_websocket.transports import scheduling

from .clients import speak, with_app

#: So many messages, of which each takes a fourth of the time that a client may take at once.
MESSAGES, PART = 400, 4


@pytest.mark.parametrize(
    "channel",
    ["user:7", "user:7\0x", "token:secret", "#server-to-user-7", "2:news", "board:1", "*"],
)
async def test_no_name_leads_to_what_belongs_to_others(channel):
    async with speak(user=User(pk=7, username="ann")) as ann, speak() as bob:
        for client in (ann, bob):
            assert (await client.refused(channel=channel, auth=""))[0] in (400, 401)
            await client.say("client-typed", 1, channel=channel)
            assert await client.error() == 4301
        publish("secret", "user:7")
        assert await ann.quiet() and await bob.quiet()


async def test_a_signature_is_good_for_one_socket_channel_and_app():
    async with speak() as ann, speak() as bob, speak(key="other-key") as other:
        signed = ann.signed("presence-a", "5")
        for client in (bob, other):
            assert (await client.refused(**signed))[0] == 401
        assert (await ann.refused(**{**signed, "channel": "presence-b"}))[0] == 401
        assert (await ann.refused(**{**signed, "channel": "private-a"}))[0] == 401
        # A user's signature is none of a channel, and the other way round.
        user = ann.sign(f"{ann.socket_id}::user::x")
        assert (await ann.refused(channel="private-:user::x", auth=user))[0] == 400


@pytest.mark.repeats
async def test_what_is_refused_leaves_nothing_behind():
    async with speak() as ann:
        connection = ann.client.connection
        view = ann.client._find()[0]
        for number in range(300):
            await ann.refused(channel=f"private-{number}", auth="app-key:00")
            await ann.refused(channel="staff")
            signed = ann.signed(f"presence-{number}", "5", "x" * 5000)
            await ann.refused(**signed)
        session = view.pushes.sessions[connection.id]
        assert not (session._subscribing._groups or connection.members or connection.joined)
        assert not (view.pushes._channels or connection.asked or get_hub().groups.names)


@pytest.mark.repeats
async def test_who_comes_and_goes_leaves_nothing_behind():
    async with speak() as ann:
        view = ann.client._find()[0]
        for number in range(300):
            await ann.subscribe(f"presence-{number}", "5")
            await ann.say("pusher:unsubscribe", {"channel": f"presence-{number}"})
        await ann.client.settle()
        assert not (view.pushes._channels or ann.client.connection.members)
        # As many as before it began: it may begin with so many again.
        await ann.subscribe("news")


class Clock:
    """The time that work takes, as the package reads it: none but what a test says."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (reading, scheduling):
            monkeypatch.setattr(module, "time", self)

    def perf_counter(self):
        return self.now

    def work(self):
        """``PART`` times this take a turn, and a little more, as the sum is rounded."""
        self.now += 1.001 * scheduling.TURN / PART


async def turns_of_others(client, frames):
    """How often others have their turn until all these frames are handled."""
    turns, is_over = 0, False

    def count():
        nonlocal turns
        turns += 1
        scheduling.served.last = "another"
        if not is_over:
            asyncio.get_running_loop().call_soon(count)

    for frame in frames:
        await client.send(frame)
    count()
    await client.settle()
    is_over = True
    return turns


@pytest.mark.repeats
@pytest.mark.parametrize("event", ["pusher:ping", "client-typed", "nonsense", "pusher:subscribe"])
async def test_a_flood_gives_way_to_others(settings, monkeypatch, event):
    settings.FILTERED_WEBSOCKET = with_app(CLIENT_EVENT_RATE="100000/s")
    async with speak() as ann:
        await ann.subscribe("private-a")
        clock = Clock(monkeypatch)
        monkeypatch.setattr(Session, "_handle", working(clock, Session._handle))
        data = {"channel": "private-b", "auth": ""}
        frame = json.dumps({"event": event, "channel": "private-a", "data": data})
        turns = await turns_of_others(ann.client, [frame] * MESSAGES)
        assert turns >= MESSAGES // PART * scheduling.YIELD_ITERATIONS


def working(clock, handle):
    def work(self, said):
        clock.work()
        return handle(self, said)

    return work
