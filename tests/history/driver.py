"""A small protocol for tests: what a client says is JSON, and so is every answer."""

import asyncio
import json

from filtered_websocket import WebSocketGroupFilter, WebSocketMessageFilter, current
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group


async def later(connection, name):
    """Lets everyone in, a little later."""
    await asyncio.sleep(0)
    return True


RULES = [
    group("room:<name>", publish=True, history=History(size=5, ttl=60)),
    group("big:<name>", publish=True, history=History(size=1000, ttl=60)),
    group("last:<name>", publish=True, history=History(size=5, ttl=60), latest=True),
    group("plain:<name>", publish=True),
    group("later:<name>", join=later, publish=True, history=History(size=5, ttl=60)),
]


class Commands(WebSocketMessageFilter):
    _registers = False

    @classmethod
    async def filter(cls, web_socket_instance, data):
        name, *arguments = json.loads(bytes(data))
        answer = await getattr(cls, name)(web_socket_instance, *arguments)
        web_socket_instance.push({name: answer})

    @staticmethod
    async def join(connection, name):
        joined = await connection.join(name)
        return [joined, connection.subscriptions[name].position]

    @staticmethod
    async def recover(connection, name, epoch, offset):
        answer = await connection.recover(name, (epoch, offset))
        return [answer.recovered, answer.position]

    @staticmethod
    async def leave(connection, name):
        await connection.leave(name)

    @staticmethod
    async def publish(connection, name, message, key=""):
        return await connection.apublish(message, name, to_self=True, idempotency_key=key)


class Number(WebSocketGroupFilter):
    """Adds the offset; hides what says "hidden"."""

    _registers = False

    @classmethod
    def filter(cls, web_socket_instance, message):
        from filtered_websocket import Drop

        if b"hidden" in message:
            raise Drop
        return b"%d %s" % (current.position.offset, message)


class SlowNumber(Number):
    _registers = False

    @classmethod
    async def filter(cls, web_socket_instance, message):
        await asyncio.sleep(0)
        return Number.filter(web_socket_instance, message)


def route(*filters, rules=RULES, **options):
    return FilteredWebSocketConsumer.as_asgi(
        filters=[Commands, *filters], groups=["home"], group_rules=rules, **options
    )


async def ask(client, *command):
    """The answer to a command, and what came before it."""
    await client.send(json.dumps(command))
    before = []
    while True:
        message = await client.receive()
        if message.startswith('{"' + command[0]):
            return json.loads(message)[command[0]], before
        before.append(message)
