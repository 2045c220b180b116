"""Webhooks of two processes on one Redis, read by the packages of Pusher for servers."""

import asyncio
import json
from collections import Counter

import pusher
import pytest
import pytest_asyncio

from ..javascript.clients import InNode, install
from ..pusher.receivers import Receiver
from ..waiting import limited
from .pusher_processes import PusherClient, PusherSite, User

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def site(tmp_path_factory, receiver):
    install()
    site = PusherSite(
        tmp_path_factory.mktemp("pusher"),
        2,
        TEST_SETTINGS=json.dumps({"PRESENCE_LEASE": 3.0}),
        PUSHER_APP=json.dumps({"WEBHOOKS": [{"URL": receiver.url}]}),
    )
    yield site
    site.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def js(site):
    async with InNode("", "pusher_in_node.mjs") as js:
        yield js


async def told(receiver, count):
    async with limited():
        return Counter(
            (one["name"], one["channel"], one.get("user_id"))
            for one in await asyncio.to_thread(receiver.told, count)
        )


async def test_of_all_processes_one_tells(js, site, receiver):
    ann, bob = User(site.first, "ann"), User(site.first, "bob")
    stays = await PusherClient.connect(js, site.second, ann)
    goes = [await PusherClient.connect(js, site.first, user) for user in (ann, bob)]
    for client in (stays, *goes):
        await client.subscribe("presence-a")
    expected = Counter(
        {
            ("channel_occupied", "presence-a", None): 1,
            ("member_added", "presence-a", ann.id): 1,
            ("member_added", "presence-a", bob.id): 1,
        }
    )
    assert await told(receiver, 3) == expected
    await goes[1].do("trigger", "presence-a", "client-typed", {"a": 1})
    expected[("client_event", "presence-a", bob.id)] += 1
    assert await told(receiver, 4) == expected
    # Those of a killed process are found by the other one.
    site.kill()
    for client in goes:
        await client.do("disconnect")
    expected[("member_removed", "presence-a", bob.id)] += 1
    assert await told(receiver, 5) == expected
    await stays.do("disconnect")
    expected[("member_removed", "presence-a", ann.id)] += 1
    expected[("channel_vacated", "presence-a", None)] += 1
    assert await told(receiver, 7) == expected
    site.revive()

    # Both packages take them for genuine.
    python = pusher.Pusher("1", "app-key", "app-secret")
    async with InNode(str(site.second.port), "pusher_server.mjs") as node:
        for headers, body in receiver.requests:
            key, signature = headers["X-Pusher-Key"], headers["X-Pusher-Signature"]
            assert python.validate_webhook(key, signature, body)["events"]
            assert python.validate_webhook(key, signature, body + " ") is None
            lowered = {name.lower(): text for name, text in headers.items()}
            async with limited():
                answer = await node.carry_out("check", lowered, body)
            assert answer["value"] == [True, json.loads(body)["events"]]
