"""Filters of a site whose clients come back for what they missed, and its group rules."""

import json

from filtered_websocket import (
    Drop,
    PublishError,
    WebSocketConsumerFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    current,
)
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub

#: How many publications a "short" group keeps.
SHORT = 8
grouppatterns = [
    # More than any test publishes: nothing of it is ever dropped.
    group("room:<name>", publish=True, history=History(size=100_000, ttl=3600)),
    group("short:<name>", publish=True, history=History(size=SHORT, ttl=3600)),
    group("last:<name>", publish=True, history=History(size=20, ttl=3600), latest=True),
]


class Commands(WebSocketMessageFilter):
    """``["join", group]`` and the like; each has an ``{"answer": ...}``."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        name, *arguments = json.loads(bytes(message))
        try:
            answer = await getattr(cls, name)(web_socket_instance, *arguments)
        except PublishError:
            answer = None
        web_socket_instance.push({"answer": answer})

    @staticmethod
    async def join(connection, name):
        joined = await connection.join(name)
        return [joined, connection.subscriptions[name].position]

    @staticmethod
    async def recover(connection, name, since):
        answer = await connection.recover(name, tuple(since))
        return [answer.recovered, answer.position]

    @staticmethod
    async def connections(connection):
        """How many this process has."""
        return len(get_hub().connections)

    @staticmethod
    async def mute(connection, word):
        """For the send filter of history_sends."""
        connection.state["mute"] = word

    @staticmethod
    async def publish(connection, name, texts):
        """All at once; the positions."""
        sent = [connection.apublish({"text": text}, name, to_self=True) for text in texts]
        return [await one for one in sent]

    @staticmethod
    async def attempt(connection, name, texts):
        """The same; None for each that could not be sent, or not even queued."""
        sent = []
        for text in texts:
            try:
                sent.append(connection.apublish({"text": text}, name, to_self=True))
            except PublishError:
                sent.append(None)
        positions = []
        for one in sent:
            try:
                positions.append(None if one is None else await one)
            except PublishError:
                positions.append(None)
        return positions


class Place(WebSocketGroupFilter):
    """Tells clients where a message is, and hides some."""

    @classmethod
    def filter(cls, web_socket_instance, message):
        said = json.loads(bytes(message))
        if said["text"].startswith("hidden"):
            raise Drop
        return {**said, "at": current.position[:2]}


class Tell(WebSocketConsumerFilter):
    @classmethod
    def filter(cls, web_socket_instance, event):
        print("EVENT", json.dumps(event), flush=True)


class TellGaps(WebSocketConsumerFilter):
    """Tells the members of a group that something is lost."""

    @classmethod
    def filter(cls, web_socket_instance, event):
        if event["type"] == "gap":
            for connection in web_socket_instance.users.values():
                if event["data"]["group"] in connection.groups:
                    connection.push({"gap": event["data"]["group"]})
