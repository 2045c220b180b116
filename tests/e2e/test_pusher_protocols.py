"""One group, and clients that speak differently: plain, Centrifuge, Pusher, and the site itself."""

import asyncio
import json

import pusher as package
import pytest
import websockets

from ..waiting import limited
from .processes import Daphne, Uvicorn
from .pusher_processes import PusherSite, User

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module", params=[Daphne, Uvicorn], ids=["daphne", "uvicorn"])
def site(request, tmp_path_factory):
    site = PusherSite(tmp_path_factory.mktemp("pusher"), 2, request.param)
    yield site
    site.stop()


async def hear(socket):
    async with limited():
        return await socket.recv()


async def hear_json(socket):
    while True:
        text = await hear(socket)
        if text != "{}":  # a ping of Centrifuge
            return json.loads(text)


async def test_all_hear_one_another(site):
    """Each on another process than who publishes."""
    first, second, group = site.first, site.second, "room-1"
    connect = lambda url: websockets.connect(url, open_timeout=60)  # noqa: E731
    async with (
        connect(first.ws(f"/plain/{group}")) as plain,
        connect(second.ws("/connection/websocket")) as centrifuge,
        connect(first.ws("/app/app-key?protocol=7")) as pusher,
        connect(second.ws(f"/plain/{group}")) as plain_too,
    ):
        await centrifuge.send(
            '{"id": 1, "connect": {}}\n{"id": 2, "subscribe": {"channel": "room-1"}}'
        )
        answers = "\n".join([await hear(centrifuge), await hear(centrifuge)])
        assert '"subscribe"' in answers
        await hear(pusher)
        await pusher.send(json.dumps({"event": "pusher:subscribe", "data": {"channel": group}}))
        assert (await hear_json(pusher))["event"] == "pusher_internal:subscription_succeeded"

        # A plain client.
        await plain_too.send('{"from": "plain"}')
        assert json.loads(await hear(plain)) == {"from": "plain"}
        heard = await hear_json(pusher)
        assert heard == {"event": "message", "channel": group, "data": '{"from": "plain"}'}
        push = (await hear_json(centrifuge))["push"]
        assert push["pub"]["data"] == '{"from": "plain"}'

        # One of Centrifuge.
        await centrifuge.send('{"id": 3, "publish": {"channel": "room-1", "data": {"from": "c"}}}')
        heard = await hear_json(pusher)
        assert (heard["event"], json.loads(heard["data"])) == ("message", {"from": "c"})
        assert json.loads(await hear(plain)) == json.loads(await hear(plain_too)) == {"from": "c"}


async def test_client_events_and_the_api_reach_the_others(site):
    group = "private-all"
    user = User(site.first, "ann")
    api = package.Pusher(
        "1", "app-key", "app-secret", host="127.0.0.1", port=site.second.port, ssl=False, timeout=60
    )
    headers = {"Cookie": user.cookie}
    async with (
        websockets.connect(
            site.second.ws("/connection/websocket"), open_timeout=60, additional_headers=headers
        ) as centrifuge,
        websockets.connect(site.first.ws("/app/app-key?protocol=7"), open_timeout=60) as pusher,
        websockets.connect(site.second.ws(f"/plain/{group}"), open_timeout=60) as plain,
    ):
        await centrifuge.send(
            '{"id": 1, "connect": {}}\n{"id": 2, "subscribe": {"channel": "private-all"}}'
        )
        answers = "\n".join([await hear(centrifuge), await hear(centrifuge)])
        assert '"subscribe"' in answers and "error" not in answers
        own = json.loads(json.loads(await hear(pusher))["data"])["socket_id"]
        signed = api.authenticate(group, own)
        await pusher.send(
            json.dumps({"event": "pusher:subscribe", "data": {"channel": group, **signed}})
        )
        assert (await hear_json(pusher))["event"] == "pusher_internal:subscription_succeeded"

        event = {"event": "client-typed", "channel": group, "data": {"from": "pusher"}}
        await pusher.send(json.dumps(event))
        assert json.loads(await hear(plain)) == {"from": "pusher"}
        assert (await hear_json(centrifuge))["push"]["pub"]["data"] == {"from": "pusher"}

        async with limited():
            await asyncio.to_thread(api.trigger, group, "order", {"from": "the API"})
        assert json.loads(await hear(plain)) == {"from": "the API"}
        assert (await hear_json(centrifuge))["push"]["pub"]["data"] == {"from": "the API"}
        heard = await hear_json(pusher)
        assert heard["event"] == "order" and json.loads(heard["data"]) == {"from": "the API"}
