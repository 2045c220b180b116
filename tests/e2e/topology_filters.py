"""
By ``join GROUP``, ``leave GROUP`` and ``publish GROUP TEXT`` clients of a test use groups; by
``recover GROUP`` and ``who GROUP`` those with a history and presence, ``kept:NAME``.
"""

from filtered_websocket import Drop, WebSocketMessageFilter
from filtered_websocket.groups import History, group
from filtered_websocket.presence import apresence_stats

grouppatterns = [
    group("kept:<name>", presence=True, history=History(size=10, ttl=60)),
    group("<name>"),
]


class UseGroups(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, data):
        verb, _, rest = bytes(data).decode().partition(" ")
        group, _, text = rest.partition(" ")
        if verb == "join":
            await web_socket_instance.join(group)
            web_socket_instance.push(f"joined {group}")
        elif verb == "leave":
            await web_socket_instance.leave(group)
        elif verb == "publish":
            await web_socket_instance.apublish(text, group)
        elif verb == "recover":
            answer = await web_socket_instance.recover(group, ("", 0))
            web_socket_instance.push(f"recovered {answer.recovered} {answer.position.offset}")
        elif verb == "who":
            stats = await apresence_stats(group)
            web_socket_instance.push(f"{stats.connections} in {group}")
        else:
            return
        raise Drop
