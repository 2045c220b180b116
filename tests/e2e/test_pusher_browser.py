"""The packages ``pusher-js`` and ``laravel-echo`` of npm, unmodified, in Chromium."""

import asyncio
import itertools

import pusher
import pytest

from ..javascript.clients import install
from ..waiting import limited
from .pusher_processes import PusherPage, PusherSite, say

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()
MASTER = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    install()
    # Pages of one process may connect to the other.
    site = PusherSite(tmp_path_factory.mktemp("pusher"), 2)
    yield site
    site.stop()


@pytest.fixture
def backend(site):
    options = {"host": "127.0.0.1", "port": site.second.port, "ssl": False, "timeout": 60}
    return pusher.Pusher(
        "1", "app-key", "app-secret", encryption_master_key_base64=MASTER, **options
    )


async def test_all_kinds_of_channels(browser, site, backend):
    number = next(NAMES)
    async with (
        PusherPage(browser, site.first, "ann") as ann_s,
        PusherPage(browser, site.second, "bob") as bob_s,
    ):
        ann, bob = await ann_s.connect(), await bob_s.connect()
        kinds = ("", "private-", "presence-", "cache-", "private-encrypted-")
        channels = [f"{kind}{number}" for kind in kinds]
        for channel in channels:
            for one in (ann, bob):
                await one.subscribe(channel, "client-typed")
            async with limited():
                await asyncio.to_thread(backend.trigger, channel, "order", {"n": "grüße"})
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
        tab = await ann_s.connect(site.first)
        assert (await tab.subscribe(channels[2]))["data"]["count"] == 2
        await tab.do("disconnect")
        await ann.do("disconnect")
        removed = await bob.hears("pusher:member_removed", channel=channels[2])
        assert removed["data"]["id"] == ann_s.id

        assert (await bob.do("sign_in"))["id"] == bob_s.id
        await bob.do("hear_user", "message")
        await bob.hears("frame", of="pusher_internal:subscription_succeeded")
        say(site.first, f"user:{bob_s.id}", "you")
        assert (await bob.hears("message", of="user"))["data"] == {"said": "you"}
        refused = await bob.refused("private-closed-1")
        assert refused["type"] == "AuthError" and refused["status"] == 403


async def test_it_comes_back_after_a_kill(browser, site):
    room = f"private-{next(NAMES)}"
    # The page is the other process's, which signs all the while.
    async with PusherPage(browser, site.second, "ann") as ann_s:
        ann = await ann_s.connect(site.first)
        await ann.subscribe(room)
        for end in (site.kill, site.drain):
            end()
            if end == site.kill:
                site.revive()
            await ann.hears("connecting")
            await ann.hears("pusher:subscription_succeeded", channel=room)
            say(site.second, room, "again")
            assert (await ann.hears("message", channel=room))["data"] == {"said": "again"}


ECHO = """
async ([port, csrf, number]) => {
  window.seen = [];
  window.wake = () => {};
  const note = (...what) => { seen.push(what); wake(); };
  window.next = async (name) => {
    for (;;) {
      const at = seen.findIndex(([of]) => of === name);
      if (at >= 0) return seen.splice(at, 1)[0].slice(1);
      await new Promise((woken) => { wake = woken; });
    }
  };
  window.echo = new (Echo.default ?? Echo)({
    broadcaster: "reverb", key: "app-key", wsHost: "127.0.0.1", wsPort: port, wssPort: port,
    forceTLS: false, enabledTransports: ["ws"], csrfToken: csrf, disableStats: true,
  });
  echo.channel(`news-${number}`).listen(".order", (data) => note("public", data))
    .subscribed(() => note("subscribed"));
  window.room = echo.join(`room-${number}`)
    .here((users) => note("here", users)).joining((user) => note("joining", user))
    .leaving((user) => note("leaving", user))
    .listenForWhisper("typing", (data) => note("whisper", data));
  echo.private(`closed-${number}`).error((error) => note("error", error.status));
}
"""


async def heard(page, name):
    async with limited():
        return await page.page.evaluate("name => next(name)", name)


async def test_laravel_echo(browser, site, backend):
    number = next(NAMES)
    async with (
        PusherPage(browser, site.first, "ann") as ann,
        PusherPage(browser, site.second, "bob") as bob,
    ):
        await ann.page.evaluate(ECHO, [site.first.port, ann.csrf, number])
        assert await heard(ann, "here") == [[{"name": "ann"}]]
        await bob.page.evaluate(ECHO, [site.second.port, bob.csrf, number])
        [here] = await heard(bob, "here")
        assert sorted(user["name"] for user in here) == ["ann", "bob"]
        assert await heard(ann, "joining") == [{"name": "bob"}]
        assert await heard(ann, "error") == [403]
        for page in (ann, bob):
            await heard(page, "subscribed")
        async with limited():
            await asyncio.to_thread(backend.trigger, f"news-{number}", "order", {"n": 1})
        for page in (ann, bob):
            assert await heard(page, "public") == [{"n": 1}]
        await bob.page.evaluate("room.whisper('typing', {who: 'bob'})")
        assert await heard(ann, "whisper") == [{"who": "bob"}]
        own = await ann.page.evaluate("echo.socketId()")
        async with limited():
            await asyncio.to_thread(backend.trigger, f"news-{number}", "order", {"n": 2}, own)
        assert await heard(bob, "public") == [{"n": 2}]
        await bob.page.evaluate("echo.disconnect()")
        assert await heard(ann, "leaving") == [{"name": "bob"}]
        assert "public" not in await ann.page.evaluate("seen.map(([name]) => name)")
