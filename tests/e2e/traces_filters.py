"""The filters of ``traces_settings``, and its group rules."""

from filtered_websocket import WebSocketConnectFilter, WebSocketGroupFilter
from filtered_websocket.groups import History, group
from filtered_websocket.history import ahistory

grouppatterns = [
    group("default", publish=True),
    group("room:<int:room>", publish=True, history=History(size=9, ttl=600)),
]


class Enter(WebSocketConnectFilter):
    """Join the room in the query; with everything that it has kept, where the query says so."""

    @classmethod
    async def filter(cls, web_socket_instance, handshake):
        room, _, how = handshake.query_string.partition("&")
        if how == "all":
            page = await ahistory(f"room:{room}")
            await web_socket_instance.recover(f"room:{room}", (page.position.epoch, 0))
        elif room:
            await web_socket_instance.join(f"room:{room}")


class Thank(WebSocketGroupFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        return message + b", thank you"
