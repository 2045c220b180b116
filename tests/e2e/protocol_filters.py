"""Filters and group rules of the site of protocol_settings."""

from filtered_websocket import (
    Drop,
    WebSocketCallFilter,
    WebSocketJoinFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.disconnect import disconnect_connection, subscribe, unsubscribe
from filtered_websocket.groups import History, group, personal
from filtered_websocket.publish import publish


def is_named(connection, name):
    """Who is in a "closed" group by its token."""
    return False


grouppatterns = [
    group("room:<name>", publish=True, presence=True, join_leave=True),
    group(
        "kept:<name>",
        publish=True,
        presence=True,
        join_leave=True,
        history=History(size=1000, ttl=3600),
    ),
    group("closed:<name>", join=is_named, publish=True),
    group("open", publish=True),
    group("news", history=History(size=10, ttl=3600)),
    personal(presence=True),
]


class Welcome(WebSocketJoinFilter):
    """Replies with what the client has said."""

    @classmethod
    def filter(cls, web_socket_instance, subscription):
        if subscription.data is not None:
            subscription.reply = {"you said": subscription.data}


class Shout(WebSocketMessageFilter):
    """Filters see what clients publish."""

    @classmethod
    def filter(cls, web_socket_instance, message):
        if isinstance(message, dict) and "shout" in message:
            return {**message, "shout": message["shout"].upper()}


class Calls(WebSocketCallFilter):
    """What a client may ask of the site, and have it do with its own connection."""

    @classmethod
    def filter(cls, web_socket_instance, call):
        methods = {
            "add": lambda numbers: sum(numbers),
            "join": lambda name: subscribe(web_socket_instance.id, name),
            "leave": lambda name: unsubscribe(web_socket_instance.id, name),
            "tell": lambda data: publish(data["data"], data["group"]),
            "push": web_socket_instance.push,
            "close": lambda code: disconnect_connection(web_socket_instance.id, code),
        }
        if call.method not in methods:
            raise Drop
        answer = methods[call.method](call.data)
        return {"is": "done"} if answer is None else answer
