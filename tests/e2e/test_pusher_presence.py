"""Presence of pusher-js across processes: by user, after a killed process and an empty Redis."""

import asyncio
import itertools
import json

import pusher
import pytest
import pytest_asyncio

from ..javascript.clients import InNode, install
from ..waiting import limited
from .pusher_processes import PusherClient, PusherSite, User, say

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    install()
    # A killed process is noticed soon.
    settings = json.dumps({"PRESENCE_LEASE": 3.0})
    site = PusherSite(tmp_path_factory.mktemp("pusher"), 2, TEST_SETTINGS=settings)
    yield site
    site.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def js(site):
    async with InNode("", "pusher_in_node.mjs") as js:
        yield js
        async with limited():
            await js.carry_out("end")


def of_server(server):
    return {"host": "127.0.0.1", "port": server.port, "ssl": False}


async def ask(method, *arguments):
    """What a method of the package for Python answers, in a thread."""
    async with limited():
        return await asyncio.to_thread(method, *arguments)


async def test_of_a_killed_process_users_leave_once_and_only_those_who_are_gone(js, site):
    room = f"presence-{next(NAMES)}"
    anns, bobs, cys = (User(site.second, name) for name in ("ann", "bob", "cy"))
    ann = await PusherClient.connect(js, site.second, anns)
    await ann.subscribe(room)
    # Two tabs of bob, and one of cy whose other one is on the process that stays.
    gone = [await PusherClient.connect(js, site.first, user) for user in (bobs, bobs, cys)]
    for client in gone:
        await client.subscribe(room)
    stays = await PusherClient.connect(js, site.second, cys)
    await stays.subscribe(room)
    for user in (bobs, cys):
        added = await ann.hears("pusher:member_added", channel=room)
        assert added["data"]["id"] == user.id
    site.kill()
    try:
        removed = await ann.hears("pusher:member_removed", channel=room)
        assert removed["data"]["id"] == bobs.id
        members = await ann.do("members", room)
        assert set(members["members"]) == {anns.id, cys.id}
        # Backends are told the same.
        backend = pusher.Pusher("1", "app-key", "app-secret", timeout=60, **of_server(site.second))
        found = await ask(backend.users_info, room)
        assert sorted(one["id"] for one in found["users"]) == sorted([anns.id, cys.id])
        found = await ask(backend.channels_info, room, ["user_count"])
        assert found == {"channels": {room: {"user_count": 2}}}
        found = await ask(backend.channel_info, room, ["user_count", "subscription_count"])
        assert found == {"occupied": True, "user_count": 2, "subscription_count": 2}
        dee = await PusherClient.connect(js, site.second, User(site.second, "dee"))
        assert (await dee.subscribe(room))["data"]["count"] == 3
    finally:
        site.revive()
    # They come back by themselves: bob is there again, and nobody was told of cy.
    added = [(await ann.hears("pusher:member_added", channel=room))["data"] for _ in range(2)]
    assert {one["info"]["name"] for one in added} == {"dee", "bob"}
    told = [one for one in ann.heard if one.get("channel") == room]
    assert cys.id not in [
        one["data"]["id"] for one in told if one["event"] == "pusher:member_removed"
    ]


async def test_an_empty_redis_takes_nobody_away(js, site):
    room = f"presence-{next(NAMES)}"
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    bob = await PusherClient.connect(js, site.second, User(site.first, "bob"))
    await ann.subscribe(room)
    await bob.subscribe(room)
    await ann.hears("pusher:member_added", channel=room)
    site.empty_redis()
    for server in site.servers:
        server.said("is back after")
    cy = await PusherClient.connect(js, site.second, User(site.first, "cy"))
    await cy.subscribe(room)
    for client in (ann, bob):
        added = (await client.hears("pusher:member_added", channel=room))["data"]
        assert added["info"] == {"name": "cy"}
        members = await client.do("members", room)
        assert {one["name"] for one in members["members"].values()} == {"ann", "bob", "cy"}
        assert "pusher:member_removed" not in [one["event"] for one in client.heard]
    say(site.first, room, "all")
    for client in (ann, bob, cy):
        assert (await client.hears("message", channel=room))["data"] == {"said": "all"}
