"""Filters that tell the clients of a room who comes and goes."""

import json

from filtered_websocket import (
    NotAllowed,
    WebSocketConsumerFilter,
    WebSocketJoinFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.groups import group
from filtered_websocket.presence import apresence, apresence_stats

grouppatterns = [group("room:<int:room>", presence=True, join_leave=True)]


class ComeAndGo(WebSocketMessageFilter):
    """``+room:1``, or ``+room:1 7`` with such an info; ``-room:1``; ``?room:1``: who is there."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        text = message.decode()
        room, _, size = text[1:].partition(" ")
        if text.startswith("+"):
            await cls.come(web_socket_instance, room, size)
        elif text.startswith("-"):
            await web_socket_instance.leave(room)
            web_socket_instance.push({"left": room})
        else:
            who = {key: list(info) for key, info in (await apresence(room)).items()}
            web_socket_instance.push({"who": who, "stats": await apresence_stats(room)})

    @staticmethod
    async def come(connection, room, size):
        try:
            await connection.join(room, data=size)
        except NotAllowed as refusal:
            connection.push({"refused": refusal.reason})
        else:
            connection.push({"id": connection.id})
            connection.push(everyone(connection, room))


class Show(WebSocketJoinFilter):
    @classmethod
    def filter(cls, web_socket_instance, subscription):
        if subscription.data:
            subscription.info = "x" * int(subscription.data)


def everyone(web_socket_instance, group):
    who = web_socket_instance.present(group)
    return {"all": {key: info.user for key, info in who.items()}}


class Tell(WebSocketConsumerFilter):
    """
    Changes to everyone in the room. Who has come is told all: by the join it knows nobody
    where the layer is away, and its join is not told where the room knew it before.
    """

    @classmethod
    def filter(cls, web_socket_instance, event):
        if event["type"] != "presence":
            print("EVENT", json.dumps(event), flush=True)
            return
        group, changes = event["data"]["group"], event["data"]["changes"]
        for change in changes:
            who = web_socket_instance.users.get(change["connection"])
            if who is not None and change["is"] == "join":
                who.push(everyone(web_socket_instance, group))
        web_socket_instance.fan_out(group, {"changes": changes})
