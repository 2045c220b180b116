"""Calls, joins, leaves and messages for each recipient, on real servers."""

import asyncio
import contextlib
import itertools
import json
import signal

import pytest

from .sockets import connect
from .test_lanes import SERVERS, SITE, running


class Client:
    def __init__(self, socket):
        self.socket = socket
        self._numbers = itertools.count(1)
        self._messages = []

    async def ask(self, method, data=None):
        """Send a call; its id."""
        number = next(self._numbers)
        await self.socket.send(json.dumps({"id": number, "call": method, "data": data}))
        return number

    async def answer(self):
        """The next answer; messages before it are kept."""
        while True:
            event = json.loads(await self.socket.recv())
            if "id" in event:
                return event
            self._messages.append(event)

    async def call(self, method, data=None):
        number = await self.ask(method, data)
        answer = await self.answer()
        assert answer.pop("id") == number
        return answer

    async def message(self):
        return self._messages.pop(0) if self._messages else json.loads(await self.socket.recv())


@pytest.fixture(params=["memory", "redis"])
async def layer(request):
    """What the processes have in their environment, and how many there are."""
    if request.param == "memory":
        return {}, 1
    return {"REDIS_URL": request.getfixturevalue("valkey").url}, 2


@pytest.fixture(params=["daphne", "uvicorn"])
async def sites(request, database, layer, monkeypatch):
    """The first and the last process: with Redis two, else the same one."""
    start, options = SERVERS[request.param]
    monkeypatch.setitem(SITE, "DJANGO_SETTINGS_MODULE", "tests.e2e.chains_settings")
    env, count = layer
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(running(start, database | env, *options))
            for _ in range(count)
        ]
        yield servers[0], servers[-1]


@contextlib.asynccontextmanager
async def client(site, name):
    async with connect(site.ws(f"/?{name}")) as socket:
        yield Client(socket)


async def test_each_recipient_gets_what_is_for_it_and_each_call_its_answer(sites):
    first, last = sites
    async with client(first, "ann") as ann, client(last, "boss") as boss:
        assert await ann.call("join", "room") == {"answer": "welcome, ann"}
        assert await boss.call("join", "room") == {"answer": "welcome, boss"}
        came = await ann.message()
        assert came.pop("from") and came == {"came": "boss", "to": "ann"}
        said = await ann.call("say", "hello")
        assert await boss.message() == {
            "said": "hello",
            "secret": 7,
            "to": "boss",
            "from": said["answer"],
        }
        # One that waits delays no other of the same connection.
        waits = await ann.ask("wait")
        assert await ann.call("add", [1, 2]) == {"answer": 3}
        assert await ann.call("join", "full") == {"error": "not allowed"}
        assert await ann.call("add", "x") == {"error": "it failed"}
        assert await ann.call("unknown") == {"error": "no method unknown"}
        goes_on = await ann.ask("go on")
        answers = [await ann.answer(), await ann.answer()]
        assert sorted(answer["id"] for answer in answers) == [waits, goes_on]
        assert {"id": waits, "answer": "waited"} in answers
        # Leaving, and coming again.
        assert await boss.call("leave", "room") == {"answer": True}
        left = await ann.message()
        assert left.pop("from") and left == {"left": "boss", "in it": False, "to": "ann"}
        assert await boss.call("join", "room") == {"answer": "welcome, boss"}
        assert (await ann.message())["came"] == "boss"
    await asyncio.to_thread(first.said, "tests.e2e.chains_filters.Blocking raised TypeError")


async def test_the_leave_chain_runs_on_every_way_out(sites):
    first, last = sites
    async with client(first, "ann") as ann:
        await ann.call("join", "room")

        async def leaves(end):
            async with client(last, "bob") as bob:
                await bob.call("join", "room")
                assert (await ann.message())["came"] == "bob"
                await end(bob)
                left = await ann.message()
                assert left.pop("from") and left == {"left": "bob", "in it": True, "to": "ann"}

        async def close(bob):
            await bob.socket.close()

        async def vanish(bob):
            bob.socket.transport.abort()

        await leaves(close)
        await leaves(vanish)
        if first is not last:

            async def drain(bob):
                last.signal(signal.SIGTERM)

            await leaves(drain)
