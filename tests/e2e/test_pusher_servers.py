"""The packages ``pusher`` for servers, of PyPI and of npm, unmodified, against a site."""

import asyncio
import contextlib
import itertools
import json
import urllib.request

import pusher
import pytest
import pytest_asyncio
import websockets
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherForbidden

from ..javascript.clients import InNode, install
from ..waiting import limited
from .pusher_processes import PusherClient, PusherSite, User

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAMES = itertools.count()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    install()
    settings = json.dumps({"PUSHER_APPS_IN_ADMIN": True})
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


@pytest.fixture
def python(site):
    """It talks to the second process; clients are at the first one."""
    options = {"host": "127.0.0.1", "port": site.second.port, "ssl": False, "timeout": 60}
    return pusher.Pusher("1", "app-key", "app-secret", **options)


async def ask(method, *arguments, **options):
    """What a method of the package for Python answers, in a thread."""
    async with limited():
        return await asyncio.to_thread(method, *arguments, **options)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(site):
    """The same of that for Node: ``await node(method, ...)``."""
    async with InNode(str(site.second.port), "pusher_server.mjs") as server:

        async def carry_out(*command):
            async with limited():
                answer = await server.carry_out(*command)
            assert "error" not in answer, answer
            return answer["value"]

        yield carry_out


async def test_python_publishes(js, site, python):
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    public, private = f"news-{next(NAMES)}", f"private-{next(NAMES)}"
    for channel in (public, private):
        await ann.subscribe(channel)
    assert await ask(python.trigger, [public, private], "order", {"n": 1, "text": "grüße"}) == {}
    for channel in (public, private):
        heard = await ann.hears("order", channel=channel)
        assert heard["data"] == {"n": 1, "text": "grüße"}
    await ask(python.trigger, public, "order", "a text")
    assert (await ann.hears("order", channel=public))["data"] == "a text"
    own = await ann.do("socket_id")
    await ask(python.trigger, public, "order", "not for ann", own)
    batch = [{"channel": public, "name": f"n{n}", "data": {"n": n}} for n in range(3)]
    await ask(python.trigger_batch, batch)
    for n in range(3):
        assert (await ann.hears(f"n{n}", channel=public))["data"] == {"n": n}
    assert "not for ann" not in [one.get("data") for one in ann.heard]
    with pytest.raises(PusherBadRequest):
        await ask(python.trigger, public, "pusher:error", "x")


async def test_python_asks_who_is_there_and_sends_them_away(js, site, python):
    room, user = f"presence-{next(NAMES)}", User(site.first, "bob")
    ann = await PusherClient.connect(js, site.first, user)
    tab = await PusherClient.connect(js, site.second, user)
    for client in (ann, tab):
        await client.subscribe(room)
    listed = await ask(python.channels_info, "presence-", ["user_count"])
    assert listed["channels"][room] == {"user_count": 1}
    found = await ask(python.channel_info, room, ["user_count", "subscription_count"])
    assert found == {"occupied": True, "user_count": 1, "subscription_count": 2}
    assert await ask(python.users_info, room) == {"users": [{"id": user.id}]}

    assert (await ann.do("sign_in"))["id"] == user.id
    await ann.do("hear_user", "told")
    await ann.hears(
        "frame", of="pusher_internal:subscription_succeeded", channel=f"#server-to-user-{user.id}"
    )
    await ask(python.send_to_user, user.id, "told", {"for": "you"})
    assert (await ann.hears("told", of="user"))["data"] == {"for": "you"}
    await ask(python.terminate_user_connections, user.id)
    await ann.hears("disconnected")
    assert await tab.do("state") == "connected"


async def test_they_sign_as_the_site_does(site, python, node):
    """A client subscribes with what either has signed."""
    channel, data = f"presence-{next(NAMES)}", {"user_id": "1", "user_info": {"name": "Ann"}}
    for sign in (
        lambda own: ask(python.authenticate, channel, own, data),
        lambda own: node("authorizeChannel", own, channel, data),
    ):
        async with open_socket(site.first.ws("/app/app-key?protocol=7")) as ann:
            own = json.loads((await ann.hear())["data"])["socket_id"]
            await ann.say("pusher:subscribe", {"channel": channel, **await sign(own)})
            told = await ann.hear()
            assert told["event"] == "pusher_internal:subscription_succeeded", told
            assert json.loads(told["data"])["presence"]["hash"] == {"1": {"name": "Ann"}}
    for sign in (
        lambda own: ask(python.authenticate_user, own, {"id": "7"}),
        lambda own: node("authenticateUser", own, {"id": "7"}),
    ):
        async with open_socket(site.first.ws("/app/app-key?protocol=7")) as ann:
            own = json.loads((await ann.hear())["data"])["socket_id"]
            await ann.say("pusher:signin", await sign(own))
            assert (await ann.hear())["event"] == "pusher:signin_success"


class Socket:
    """A client that says what a test writes."""

    def __init__(self, socket):
        self._socket = socket

    async def say(self, event, data):
        await self._socket.send(json.dumps({"event": event, "data": data}))

    async def hear(self):
        async with limited():
            return json.loads(await self._socket.recv())


