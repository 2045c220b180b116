"""Group rules and users' own groups: a daphne and a uvicorn, a real Redis, SQLite."""

import asyncio
import contextlib
import json

import pytest
from channels.layers import channel_layers
from django.contrib.auth.models import User

from filtered_websocket.disconnect import subscribe, unsubscribe
from filtered_websocket.groups import group, personal
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import apublish_to_user
from filtered_websocket.testing import connect

from ..waiting import limited, until, within
from .processes import Daphne, Uvicorn, manage, resident, run_python
from .visitors import Case

pytestmark = pytest.mark.promise
SITE = {"DJANGO_SETTINGS_MODULE": "tests.e2e.groups_settings"}
APPLICATION = "tests.e2e.groups_site:application"
#: Until an order, or a right that has ended, takes effect, seconds; the second with RECHECK.
BOUND, RECHECK = 2.0, 1.0


def start(env):
    servers = Daphne(APPLICATION, env=env), Uvicorn(APPLICATION, env=env)
    for server in servers:
        server.env = env
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def site(database, valkey):
    """Two processes that ask rules again only once an hour."""
    yield from start({**database, **SITE, "REDIS_URL": valkey.url, "TEST_FWS": '{"RECHECK": 3600}'})


@pytest.fixture(scope="module")
def asking_site(database, valkey):
    """Two processes that ask rules again every second."""
    yield from start(
        {**database, **SITE, "REDIS_URL": valkey.url, "TEST_FWS": f'{{"RECHECK": {RECHECK}}}'}
    )


class Client:
    """One device: a socket that gives commands, and keeps what it is told meanwhile."""

    def __init__(self, socket):
        self._socket = socket
        self.told = []

    async def ask(self, verb, name=""):
        await self._socket.send(json.dumps([verb, name]))
        async with limited():
            while "answer" not in (message := json.loads(await self._socket.recv())):
                self.told.append(message)
        return message["answer"]

    async def hears(self):
        if not self.told:
            async with limited():
                self.told.append(json.loads(await self._socket.recv()))
        return self.told.pop(0)

    async def leaves(self, name):
        """Ask which groups it is in, until it is not in this one."""
        while name in await self.ask("groups"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def is_in(self, name):
        while name not in await self.ask("groups"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def devices(case, site):
    """A device of a user on each process, each with its own way to log in."""
    async with case.by_session(site[0]) as one, case.by_header(site[1]) as two:
        yield Client(one), Client(two)


async def with_room(site):
    case = await Case.make(site[0])
    case.room = (await case.visitor.do("make_room", name=case.name, user=case.user))["room"]
    await case.visitor.do("make_staff", user=case.user)
    return case


REFUSED = "may not join this group"


async def test_rules_decide_in_both_processes_and_a_refusal_ends_nothing(site):
    case, other = await with_room(site), await Case.make(site[0])
    allowed = [f"room:{case.room}", f"async:{case.room}", f"of:{case.name}", "staff"]
    async with devices(case, site) as mine, devices(other, site) as theirs:
        for device in mine:
            for name in ("news", *allowed):
                assert await device.ask("join", name) is True
            assert await device.ask("publish", f"room:{case.room}") is True
        for device in theirs:
            assert await device.ask("join", "news") is True
            for name in ("closed", *allowed):
                assert await device.ask("join", name) == REFUSED
            assert await device.ask("publish", f"room:{case.room}") is False
            assert await device.ask("join", "elsewhere") == "no group rule declares this name"
            assert await device.ask("join", "x" * 256) == "names have at most 255 characters"
            for reserved in (f"user:{case.user}", f"user:{other.user}", "token:1"):
                assert (await device.ask("join", reserved)).startswith("names that begin with")
        await case.visitor.do("say", group=f"room:{case.room}", text="hi")
        await case.visitor.do("say", group="news", text="all")
        for device in mine:
            assert [await device.hears(), await device.hears()] == [{"said": "hi"}, {"said": "all"}]
        for device in theirs:
            assert await device.hears() == {"said": "all"}


async def test_the_site_subscribes_and_unsubscribes_a_user_in_all_processes(site):
    case, other = await with_room(site), await Case.make(site[0])
    group = f"room:{case.room}"
    async with devices(case, site) as mine, devices(other, site) as theirs:
        for device in mine:
            assert await device.ask("join", group) is True
        async with within(BOUND):
            await case.visitor.do("order_unsubscribe", user=case.user, group=group)
            for device in mine:
                await device.leaves(group)
        async with within(BOUND):
            await case.visitor.do("order_subscribe", user=case.user, group="closed")
            for device in mine:
                await device.is_in("closed")
        own = sorted(["closed", f"user:{case.user}"])
        for device in mine:
            assert await device.ask("groups") == own
        for device in theirs:
            assert await device.ask("groups") == [f"user:{other.user}"]


async def test_a_right_that_ends_ends_the_subscription_in_all_processes(asking_site):
    case = await with_room(asking_site)
    names = [f"room:{case.room}", f"async:{case.room}", "staff"]
    async with devices(case, asking_site) as mine:
        for device in mine:
            for name in (*names, f"of:{case.name}"):
                assert await device.ask("join", name) is True
        async with within(RECHECK + BOUND):
            await case.visitor.do("throw_out", user=case.user)
            for device in mine:
                for name in names:
                    await device.leaves(name)
        for device in mine:
            assert await device.ask("groups") == sorted([f"of:{case.name}", f"user:{case.user}"])
            assert await device.ask("join", names[0]) == REFUSED


async def test_a_user_is_reached_on_every_device_from_a_view_a_signal_and_a_worker(site):
    script = (
        "import django; django.setup()\n"
        "from filtered_websocket.publish import publish_to_user\n"
        "publish_to_user(%d, {'told': 'from a worker'})\n"
    )

    async def work(case):
        await asyncio.to_thread(run_python, site[0].env, "-c", script % case.user)

    await reach(site, {"from a worker": work})


async def reach(site, others=()):
    """A view, a signal and ``others`` reach a user: text -> what has to be done."""
    case, other = await Case.make(site[0]), await Case.make(site[0])
    async with devices(case, site) as mine, devices(other, site) as theirs:
        await case.visitor.do("notify", user=case.user, text="from a view")
        await case.visitor.do("save", user=case.user, text="from a signal")
        for text in others:
            await others[text](case)
        for device in mine:
            for text in ("from a view", "from a signal", *others):
                assert await device.hears() == {"told": text}
        await case.visitor.do("notify", user=other.user, text="another")
        for device in theirs:
            assert await device.hears() == {"told": "another"}
        for device in mine:
            await device.ask("groups")
            assert device.told == []


@pytest.fixture
def redis_layer(valkey, settings):
    """This process's own channel layer is the real Redis."""
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [{"address": valkey.url, "socket_timeout": 2}]},
        }
    }
    channel_layers.backends.clear()
    yield
    channel_layers.backends.clear()


