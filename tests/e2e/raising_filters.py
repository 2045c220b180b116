"""Filters that call sys.exit(), and cancel their own task, in the chain that a client names."""

import asyncio
import sys

from filtered_websocket import (
    Drop,
    WebSocketConnectFilter,
    WebSocketConsumerFilter,
    WebSocketDataFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
)


def fail(data, chain):
    if data == f"{chain} exit".encode():
        sys.exit(3)
    if data == f"{chain} cancel".encode():
        asyncio.current_task().cancel()


class Connect(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance, handshake):
        fail(handshake.query_string.replace("-", " ").encode(), "connect")
        await asyncio.sleep(0)


class Data(WebSocketDataFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        fail(data, "data")


class Message(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        fail(message, "message")
        await asyncio.sleep(0)


class Blocking(WebSocketMessageFilter):
    blocking = True

    @classmethod
    def filter(cls, web_socket_instance, message):
        fail(message, "blocking")


class Event(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, message):
        if message.startswith(b"event "):
            web_socket_instance.queue.put(bytes(message))
            raise Drop


class Group(WebSocketGroupFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        fail(message, "group")
        await asyncio.sleep(0)


class Consumer(WebSocketConsumerFilter):
    @classmethod
    async def filter(cls, web_socket_instance, event):
        fail(event, "event")
        await asyncio.sleep(0)


class Goodbye(WebSocketDisconnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance):
        print("GOODBYE", flush=True)
        fail(b"goodbye exit", "goodbye")
