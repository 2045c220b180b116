"""The package ``pusher-js`` of npm, unmodified, in Node."""

import itertools
import urllib.request

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
    site = PusherSite(tmp_path_factory.mktemp("pusher"), 2)
    yield site
    site.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def runtime(site):
    async with InNode("", "pusher_in_node.mjs") as js:
        yield js


@pytest_asyncio.fixture(loop_scope="session")
async def js(runtime):
    yield runtime
    async with limited():
        await runtime.carry_out("end")


async def test_they_subscribe_and_hear_the_site_and_one_another(js, site):
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    bob = await PusherClient.connect(js, site.second, User(site.first, "bob"))
    public, private = f"news-{next(NAMES)}", f"private-{next(NAMES)}"
    for client in (ann, bob):
        await client.subscribe(public)
        await client.subscribe(private, "client-typed")
    say(site.second, public, "hello")
    for client in (ann, bob):
        assert (await client.hears("message", channel=public))["data"] == {"said": "hello"}
    for data in ({"text": "grüße, 世界"}, "a text", 7):
        await ann.do("trigger", private, "client-typed", data)
        heard = await bob.hears("client-typed", channel=private)
        assert heard["data"] == data and heard["user"] is None
    await bob.do("unsubscribe", public)
    await bob.subscribe(public)


async def test_they_are_refused(js, site):
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    told = await ann.refused("private-closed-1")
    assert told["type"] == "AuthError"
    nobody = await PusherClient.connect(js, site.first)
    assert (await nobody.refused("a b"))["status"] == 400


async def test_presence_of_users_with_several_tabs(js, site):
    room = f"presence-{next(NAMES)}"
    anns, bobs = (User(site.first, name) for name in ("ann", "bob"))
    ann = await PusherClient.connect(js, site.first, anns)
    here = (await ann.subscribe(room, "client-typed"))["data"]
    assert here["members"] == {anns.id: {"name": "ann"}} and here["me"]["id"] == anns.id
    bob = await PusherClient.connect(js, site.second, bobs)
    here = (await bob.subscribe(room))["data"]
    assert here["members"] == {anns.id: {"name": "ann"}, bobs.id: {"name": "bob"}}
    added = (await ann.hears("pusher:member_added", channel=room))["data"]
    assert added == {"id": bobs.id, "info": {"name": "bob"}}
    tab = await PusherClient.connect(js, site.first, bobs)
    assert (await tab.subscribe(room))["data"]["count"] == 2
    await bob.do("trigger", room, "client-typed", {})
    assert (await ann.hears("client-typed", channel=room))["user"] == bobs.id
    await bob.do("disconnect")
    await tab.do("disconnect")
    removed = (await ann.hears("pusher:member_removed", channel=room))["data"]
    assert removed["id"] == bobs.id
    names = [one["event"] for one in ann.heard if one.get("channel") == room]
    assert names.count("pusher:member_added") == names.count("pusher:member_removed") == 1


async def test_a_user_signs_in(js, site):
    user = User(site.first, "ann")
    ann = await PusherClient.connect(js, site.second, user)
    assert (await ann.do("sign_in"))["id"] == user.id
    await ann.do("hear_user", "message")
    await ann.hears("frame", of="pusher_internal:subscription_succeeded")
    say(site.first, f"user:{user.id}", "you")
    assert (await ann.hears("message", of="user"))["data"] == {"said": "you"}


async def test_they_come_back_after_a_kill_and_a_drain(js, site):
    room = f"private-{next(NAMES)}"
    ann = await PusherClient.connect(js, site.first, User(site.second, "ann"))
    await ann.subscribe(room)
    before = await ann.do("socket_id")
    for end in (site.kill, site.drain):
        end()
        if end == site.kill:
            site.revive()
        await ann.hears("connecting")
        await ann.hears("connected")
        await ann.hears("pusher:subscription_succeeded", channel=room)
        after = await ann.do("socket_id")
        assert after != before
        before = after
        say(site.second, room, "again")
        assert (await ann.hears("message", channel=room))["data"] == {"said": "again"}


@pytest.mark.parametrize(("key", "code"), [("nobody", 4001), ("disabled-key", 4003)])
async def test_they_give_up_where_there_is_no_app(js, site, key, code):
    ann = await PusherClient.connect(js, site.first, key=key, waits=False)
    assert (await ann.hears("error"))["code"] == code
    await ann.hears("disconnected")
    assert await ann.do("state") == "disconnected"


def close(server, socket_id, code):
    urllib.request.urlopen(server.http(f"/close/{socket_id}/{code}")).close()


@pytest.mark.parametrize("code", [4001, 4003, 4004, 4005, 4006, 4007, 4008, 4009, 4301, 4302])
async def test_after_these_codes_they_stay_away(js, site, code):
    ann = await PusherClient.connect(js, site.first)
    close(site.second, await ann.do("socket_id"), code)
    await ann.hears("disconnected")
    assert await ann.do("state") == "disconnected"


@pytest.mark.parametrize("code", [1000, 4100, 4101, 4102, 4200, 4201, 4202, 4203, 4500])
async def test_after_these_codes_they_come_back(js, site, code):
    ann = await PusherClient.connect(js, site.first)
    before = await ann.do("socket_id")
    close(site.second, before, code)
    await ann.hears("connecting")
    await ann.hears("connected")
    assert await ann.do("socket_id") != before


async def test_where_only_tls_is_served_they_try_that(js, site):
    ann = await PusherClient.connect(js, site.first)
    close(site.second, await ann.do("socket_id"), 4000)
    # There is none here: they go on trying.
    await ann.hears("connecting")
    assert await ann.do("uses_tls")
