"""Filters as they were written for 0.4, for either server."""

from filtered_websocket.filters.base import (
    WebSocketConsumerFilter,
    WebSocketDisconnectFilter,
    WebSocketMessageFilter,
)


class Remember(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, msg):
        if bytes(msg) == b"remember me":
            web_socket_instance.storage_object.add("members", web_socket_instance.id)
        if bytes(msg) == b"forget me":
            web_socket_instance.storage_object.remove("members", web_socket_instance.id)


class TellMembers(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, msg):
        members = web_socket_instance.storage_object["members"] or ()
        for _id, user in web_socket_instance.users.items():
            if _id in members:
                user.sendMessage(bytes(msg))


class PopAndCount(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, msg):
        msg.pop()
        for _id, user in web_socket_instance.users.items():
            if _id == web_socket_instance.id:
                user.sendMessage(bytes(msg))
        web_socket_instance.queue.put({"data": b"queued"})


class Announce(WebSocketConsumerFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data.get("data") == b"announce" or data.get("data") == "announce":
            for _id, user in web_socket_instance.users.items():
                user.sendMessage(b"announced")


class Goodbye(WebSocketDisconnectFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        for _id, user in web_socket_instance.users.items():
            user.sendMessage(b"somebody left")