@contextlib.asynccontextmanager
async def open_socket(url):
    async with websockets.connect(url, open_timeout=60) as socket:
        yield Socket(socket)


async def test_node_publishes_and_asks(js, site, node):
    user, room, news = User(site.first, "cy"), f"presence-{next(NAMES)}", f"news-{next(NAMES)}"
    ann = await PusherClient.connect(js, site.first, user)
    for channel in (room, news):
        await ann.subscribe(channel)
    assert await node("trigger", [room, news], "order", {"n": 1}) == {}
    for channel in (room, news):
        assert (await ann.hears("order", channel=channel))["data"] == {"n": 1}
    told = await node("trigger", room, "order", {"n": 2}, {"info": "user_count,subscription_count"})
    assert told == {"channels": {room: {"user_count": 1, "subscription_count": 1}}}
    events = [{"channel": news, "name": f"n{n}", "data": {"n": n}} for n in range(3)]
    assert await node("triggerBatch", events) == {}
    for n in range(3):
        assert (await ann.hears(f"n{n}", channel=news))["data"] == {"n": n}
    query = {"path": "/channels", "params": {"filter_by_prefix": "presence-", "info": "user_count"}}
    assert (await node("get", query))["channels"][room] == {"user_count": 1}
    found = await node(
        "get", {"path": f"/channels/{news}", "params": {"info": "subscription_count"}}
    )
    assert found == {"occupied": True, "subscription_count": 1}
    assert await node("get", {"path": f"/channels/{room}/users"}) == {"users": [{"id": user.id}]}
    await ann.do("sign_in")
    await node("sendToUser", user.id, "told", {})
    assert await node("terminateUserConnections", user.id) == {}
    await ann.hears("disconnected")


MASTER = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


async def test_only_subscribers_can_read_an_encrypted_channel(js, site, python):
    """The backend encrypts, the page that signs gives out the key, and the server sees neither."""
    options = {"host": "127.0.0.1", "port": site.second.port, "ssl": False, "timeout": 60}
    secret = pusher.Pusher(
        "1", "app-key", "app-secret", encryption_master_key_base64=MASTER, **options
    )
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    for kind in ("private-encrypted-", "private-encrypted-cache-"):
        channel = f"{kind}{next(NAMES)}"
        await ann.subscribe(channel)
        await ask(secret.trigger, channel, "order", {"n": "grüße"})
        assert (await ann.hears("order", channel=channel))["data"] == {"n": "grüße"}
    cached = await ask(python.channel_info, channel, ["cache"])
    assert json.loads(cached["cache"]["data"]).keys() == {"ciphertext", "nonce"}
    bob = await PusherClient.connect(js, site.second, User(site.first, "bob"))
    await bob.subscribe(channel)
    assert (await bob.hears("order", channel=channel))["data"] == {"n": "grüße"}


@pytest.mark.parametrize("kind", ["cache-", "private-cache-", "presence-cache-"])
async def test_a_cache_gives_the_last_event(js, site, python, kind):
    channel = f"{kind}{next(NAMES)}"
    ann = await PusherClient.connect(js, site.first, User(site.first, "ann"))
    await ann.subscribe(channel)
    await ann.hears("pusher:cache_miss", channel=channel)
    for n in range(2):
        await ask(python.trigger, channel, "order", {"n": n})
        assert (await ann.hears("order", channel=channel))["data"] == {"n": n}
    bob = await PusherClient.connect(js, site.second, User(site.first, "bob"))
    await bob.subscribe(channel)
    assert (await bob.hears("order", channel=channel))["data"] == {"n": 1}
    assert "pusher:cache_miss" not in [one["event"] for one in bob.heard]


def change(server, step):
    """An app of the admin, changed by a view of one process; its id, key and secret."""
    with urllib.request.urlopen(server.http(f"/admin-app/{step}")) as answer:
        return json.load(answer)


def backend_of(server, app):
    where = {"host": "127.0.0.1", "port": server.port, "ssl": False, "timeout": 60}
    return pusher.Pusher(app["id"], app["key"], app["secret"], **where)


async def test_an_app_of_the_admin_changes_in_all_processes_at_once(js, site):
    made = await ask(change, site.first, "make")
    ann = await PusherClient.connect(js, site.second, key=made["key"])
    await ann.subscribe("sales", "order")
    old = backend_of(site.second, made)
    await ask(old.trigger, "sales", "order", {"n": 1})
    assert (await ann.hears("order", channel="sales"))["data"] == {"n": 1}

    new = backend_of(site.second, await ask(change, site.first, "secret"))
    await ann.hears("error", code=4200)
    for event in ("connecting", "connected", "pusher:subscription_succeeded"):
        await ann.hears(event)
    with pytest.raises(PusherBadAuth):
        await ask(old.trigger, "sales", "order", {"n": 2})
    await ask(new.trigger, "sales", "order", {"n": 3})
    assert (await ann.hears("order", channel="sales"))["data"] == {"n": 3}

    await ask(change, site.first, "disable")
    await ann.hears("error", code=4003)
    await ann.hears("disconnected")
    with pytest.raises(PusherForbidden):
        await ask(new.trigger, "sales", "order", {"n": 4})
