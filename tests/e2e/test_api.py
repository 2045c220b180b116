"""The unmodified package cent, and curl, call the API of a server."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess

import pytest
from cent import (
    AsyncClient,
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)
from websockets.exceptions import ConnectionClosed

from ..snippets import named
from ..waiting import limited
from .processes import Daphne, Valkey
from .sockets import connect

KEY = "the-key-of-the-api"


@pytest.fixture(scope="module")
def site(database):
    valkey = Valkey()
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.api_settings",
        "REDIS_URL": valkey.url,
    }
    servers = []
    try:
        for _ in range(2):
            servers.append(Daphne("fws_project.asgi:application", env=env))
        yield servers
    finally:
        for server in servers:
            server.stop()
        valkey.stop()


class Calls:
    """Both clients of cent: a method of theirs for each type of request."""

    def __init__(self, server, kind, key=KEY):
        self._url, self._key, self.kind = server.http("/api"), key, kind

    async def __call__(self, request):
        if self.kind == "sync":
            return await asyncio.to_thread(self._call, request)
        async with AsyncClient(self._url, self._key, timeout=60) as client:
            return await getattr(client, request.api_method)(request)

    def _call(self, request):
        with Client(self._url, self._key, timeout=60) as client:
            return getattr(client, request.api_method)(request)


@pytest.fixture(params=["sync", "async"])
def call(site, request):
    return Calls(site[0], request.param)


@contextlib.asynccontextmanager
async def joined(server, *groups):
    """A socket, and the id of its connection."""
    socket = await connect(server.ws("/?" + "&".join(groups)))
    try:
        yield socket, json.loads(await heard(socket))["id"]
    finally:
        await socket.close()


async def heard(socket):
    async with limited():
        return await socket.recv()


async def test_what_is_published_reaches_sockets_of_every_process(site, call):
    async with joined(site[0], "news") as (one, _), joined(site[1], "news") as (two, _):
        data = {"text": "h\u00e9llo", "n": [1, None]}
        published = await call(PublishRequest(channel="news", data=data))
        assert (published.offset, published.epoch) == (0, "")
        assert json.loads(await heard(one)) == json.loads(await heard(two)) == data
        channels = ["news", "kept:broadcast", "unknown"]
        answer = await call(BroadcastRequest(channels=channels, data={"n": 2}))
        plain, kept, unknown = answer.responses
        assert plain.error is None and kept.result.offset >= 1 and unknown.error.code == 102
        assert json.loads(await heard(one)) == json.loads(await heard(two)) == {"n": 2}


async def test_a_history_is_read_and_removed(call):
    group = f"kept:{call.kind}"
    for number in range(3):
        key = f"key-{number}"
        request = PublishRequest(
            channel=group, data={"n": number}, tags={"n": str(number)}, idempotency_key=key
        )
        published = await call(request)
        assert await call(request) == published
    page = await call(HistoryRequest(channel=group, limit=2, reverse=True))
    assert [one.data for one in page.publications] == [{"n": 2}, {"n": 1}]
    assert [one.tags for one in page.publications] == [{"n": "2"}, {"n": "1"}]
    assert (page.offset, page.epoch) == (published.offset, published.epoch) == (3, page.epoch)
    since = StreamPosition(offset=2, epoch=page.epoch)
    rest = await call(HistoryRequest(channel=group, limit=-1, since=since))
    assert [one.offset for one in rest.publications] == [3]
    await call(HistoryRemoveRequest(channel=group))
    assert (await call(HistoryRequest(channel=group, limit=-1))).publications == []
    with pytest.raises(CentApiResponseError) as raised:
        await call(HistoryRequest(channel=group, limit=-1, since=since))
    assert raised.value.code == 112


async def asked(call, request):
    """What processes answer in time; on a busy machine none may."""
    while True:
        try:
            return await call(request)
        except CentApiResponseError as error:
            assert error.code == 100


async def test_who_is_there_is_told_of_every_process(site, call):
    group = f"room:{call.kind}"
    async with joined(site[0], group) as (_, one), joined(site[1], group) as (_, two):
        presence = (await call(PresenceRequest(channel=group))).presence
        assert {key: client.client for key, client in presence.items()} == {one: one, two: two}
        stats = await call(PresenceStatsRequest(channel=group))
        assert (stats.num_clients, stats.num_users) == (2, 1)
        channels = nodes = ()
        while channels != {group: 2}:
            found = await asked(call, ChannelsRequest(pattern=f"{group}*"))
            channels = {name: one.num_clients for name, one in found.channels.items()}
        while len(nodes) < 2:
            nodes = (await asked(call, InfoRequest())).nodes
        assert sum(node.num_clients for node in nodes) >= 2 and nodes[0].version


async def test_connections_are_ordered_about_in_every_process(site, call):
    group = f"kept:orders-{call.kind}"
    async with joined(site[1], "news") as (socket, client):
        who = {"user": "", "client": client, "channel": group}
        await call(SubscribeRequest(**who))
        # The order and what is published go different ways.
        async with limited():
            got = asyncio.create_task(socket.recv())
            while not got.done():
                await call(PublishRequest(channel=group, data="subscribed"))
        assert got.result() == "subscribed"
        await call(UnsubscribeRequest(**who))
        how = Disconnect(code=4001, reason="go away")
        await call(DisconnectRequest(user="", client=client, disconnect=how))
        await closed(socket, 4001, "go away")
    async with joined(site[1], "news") as (socket, client):
        await call(RefreshRequest(user="", client=client, expired=True))
        await closed(socket, 3005, "expired")


async def closed(socket, code, reason):
    with pytest.raises(ConnectionClosed) as raised:
        while True:
            await heard(socket)
    assert (raised.value.rcvd.code, raised.value.rcvd.reason) == (code, reason)


async def test_a_batch_has_an_answer_to_each_command(call):
    group = f"kept:batch-{call.kind}"
    for parallel in (False, True):
        requests = [PublishRequest(channel=group, data=n) for n in range(3)]
        requests.append(HistoryRequest(channel=group))
        answer = await call(BatchRequest(requests=requests, parallel=parallel))
        first = answer.replies[0].offset
        assert [one.offset for one in answer.replies[:3]] == [first, first + 1, first + 2]
        assert answer.replies[3].epoch == answer.replies[0].epoch


async def test_errors_are_those_of_the_package(site, call):
    with pytest.raises(CentApiResponseError) as raised:
        await call(PublishRequest(channel="unknown", data=1))
    assert raised.value.code == 102 and "unknown channel" in str(raised.value)
    with pytest.raises(CentUnauthorizedError):
        await Calls(site[0], call.kind, "another key")(InfoRequest())


def test_the_page_shows_how_cent_publishes(site, monkeypatch):
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setattr("cent.Client.publish", (seen := []).append)
    code = named("docs/http-api.md")["cent"]
    exec(code.replace("https://example.com/api", site[0].http("/api")), {"os": os})
    [request] = seen
    monkeypatch.undo()
    assert Calls(site[0], "sync")._call(request)


def test_the_page_shows_what_curl_prints(site):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    shown = named("docs/http-api.md")["calls with curl"].splitlines()
    calls = list(zip(shown[::2], shown[1::2], strict=True))
    assert len(calls) == 3
    for command, printed in calls:
        assert command.startswith("$ curl https://example.com/api/")
        done = subprocess.run(
            [
                *("sh", "-c"),
                command[2:].replace("https://example.com/api", site[0].http("/api"))
                + " --silent --show-error",
            ],
            env={**os.environ, "API_KEY": KEY},
            capture_output=True,
            text=True,
            check=False,
        )
        answer = done.stdout.replace("tests.e2e.api_filters", "mysite.groups")
        assert (done.stderr, answer) == ("", printed)
