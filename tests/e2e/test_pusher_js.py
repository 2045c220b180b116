"""The package ``pusher-js`` of npm, unmodified, in Node."""

import contextlib
import itertools
import json
import signal
import urllib.request

import jwt
import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from ..javascript.clients import Client, InNode, install
from ..waiting import limited
from .pusher_processes import PusherClient, PusherSite, User, say
from .sockets import connect

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()
KEY = "a secret of 32 characters or more"
#: Connections of a process.
MOST = 40


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    install()
    settings = json.dumps({"MAX_CONNECTIONS": MOST, "JWT_KEY": KEY})
    site = PusherSite(tmp_path_factory.mktemp("pusher"), 2, TEST_SETTINGS=settings)
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
    """With all channels, in presence, and as the user they have signed in as."""
    number, user = next(NAMES), User(site.second, "ann")
    rooms = [f"{kind}{number}" for kind in ("private-", "presence-", "cache-")]
    own = f"#server-to-user-{user.id}"
    bob = await PusherClient.connect(js, site.second, User(site.second, "bob"))
    await bob.subscribe(rooms[1])
    ann = await PusherClient.connect(js, site.first, user)
    for room in rooms:
        await ann.subscribe(room)
    assert (await ann.do("sign_in"))["id"] == user.id
    await ann.do("hear_user", "message")
    await ann.hears("frame", of="pusher_internal:subscription_succeeded", channel=own)
    before = await ann.do("socket_id")
    for end, code in ((site.kill, 1006), (site.drain, 4200)):
        end()
        if end == site.kill:
            site.revive()
        assert (await ann.hears("error"))["code"] == code
        await ann.hears("connecting")
        await ann.hears("connected")
        await ann.subscribes_again(*rooms)
        await ann.hears("frame", of="pusher_internal:subscription_succeeded", channel=own)
        after = await ann.do("socket_id")
        assert after != before
        before = after
        for room in rooms:
            say(site.second, room, "again")
            assert (await ann.hears("message", channel=room))["data"] == {"said": "again"}
        say(site.second, f"user:{user.id}", "you")
        assert (await ann.hears("message", of="user"))["data"] == {"said": "you"}
        assert (await ann.do("members", rooms[1]))["count"] == 2


async def test_one_that_is_idle_asks_and_leaves_a_process_that_stands_still(js, site):
    room = f"private-{next(NAMES)}"
    # Milliseconds; without them half a minute for each.
    asks = {"activityTimeout": 50, "pongTimeout": 1_000}
    ann = await PusherClient.connect(js, site.first, User(site.second, "ann"), **asks)
    await ann.subscribe(room)
    for _ in range(3):
        await ann.hears("frame", of="pusher:pong")
    site.first.signal(signal.SIGSTOP)
    try:
        await ann.hears("connecting")
    finally:
        site.first.signal(signal.SIGCONT)
    await ann.hears("connected")
    await ann.subscribes_again(room)


# Codes: which the server sends when, and what the package does then


async def gives_up(client, code):
    assert (await client.hears("error"))["code"] == code
    await client.hears("disconnected")
    assert await client.do("state") == "disconnected"


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("nobody", 4001),
        ("disabled-key", 4003),
        ("app-key/and-more", 4005),
        # What the package says of its version comes after that of the key.
        ("app-key?protocol=seven&was=", 4006),
        ("app-key?protocol=4&was=", 4007),
        ("app-key?was=", 4008),
    ],
)
async def test_they_give_up_where_they_are_refused(js, site, key, code):
    await gives_up(await PusherClient.connect(js, site.first, key=key, waits=False), code)


async def test_they_give_up_where_an_app_has_all_its_connections(js, site):
    await PusherClient.connect(js, site.first, key="small-key")
    await gives_up(
        await PusherClient.connect(js, site.first, key="small-key", waits=False),
        4004,
    )


async def test_they_give_up_with_the_signature_of_another_user(js, site):
    signed = {"auth": f"app-key:{'0' * 64}", "user_data": '{"id":"1"}'}
    ann = await PusherClient.connect(js, site.first, signed=signed)
    await ann.do("ask_to_sign_in")
    await gives_up(ann, 4009)


async def test_where_only_tls_is_served_they_try_that(js, site):
    ann = await PusherClient.connect(js, site.first, key="tls-key", waits=False)
    assert (await ann.hears("error"))["code"] == 4000
    # There is none here: they go on trying.
    assert await ann.do("uses_tls")


