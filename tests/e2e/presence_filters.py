"""Filters that tell the clients of a room who comes and goes."""

import json

from filtered_websocket import WebSocketConsumerFilter, WebSocketMessageFilter
from filtered_websocket.groups import group

grouppatterns = [group("room:<int:room>", presence=True, join_leave=True)]


class ComeAndGo(WebSocketMessageFilter):
    """``+room:1``, ``-room:1``."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        text = message.decode()
        if text.startswith("+"):
            await web_socket_instance.join(text[1:])
            web_socket_instance.push({"id": web_socket_instance.id})
            web_socket_instance.push(everyone(web_socket_instance, text[1:]))
        else:
            await web_socket_instance.leave(text[1:])
            web_socket_instance.push({"left": text[1:]})


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