async def test_orders_cross_redis_and_are_carried_out_once(redis_layer):
    """In this process, whose orders come back to it by Redis."""
    ann = User(pk=7, username="ann")
    rules = [group("room", join=False), personal()]
    async with connect([], user=ann, group_rules=rules, personal=True) as client:
        [connection] = get_hub().connections.values()
        orders = get_hub().grants._orders
        subscribe(ann, "room")
        assert "room" in connection.groups and len(orders._done) == 1
        unsubscribe(ann, "room")
        await until(lambda: orders._done == {})
        assert "room" not in connection.groups
        await apublish_to_user(ann, "hi")
        assert await client.receive() == "hi"


@pytest.mark.parametrize("number", [0, 1])
async def test_10_000_commands_are_answered_and_leave_nothing_behind(site, number):
    case = await Case.make(site[0])
    server = site[number]
    async with case.by_header(server) as socket:

        async def flood():
            for count in range(10_000):
                await socket.send(json.dumps(["join", f"of:{count}"]))

        async def answers():
            for _ in range(10_000):
                async with limited():
                    assert json.loads(await socket.recv()) == {"answer": REFUSED}

        await asyncio.gather(flood(), answers())
        before = resident(server)
        await asyncio.gather(flood(), answers())
        assert resident(server) - before < 8 << 20
        assert await Client(socket).ask("groups") == [f"user:{case.user}"]


@pytest.mark.parametrize("number", [0, 1])
async def test_10_000_joins_of_declared_names_end_at_max_groups_and_leave_nothing(site, number):
    case = await Case.make(site[0])
    server = site[number]
    async with case.by_header(server) as socket:

        async def flood(verb, count):
            async def send():
                for n in range(count):
                    await socket.send(json.dumps([verb, f"open:{n}"]))

            sending = asyncio.create_task(send())
            async with limited():
                answers = [json.loads(await socket.recv())["answer"] for _ in range(count)]
            await sending
            return answers

        async def join_and_leave(count):
            # The group of the route and that of the user are two of them.
            answers = await flood("join", count)
            assert answers[:126] == [True] * 126
            assert set(answers[126:]) == {"at most 128 groups (MAX_GROUPS)"}
            await flood("leave", count)
            assert await Client(socket).ask("groups") == [f"user:{case.user}"]

        await join_and_leave(1_000)
        before = resident(server)
        await join_and_leave(10_000)
        assert resident(server) - before < 8 << 20


def test_the_rules_are_printed_and_have_no_mistakes(site):
    printed = run_python(site[0].env, "manage.py", "groups")
    assert "group('room:<int:room>', join=is_member, publish=is_member, recheck=True)" in printed
    heads = [line for line in printed.splitlines() if not line.startswith(" ")]
    # The demo site's route, which these settings import and do not serve, has no path.
    # Nor has that of its rooms, which has rules of its own, nor that of its tee.
    site_rules = "GROUPS 'tests.e2e.groups_rules'"
    expected = ["/", site_rules, "GROUPS 'fws_project.groups'", site_rules]
    assert heads == expected
    assert printed.count("  personal()") == 3
    manage(site[0].env, "check", "--fail-level", "ERROR")