async def test_where_a_process_is_full_they_come_back_after_a_second(js, site):
    async with contextlib.AsyncExitStack() as others:
        with contextlib.suppress(InvalidStatus):
            for _ in range(MOST + 1):
                url = site.second.ws("/plain/full")
                await others.enter_async_context(connect(url))
        ann = await PusherClient.connect(js, site.second, waits=False)
        assert (await ann.hears("error"))["code"] == 4100
    await ann.hears("connected")
    assert await ann.do("pause") == 1_000


def urlopen(server, path):
    urllib.request.urlopen(server.http(path)).close()


# Whatever closes them, of the site or of a filter; ours are translated.


@pytest.mark.parametrize(
    ("code", "is_told"),
    [
        *((code, code) for code in (4001, 4003, 4004, 4005, 4006, 4007, 4008, 4009, 4301, 4302)),
        *((code, 4009) for code in (4401, 4403)),
    ],
)
async def test_after_these_codes_they_stay_away(js, site, code, is_told):
    ann = await PusherClient.connect(js, site.first)
    urlopen(site.second, f"/close/{await ann.do('socket_id')}/{code}")
    await gives_up(ann, is_told)


@pytest.mark.parametrize(
    ("code", "is_told", "pause"),
    [
        (1000, None, 1_000),
        (4150, 4150, 1_000),
        *((code, code, 0) for code in (4200, 4201)),
        *((code, 4200, 0) for code in (4101, 4102, 4202, 4203, 4500)),
    ],
)
async def test_after_these_codes_they_come_back(js, site, code, is_told, pause):
    ann = await PusherClient.connect(js, site.first)
    before = await ann.do("socket_id")
    urlopen(site.second, f"/close/{before}/{code}")
    await ann.hears("connecting")
    await ann.hears("connected")
    assert await ann.do("socket_id") != before
    told = {one["code"] for one in ann.heard if one["event"] == "error"}
    assert told == (set() if is_told is None else {is_told})
    assert await ann.do("pause") == pause


async def test_they_are_told_of_a_mistake_and_stay(js, site):
    room = f"private-{next(NAMES)}"
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    bob = await PusherClient.connect(js, site.second, User(site.first, "bob"))
    for client in (ann, bob):
        await client.subscribe(room, "client-typed")
    own = await ann.do("socket_id")
    await ann.do("say", "no-event-of-the-protocol", {})
    await ann.hears("error", code=4200)
    await ann.do("trigger", room, "client-typed", "x" * 10_241)
    await ann.hears("error", code=4301)
    # More than ten a second.
    for n in range(100):
        await ann.do("trigger", room, "client-typed", n)
    await ann.hears("error", code=4301)
    assert (await bob.hears("client-typed", channel=room))["data"] == 0
    say(site.second, room, "hello")
    assert (await ann.hears("message", channel=room))["data"] == {"said": "hello"}
    assert await ann.do("socket_id") == own and await ann.do("state") == "connected"
    told = [one["data"] for one in bob.heard if one["event"] == "client-typed"]
    assert len(told) < 100


# One group, other protocols


async def test_plain_clients_those_of_centrifuge_and_the_site_hear_them_and_are_heard(js, site):
    """Each on another process than the one before."""
    user, room = User(site.first, "ann"), f"private-{next(NAMES)}"
    key = jwt.encode({"sub": user.id}, KEY, "HS256")
    async with (
        InNode("json") as node,
        connect(site.second.ws(f"/plain/{room}")) as plain,
    ):
        centrifuge = await Client.connect(node, site.second, tokens=[key])
        await centrifuge.subscribe(room)
        ann = await PusherClient.connect(js, site.first, user)
        bob = await PusherClient.connect(js, site.second, user)
        for client in (ann, bob):
            await client.subscribe(room, "client-typed")

        await plain.send('{"from": "plain"}')
        await centrifuge.do("publish", room, {"from": "centrifuge"})
        say(site.first, room, "site")
        for client in (ann, bob):
            told = [(await client.hears("message", channel=room))["data"] for _ in range(3)]
            assert sorted(told, key=str) == [
                {"from": "centrifuge"},
                {"from": "plain"},
                {"said": "site"},
            ]
        await ann.do("trigger", room, "client-typed", {"from": "pusher"})
        assert (await bob.hears("client-typed", channel=room))["data"] == {"from": "pusher"}
        heard = [await centrifuge.hears("publication", channel=room) for _ in range(4)]
        assert {"from": "pusher"} in [one["data"] for one in heard]
        async with limited():
            said = [json.loads(await plain.recv()) for _ in range(3)]
        assert {"from": "pusher"} in said and {"from": "plain"} not in said
