"""The package ``centrifuge`` of npm, unmodified, in Node and in Chromium, in both formats."""

import contextlib
import itertools
import time

import jwt
import pytest
import pytest_asyncio

from ..javascript.clients import Client, JsError, install, running
from ..waiting import limited
from .protocol_processes import ProtocolSite, SharedPort

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()
KEY = "a secret of 32 characters or more"


@pytest.fixture(scope="module")
def site(database):
    install()
    site = ProtocolSite(database, 2)
    yield site
    site.stop()


@pytest.fixture(scope="module")
def shared_port(database):
    site = SharedPort(database, 2)
    yield site
    site.stop()


@pytest.fixture(params=["daphne", "uvicorn"])
def recovering(request, site):
    """Two processes, each with a port of its own, or behind one port."""
    return site if request.param == "daphne" else request.getfixturevalue("shared_port")


@pytest.fixture(scope="module", params=["node", "chromium"])
def browser_of(request):
    """The browser, where the package runs in one. It is started for nobody else."""
    return request.getfixturevalue("browser") if request.param == "chromium" else None


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["json", "protobuf"])
async def runtime(request, browser_of, site):
    """One process of Node, or one page, for all tests; of a site's process that no test kills."""
    async with running(request.param, browser_of, site.second.http()) as js:
        yield js


@pytest_asyncio.fixture(loop_scope="session")
async def js(runtime):
    yield runtime
    async with limited():
        await runtime.carry_out("end")


def token(**claims):
    return jwt.encode(claims, KEY, "HS256")


async def test_they_hear_one_another_and_see_who_is_there(js, site):
    room = f"room:{next(NAMES)}"
    ann = await Client.connect(js, site.first, tokens=[token(sub="ann", info={"is": "tall"})])
    told = await ann.subscribe(room, joinLeave=True, data={"hi": 1})
    assert told["data"] == {"you said": {"hi": 1}} and not told["recoverable"]
    assert (await ann.hears("join"))["info"]["user"] == "ann"
    bob = await Client.connect(js, site.second)
    await bob.subscribe(room)
    assert (await ann.hears("join"))["info"]["client"] == bob.id

    here = (await bob.ask("presence", room))["clients"]
    assert {key: one.get("user", "") for key, one in here.items()} == {ann.id: "ann", bob.id: ""}
    stats = await bob.ask("presenceStats", room)
    assert stats == {"numClients": 2, "numUsers": 2}

    await ann.do("publish", room, {"shout": "grüße, 世界"})
    for client in (ann, bob):
        heard = await client.hears("publication")
        assert heard["data"] == {"shout": "GRÜSSE, 世界"} and heard["channel"] == room
        assert heard["info"]["user"] == "ann" and heard["info"]["connInfo"] == {"is": "tall"}
    await bob.do("unsubscribe", room)
    assert (await ann.hears("leave"))["info"]["client"] == bob.id
    with pytest.raises(JsError) as refused:
        await bob.do("publish", "nowhere", 1)
    assert refused.value.code == 102


async def test_they_read_a_history_page_by_page(js, site):
    group = f"kept:{next(NAMES)}"
    ann = await Client.connect(js, site.first)
    for number in range(1, 8):
        await ann.do("publish", group, {"n": number})
    top = await ann.ask("history", group, {"limit": 0})
    assert top["offset"] == 7 and top["publications"] == []
    seen, since = [], {"epoch": top["epoch"], "offset": 0}
    while True:
        page = await ann.ask("history", group, {"limit": 3, "since": since})
        if not page["publications"]:
            break
        seen.append([one["data"]["n"] for one in page["publications"]])
        since = {"epoch": page["epoch"], "offset": page["publications"][-1]["offset"]}
    assert seen == [[1, 2, 3], [4, 5, 6], [7]]
    page = await ann.ask("history", group, {"limit": 2, "reverse": True})
    assert [one["data"]["n"] for one in page["publications"]] == [7, 6]
    with pytest.raises(JsError) as refused:
        await ann.ask("history", group, {"limit": 3, "since": {"epoch": "other", "offset": 1}})
    assert refused.value.code == 112


async def test_they_call_and_are_answered(js, site):
    ann = await Client.connect(js, site.first)
    assert await ann.do("rpc", "add", [1, 2, 3]) == 6
    with pytest.raises(JsError) as refused:
        await ann.do("rpc", "nothing", None)
    assert refused.value.code == 104
    await ann.do("rpc", "push", {"for": "you"})
    assert (await ann.hears("message"))["data"] == {"for": "you"}


