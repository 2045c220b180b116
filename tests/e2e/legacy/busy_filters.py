"""Filters that do not end."""

import asyncio
import contextlib
import time

from filtered_websocket import WebSocketMessageFilter


class Block(WebSocketMessageFilter):
    blocking = True

    @classmethod
    def filter(cls, web_socket_instance, data):
        print("BUSY", flush=True)
        time.sleep(600)  # as a slow query would


class Stubborn(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, data):
        print("BUSY", flush=True)
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
