"""Filters whose chains are slower than what clients send."""

import asyncio

from filtered_websocket import (
    Drop,
    WebSocketConsumerFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
)

PAUSE = 0.02


async def pause(hub):
    # When the clients of a test have left, the next one begins without delay.
    if hub.users:
        await asyncio.sleep(PAUSE)


class SlowGroup(WebSocketGroupFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        await pause(web_socket_instance)


class Enqueue(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        web_socket_instance.queue.put({"type": "sent", "data": bytes(data)})
        raise Drop


class SlowConsumer(WebSocketConsumerFilter):
    @classmethod
    async def filter(cls, web_socket_instance, event):
        await pause(web_socket_instance)
