"""Clients of the Pusher protocol that say exactly what a test writes."""

import json

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group, personal
from filtered_websocket.pusher.apps import app_of_key
from filtered_websocket.testing import connect

APP = {"ID": "1", "KEY": "app-key", "SECRET": "app-secret", "CLIENT_EVENTS": True}
OTHER = {"ID": "2", "KEY": "other-key", "SECRET": "other-secret", "CLIENT_EVENTS": True}
RULES = [
    group("staff", join=False),
    group("private-silent", publish=False),
    group("kept", history=History(size=10, ttl=60), latest=True),
    personal(),
]


def with_app(*more, site=None, **options):
    """The setting, with other options of the first app."""
    return {"PUSHER_APPS": [APP | options, OTHER, *more], **(site or {})}


def app(filters=(), rules=RULES, **options):
    return FilteredWebSocketConsumer.as_asgi(
        filters=list(filters), group_rules=rules, protocol="pusher", **options
    )


def routed(application, key):
    """As behind the path /app/KEY."""

    async def serve(scope, receive, send):
        scope["url_route"] = {"args": (), "kwargs": {} if key is None else {"key": key}}
        await application(scope, receive, send)

    return serve


class Speaker:
    """One client; ``async with`` waits until it is connected, unless it is refused."""

    def __init__(self, application, key, query, connects, **options):
        self.key = key
        self._connects = connects
        self._connecting = connect(routed(application, key), f"/app?{query}", **options)

    async def __aenter__(self):
        self.client = await self._connecting
        if self._connects:
            said = await self.hear()
            assert said["event"] == "pusher:connection_established", said
            self.told = json.loads(said["data"])
            self.socket_id = self.told["socket_id"]
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def say(self, event, data=None, **fields):
        await self.client.send(json.dumps({"event": event, "data": data, **fields}))

    async def hear(self):
        return json.loads(await self.client.receive())

    async def hears(self, event, **fields):
        """The next event, which must be this one; its data, decoded."""
        said = await self.hear()
        data = said.pop("data", None)
        assert said == {"event": event, **fields}, said
        return json.loads(data) if isinstance(data, str) and event.startswith("pusher") else data

    def sign(self, text):
        return app_of_key(self.key).authorize(text)

    def signed(self, channel, user=None, info=None):
        """What a site answers whose user subscribes."""
        if user is None:
            return {"channel": channel, "auth": self.sign(f"{self.socket_id}:{channel}")}
        data = json.dumps({"user_id": user, "user_info": info})
        auth = self.sign(f"{self.socket_id}:{channel}:{data}")
        return {"channel": channel, "auth": auth, "channel_data": data}

    async def subscribe(self, channel, user=None, info=None):
        """What the client is told, who must be subscribed."""
        await self.say("pusher:subscribe", self.signed(channel, user, info))
        return await self.hears("pusher_internal:subscription_succeeded", channel=channel)

    async def refused(self, **fields):
        """Status and text of the error that a subscription is answered with."""
        await self.say("pusher:subscribe", fields)
        error = await self.hears("pusher:subscription_error", channel=fields["channel"])
        return error["status"], error["error"]

    async def sign_in(self, **user):
        data = json.dumps(user)
        auth = self.sign(f"{self.socket_id}::user::{data}")
        await self.say("pusher:signin", {"auth": auth, "user_data": data})

    async def error(self):
        said = await self.hear()
        assert said["event"] == "pusher:error", said
        return said["data"]["code"]

    async def quiet(self):
        return await self.client.received_nothing()

    async def closed(self):
        return await self.client.closed()


def speak(
    filters=(),
    rules=RULES,
    application=None,
    key="app-key",
    query="protocol=7",
    connects=True,
    **options,
):
    application = application or app(filters, rules)
    return Speaker(application, key, query, connects, **options)