async def test_after_a_killed_process_all_that_was_missed_is_there(js, recovering):
    site, group = recovering, f"kept:{next(NAMES)}"
    with site.reached(site.first) as server:
        ann = await Client.connect(js, server)
    with site.reached(site.second) as server:
        bob = await Client.connect(js, server)
    first = await ann.subscribe(group)
    assert first["recoverable"] and first["positioned"] and not first["wasRecovering"]
    await bob.do("publish", group, {"n": 1})
    assert (await ann.hears("publication"))["data"] == {"n": 1}
    site.kill()
    try:
        await ann.hears("subscribing", of="subscription")
        for number in range(2, 30):
            await bob.do("publish", group, {"n": number})
    finally:
        site.revive()
    again = await ann.hears("subscribed", of="subscription")
    assert again["wasRecovering"] and again["recovered"]
    await bob.do("publish", group, {"n": 30})
    await ann.hears("publication", offset=30)
    heard = [one for one in ann.heard if one["event"] == "publication"]
    assert [one["data"]["n"] for one in heard] == list(range(1, 31))
    assert [one["offset"] for one in heard] == list(range(1, 31))


async def test_after_a_redis_that_restarted_empty_they_are_told_and_go_on(js, recovering):
    site, group = recovering, f"kept:{next(NAMES)}"
    ann = await Client.connect(js, site.first)
    bob = await Client.connect(js, site.second)
    before = await ann.subscribe(group)
    await bob.do("publish", group, {"n": 1})
    await ann.hears("publication")
    site.empty_redis()
    again = await ann.hears("subscribed", of="subscription", wasRecovering=True)
    assert not again["recovered"]
    assert again["streamPosition"]["epoch"] != before["streamPosition"]["epoch"]

    async def says(number):
        """Once Redis is reached again."""
        try:
            await bob.do("publish", group, {"n": number})
        except JsError:
            return False
        return True

    number = 1
    while not await says(number := number + 1):
        pass
    assert (await ann.hears("publication"))["data"] == {"n": number}


async def test_the_server_subscribes_them(js, site):
    channel = f"kept:{next(NAMES)}"
    ann = await Client.connect(js, site.first, tokens=[token(sub="ann", channels=[channel])])
    names = {(await ann.hears("subscribed", of="client"))["channel"] for _ in range(2)}
    assert names == {channel, "#ann"}
    bob = await Client.connect(js, site.second)
    await bob.do("publish", channel, {"n": 1})
    assert (await ann.hears("publication", of="client"))["data"] == {"n": 1}

    await ann.do("rpc", "join", "news")
    await ann.hears("subscribed", of="client", channel="news")
    await bob.do("rpc", "tell", {"group": "news", "data": {"is": "new"}})
    heard = await ann.hears("publication", of="client", channel="news")
    assert heard["data"] == {"is": "new"}
    await ann.do("rpc", "leave", "news")
    await ann.hears("unsubscribed", of="client", channel="news")

    site.kill()
    try:
        await ann.hears("connecting", code=1)
        await bob.do("publish", channel, {"n": 2})
    finally:
        site.revive()
    again = await ann.hears("subscribed", of="client", channel=channel)
    assert again["wasRecovering"] and again["recovered"]
    assert (await ann.hears("publication", channel=channel))["data"] == {"n": 2}


async def test_tokens_are_refreshed(js, site):
    for seconds in (2, 10, 50):
        names = await events_of_tokens_that_end(js, site, seconds)
        # A busy machine may need longer until the server has read them.
        if "error" not in names:
            break
    assert names.count("connected") == 1 and "unsubscribed" not in names and "error" not in names


async def events_of_tokens_that_end(js, site, seconds):
    """What a client is told while its tokens end after so many seconds."""

    def expiring(**claims):
        # A second is what the client waits for at least.
        return token(sub="ann", exp=time.time() + seconds, **claims)

    closed = f"closed:{next(NAMES)}"
    lasting = token(sub="ann")
    ann = await Client.connect(js, site.first, tokens=[expiring(), lasting])
    tokens = [expiring(channel=closed), token(sub="ann", channel=closed)]
    await ann.subscribe(closed, tokens=tokens)
    # Each token, and what comes instead of it.
    for _ in range(4):
        await ann.hears("token")
    await ann.do("publish", closed, {"n": 1})
    await ann.hears("publication")
    return [one["event"] for one in ann.heard]


async def test_the_server_ends_subscriptions_and_connections(js, site):
    room = f"room:{next(NAMES)}"
    ann = await Client.connect(js, site.first)
    await ann.subscribe(room)
    await ann.do("rpc", "leave", room)
    ended = await ann.hears("unsubscribed", of="subscription")
    assert ended["code"] == 2000
    # The answer may come before the end.
    with contextlib.suppress(JsError):
        await ann.do("rpc", "close", 4501)
    assert (await ann.hears("disconnected"))["code"] == 4501


async def test_commands_of_a_batch_share_a_frame(js, site):
    group = f"kept:{next(NAMES)}"
    ann = await Client.connect(js, site.first)
    await ann.subscribe(group)
    before = await ann.do("frames")
    await ann.do("batch", group, [{"n": number} for number in range(20)])
    await ann.hears("publication", offset=20)
    heard = [one["data"]["n"] for one in ann.heard if one["event"] == "publication"]
    assert heard == list(range(20))
    # A ping may be answered meanwhile.
    assert await ann.do("frames") - before <= 2
