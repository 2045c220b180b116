"""A chat in which each client sees what is for it; clients speak the protocol of ``Rpc``."""

import asyncio

from filtered_websocket import (
    Drop,
    WebSocketCallFilter,
    WebSocketConnectFilter,
    WebSocketJoinFilter,
    WebSocketLeaveFilter,
    WebSocketSendFilter,
    current,
)
from tests.rpc_filters import Rpc as _Rpc


class Rpc(_Rpc):
    """Defined here, so that this module lists it."""


class Name(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance, handshake):
        web_socket_instance.state["name"] = handshake.query_string
        web_socket_instance.state["go on"] = asyncio.Event()


class Room(WebSocketJoinFilter):
    @classmethod
    async def filter(cls, web_socket_instance, subscription):
        if subscription.group == "full":
            raise Drop
        name = web_socket_instance.state["name"]
        subscription.reply = f"welcome, {name}"
        if subscription.group == "room":
            # Taken before the answer, so that who joins after it does not hear it.
            await web_socket_instance.apublish({"came": name, "secret": 7}, "room")


class Left(WebSocketLeaveFilter):
    blocking = True

    @classmethod
    def filter(cls, web_socket_instance, subscription):
        if subscription.group == "room":
            name = web_socket_instance.state["name"]
            in_it = subscription.group in web_socket_instance.groups
            web_socket_instance.publish({"left": name, "in it": in_it}, "room")


class Methods(WebSocketCallFilter):
    @classmethod
    async def filter(cls, web_socket_instance, call):
        if call.method == "join":
            await web_socket_instance.join(call.data)
            return web_socket_instance.subscriptions[call.data].reply
        if call.method == "leave":
            await web_socket_instance.leave(call.data)
            return True
        if call.method == "say":
            await web_socket_instance.apublish({"said": call.data, "secret": 7}, "room")
            return web_socket_instance.id
        if call.method == "wait":
            await web_socket_instance.state["go on"].wait()
            return "waited"
        if call.method == "go on":
            web_socket_instance.state["go on"].set()
            return True
        return None


class Blocking(WebSocketCallFilter):
    blocking = True

    @classmethod
    def filter(cls, web_socket_instance, call):
        if call.method == "add":
            return sum(call.data)


class ForRecipient(WebSocketSendFilter):
    """The secret is for ``boss`` only."""

    @classmethod
    def filter(cls, web_socket_instance, message):
        name = web_socket_instance.state["name"]
        if name != "boss":
            message.pop("secret", None)
        message["to"] = name
        message["from"] = current.sender
