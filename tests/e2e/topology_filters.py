"""By ``join GROUP``, ``leave GROUP`` and ``publish GROUP TEXT`` clients of a test use groups."""

from filtered_websocket import Drop, WebSocketMessageFilter


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
            web_socket_instance.publish(text, group)
        else:
            return
        raise Drop
