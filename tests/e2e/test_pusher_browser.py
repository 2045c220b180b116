"""The packages ``pusher-js`` and ``laravel-echo`` of npm, unmodified, in Chromium."""

import asyncio
import itertools
import json

import pusher
import pytest
import pytest_asyncio
from pusher.errors import PusherForbidden

from ..javascript.clients import install
from ..waiting import limited
from .processes import Uvicorn
from .pusher_processes import PusherPage, PusherSite, say

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()
APPS = "/admin/filtered_websocket/pusherapp/"
MASTER = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    install()
    # Pages of one process may connect to the other.
    site = PusherSite(
        tmp_path_factory.mktemp("pusher"),
        2,
        # The tests in Node have daphne.
        Uvicorn,
        PUSHER_ADMIN="1",
        TEST_SETTINGS=json.dumps({"PUSHER_APPS_IN_ADMIN": True}),
    )
    yield site
    site.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def windows(browser, site):
    async with (
        PusherPage(browser, site.first, "ann") as ann,
        PusherPage(browser, site.second, "bob") as bob,
    ):
        yield ann, bob


@pytest_asyncio.fixture(loop_scope="session")
async def pages(windows):
    """Ann's, of the first process, and Bob's, of the second one: without the clients of others."""
    yield windows
    for page in windows:
        async with limited():
            await page.carry_out("end")
            await page.page.evaluate("window.echo?.disconnect()")


def backend_of(site, *app, **more):
    options = {"host": "127.0.0.1", "port": site.second.port, "ssl": False, "timeout": 60}
    return pusher.Pusher(*app, **options, **more)


@pytest.fixture
def backend(site):
    return backend_of(site, "1", "app-key", "app-secret", encryption_master_key_base64=MASTER)


async def trigger(backend, *arguments):
    async with limited():
        await asyncio.to_thread(backend.trigger, *arguments)


async def test_all_kinds_of_channels(pages, site, backend):
    ann_s, bob_s = pages
    number = next(NAMES)
    ann, bob = await ann_s.connect(), await bob_s.connect()
    kinds = ("", "private-", "presence-", "cache-", "private-encrypted-")
    channels = [f"{kind}{number}" for kind in kinds]
    for channel in channels:
        for one in (ann, bob):
            await one.subscribe(channel, "client-typed")
            if channel.startswith("cache-"):
                await one.hears("pusher:cache_miss", channel=channel)
        await trigger(backend, channel, "order", {"n": "grüße"})
        for one in (ann, bob):
            assert (await one.hears("order", channel=channel))["data"] == {"n": "grüße"}
    await ann.do("trigger", channels[1], "client-typed", {"a": 1})
    heard = await bob.hears("client-typed", channel=channels[1])
    assert heard["data"] == {"a": 1} and heard["user"] is None
    await ann.do("trigger", channels[2], "client-typed", "text")
    heard = await bob.hears("client-typed", channel=channels[2])
    assert heard["data"] == "text" and heard["user"] == ann_s.id
    here = await bob.do("members", channels[2])
    assert here["members"] == {ann_s.id: {"name": "ann"}, bob_s.id: {"name": "bob"}}

    # A tab is no user.
    tab = await ann_s.connect(site.second)
    assert (await tab.subscribe(channels[2]))["data"]["count"] == 2
    # It comes when the event of the cache is there.
    await tab.subscribe(channels[3])
    assert (await tab.hears("order", channel=channels[3]))["data"] == {"n": "grüße"}
    assert "pusher:cache_miss" not in [one["event"] for one in tab.heard]
    await tab.do("disconnect")
    await ann.do("disconnect")
    removed = await bob.hears("pusher:member_removed", channel=channels[2])
    assert removed["data"]["id"] == ann_s.id
    told = [one["event"] for one in bob.heard if one.get("channel") == channels[2]]
    assert told.count("pusher:member_removed") == 1 and "pusher:member_added" not in told


async def test_a_user_signs_in_and_is_sent_away(pages, site, backend):
    ann_s, bob_s = pages
    ann, bob, tab = await ann_s.connect(), await bob_s.connect(), await bob_s.connect(site.first)
    for one, page in ((ann, ann_s), (bob, bob_s), (tab, bob_s)):
        assert (await one.do("sign_in"))["id"] == page.id
        await one.do("hear_user", "message")
        await one.hears("frame", of="pusher_internal:subscription_succeeded")
    say(site.first, f"user:{bob_s.id}", "you")
    for one in (bob, tab):
        assert (await one.hears("message", of="user"))["data"] == {"said": "you"}
    async with limited():
        await asyncio.to_thread(backend.send_to_user, ann_s.id, "message", {"said": "ann"})
        await asyncio.to_thread(backend.terminate_user_connections, bob_s.id)
    for one in (bob, tab):
        await one.hears("error", code=4009)
        await one.hears("disconnected")
    assert (await ann.hears("message", of="user"))["data"] == {"said": "ann"}
    assert await ann.do("state") == "connected"
    # The site has not signed this one.
    refused = await ann.refused("private-closed-1")
    assert refused["type"] == "AuthError" and refused["status"] == 403


