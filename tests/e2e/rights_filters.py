"""Keeps each message in the storage object, and sends its sender what is there."""

import json

from filtered_websocket import WebSocketMessageFilter


class Keep(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        storage = web_socket_instance.storage_object
        await storage.aadd("messages", message)
        kept = sorted(await storage.aget("messages"))
        await storage.aremove("messages", "first")
        web_socket_instance.push(json.dumps(kept))
