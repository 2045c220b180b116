"""Clients of the Centrifuge protocol that say exactly what a test writes."""

import asyncio
import json

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group, personal
from filtered_websocket.testing import connect


def is_member(connection, name):
    return name in connection.groups


RULES = [
    group("news", publish=True, see=True),
    group("binary", publish=True, binary=True),
    group("board", join=False),
    group("room:<int:room>", publish=True, presence=True, join_leave=True),
    group("kept", publish=True, see=False, presence=True),
    personal(publish=True),
]


class LateRefusal:
    """``join=rule.ask`` of a group rule: it answers no, once it may."""

    def __init__(self):
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def ask(self, connection):
        self.asked.set()
        await self.may_answer.wait()
        return False


def app(filters=(), rules=RULES, **options):
    return FilteredWebSocketConsumer.as_asgi(
        filters=list(filters), group_rules=rules, protocol="centrifuge", **options
    )


class Speaker:
    """One client that speaks JSON; ``async with`` also sends the connect command."""

    def __init__(self, application, connects=True, **options):
        self._connecting = connect(application, **options)
        self._connects = connects
        self._number = 0
        self.connected = None

    async def __aenter__(self):
        self.client = await self._connecting
        if self._connects:
            self.connected = await self.ask(connect={})
            self.id = self.connected["connect"]["client"]
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def say(self, *messages):
        await self.client.send("\n".join(map(json.dumps, messages)))

    async def hear(self):
        return json.loads(await self.client.receive())

    async def push(self):
        return (await self.hear())["push"]

    async def ask(self, **request):
        """The reply to a request, which must be the next message."""
        self._number += 1
        await self.say({"id": self._number, **request})
        reply = await self.hear()
        assert reply.pop("id") == self._number, reply
        return reply

    async def error(self, **request):
        return (await self.ask(**request))["error"]["code"]

    async def closed(self):
        return await self.client.closed()


def speak(filters=(), rules=RULES, connects=True, application=None, **options):
    return Speaker(application or app(filters, rules), connects, **options)