async def test_they_give_up_where_the_app_is_for_other_pages_and_after_a_logout(browser, site):
    async with PusherPage(browser, site.second, "cy") as page:
        elsewhere = await page.connect(site.first, key="elsewhere-key", waits=False)
        # The session comes with the handshake, which is to the page's own host.
        cy = await page.connect(site.first)
        await page.page.evaluate("fetch('/logout')")
        for one in (elsewhere, cy):
            await one.hears("error", code=4009)
            await one.hears("disconnected")


async def test_an_app_is_made_in_the_admin_and_disabled_while_clients_are_there(browser, site):
    async with PusherPage(browser, site.first, "boss") as boss:
        admin = await boss.page.context.new_page()
        await admin.goto(site.first.http(f"{APPS}add/"))
        await admin.fill("#id_name", "shop")
        await admin.fill("#id_max_connections", "1")
        app_id, key = [await admin.input_value(f"#id_{name}") for name in ("app_id", "key")]
        await admin.click("[name=_save]")
        secret = await admin.inner_text("#fws-key")
        assert secret.startswith("fws_")

        client = await boss.connect(site.second, key=key)
        full = await boss.connect(site.second, key=key, waits=False)
        await full.hears("error", code=4004)
        await full.hears("disconnected")
        await client.subscribe("sales")
        backend = backend_of(site, app_id, key, secret)
        await trigger(backend, "sales", "order", {"n": 1})
        assert (await client.hears("order", channel="sales"))["data"] == {"n": 1}

        await admin.goto(site.first.http(APPS))
        assert secret not in await admin.content()
        await admin.click("text=shop")
        await admin.wait_for_selector("#id_enabled")
        assert key in await admin.content() and secret not in await admin.content()
        await admin.uncheck("#id_enabled")
        await admin.click("[name=_save]")
        await client.hears("error", code=4003)
        await client.hears("disconnected")
        with pytest.raises(PusherForbidden):
            await trigger(backend, "sales", "order", {"n": 2})


ECHO = """
([port, how]) => {
  window.seen = [];
  window.wake = () => {};
  window.note = (name) => (what) => { seen.push([name, what]); wake(); };
  window.next = async (name) => {
    for (;;) {
      const at = seen.findIndex(([of]) => of === name);
      if (at >= 0) return seen.splice(at, 1)[0].slice(1);
      await new Promise((woken) => { wake = woken; });
    }
  };
  window.echo = new (Echo.default ?? Echo)({
    broadcaster: "reverb", key: "app-key", wsHost: "127.0.0.1", wsPort: port, wssPort: port,
    forceTLS: false, enabledTransports: ["ws"], disableStats: true, ...how,
  });
  window.signIn = () => {
    const { connection } = echo.connector.pusher;
    connection.bind("message", ({ channel, event }) => {
      if (channel?.startsWith("#") && event === "pusher_internal:subscription_succeeded")
        note("signed in")(channel);
    });
    echo.connector.signin();
  };
}
"""
JOIN = """
(number) => {
  echo.channel(`news-${number}`).listen(".order", note("public")).subscribed(note("subscribed"));
  window.room = echo.join(`room-${number}`)
    .here(note("here")).joining(note("joining")).leaving(note("leaving"))
    .listenForWhisper("typing", note("whisper"));
  echo.private(`closed-${number}`).error((error) => note("error")(error.status));
}
"""
SUBSCRIBE = """
(number) => {
  const { connector } = echo;
  echo.private(`open-${number}`).listen(".order", note("private"))
    .listenForWhisper("typing", note("typing")).subscribed(note("subscribed"));
  echo.encryptedPrivate(number).listen(".order", note("encrypted")).subscribed(note("subscribed"));
  for (const channel of [echo.channel(`cache-${number}`), echo.private(`cache-${number}`)])
    channel.listen(".order", note(channel.name)).on("pusher:cache_miss", note("miss"))
      .subscribed(note("subscribed"));
  // Echo leaves what a user is sent to pusher-js.
  connector.pusher.user.bind("message", note("user"));
  window.signIn();
}
"""
SIGN_IN = """
(number) => {
  echo.join(`room-${number}`).here(note("here")).error((error) => note("error")(error.status));
  window.signIn();
}
"""
COME_BACK = """
(number) => {
  echo.connector.onConnectionChange(note("status"));
  echo.private(number).listen(".message", note("message")).subscribed(note("subscribed"));
}
"""


async def heard(page, name):
    async with limited():
        return await page.page.evaluate("name => next(name)", name)


async def seen(page):
    return await page.page.evaluate("seen.map(([name]) => name)")


async def echo(page, server, script, number, **how):
    """Laravel Echo in a page, and what it does there."""
    await page.page.evaluate(ECHO, [server.port, how or {"csrfToken": page.csrf}])
    await page.page.evaluate(script, str(number))


async def test_laravel_echo_joins_a_room(pages, site, backend):
    (ann, bob), number = pages, next(NAMES)
    await echo(ann, site.first, JOIN, number)
    assert await heard(ann, "here") == [[{"name": "ann"}]]
    await echo(bob, site.second, JOIN, number)
    [here] = await heard(bob, "here")
    assert sorted(user["name"] for user in here) == ["ann", "bob"]
    assert await heard(ann, "joining") == [{"name": "bob"}]
    assert await heard(ann, "error") == [403]
    for page in pages:
        await heard(page, "subscribed")
    await trigger(backend, f"news-{number}", "order", {"n": 1})
    for page in pages:
        assert await heard(page, "public") == [{"n": 1}]
    await bob.page.evaluate("room.whisper('typing', {who: 'bob'})")
    assert await heard(ann, "whisper") == [{"who": "bob"}]
    own = await ann.page.evaluate("echo.socketId()")
    await trigger(backend, f"news-{number}", "order", {"n": 2}, own)
    assert await heard(bob, "public") == [{"n": 2}]
    # A name stands for all its kinds of channels; who has left one is in the others.
    await bob.page.evaluate("number => echo.leave(`room-${number}`)", number)
    assert await heard(ann, "leaving") == [{"name": "bob"}]
    await trigger(backend, f"news-{number}", "order", {"n": 3})
    for page in pages:
        assert await heard(page, "public") == [{"n": 3}]
    await bob.page.evaluate(
        "number => { echo.leave(`news-${number}`);"
        " echo.channel(`other-${number}`).listen('.order', note('other'))"
        ".subscribed(note('subscribed')) }",
        number,
    )
    await heard(bob, "subscribed")
    await trigger(backend, [f"news-{number}", f"other-{number}"], "order", {"n": 4})
    assert await heard(ann, "public") == await heard(bob, "other") == [{"n": 4}]
    assert "public" not in await seen(bob)


async def test_laravel_echo_has_all_kinds_of_channels(pages, site, backend):
    (ann, bob), number = pages, next(NAMES)
    await echo(ann, site.first, SUBSCRIBE, number)
    for name in (*("subscribed",) * 4, "miss", "miss"):
        await heard(ann, name)
    private, encrypted = f"private-open-{number}", f"private-encrypted-{number}"
    caches = [f"cache-{number}", f"private-cache-{number}"]
    for channel in (private, encrypted, *caches):
        await trigger(backend, channel, "order", {"n": "grüße"})
    for name in ("private", "encrypted", *caches):
        assert await heard(ann, name) == [{"n": "grüße"}]
    await echo(bob, site.second, SUBSCRIBE, number)
    for name in caches:
        assert await heard(bob, name) == [{"n": "grüße"}]
    for _ in range(4):
        await heard(bob, "subscribed")
    assert "miss" not in await seen(bob) and "private" not in await seen(bob)
    await bob.page.evaluate(f"echo.private('open-{number}').whisper('typing', 'bob')")
    assert await heard(ann, "typing") == ["bob"]
    for page in pages:
        assert await heard(page, "signed in") == [f"#server-to-user-{page.id}"]
    say(site.first, f"user:{bob.id}", "you")
    assert await heard(bob, "user") == [{"said": "you"}]
    assert "user" not in await seen(ann) and "typing" not in await seen(bob)


async def test_laravel_echo_has_a_token_instead_of_a_session(browser, site):
    async with PusherPage(browser, site.first, "eve") as eve:
        key = await eve.page.evaluate("fetch('/token').then((answer) => answer.text())")
        await eve.page.context.clear_cookies()
        await echo(eve, site.second, SIGN_IN, next(NAMES), bearerToken=key)
        assert await heard(eve, "here") == [[{"name": "eve"}]]
        assert await heard(eve, "signed in") == [f"#server-to-user-{eve.id}"]
        await echo(eve, site.second, SIGN_IN, next(NAMES), bearerToken=f"{key}x")
        assert await heard(eve, "error") == [401]


async def test_they_come_back_after_a_kill_and_a_drain(pages, site):
    """Pages of the other process, which signs all the while."""
    _, bob = pages
    number = next(NAMES)
    room = f"private-{number}"
    client = await bob.connect(site.first)
    await client.subscribe(room)
    await echo(bob, site.first, COME_BACK, number)
    await heard(bob, "subscribed")
    for end in (site.kill, site.drain):
        await bob.page.evaluate("seen.length = 0")
        end()
        if end == site.kill:
            site.revive()
        await client.hears("connecting")
        await client.hears("pusher:subscription_succeeded", channel=room)
        await heard(bob, "subscribed")
        statuses = await bob.page.evaluate(
            "seen.filter(([name]) => name === 'status').map(([, status]) => status)"
        )
        assert "connecting" in statuses and statuses[-1] == "connected"
        say(site.second, room, "again")
        assert (await client.hears("message", channel=room))["data"] == {"said": "again"}
        assert await heard(bob, "message") == [{"said": "again"}]
