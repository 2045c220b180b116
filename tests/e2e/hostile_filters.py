"""Tells who is left, and lets wait who asks for it."""

import asyncio

from filtered_websocket import Drop, WebSocketConnectFilter, WebSocketMessageFilter


class Census(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"census":
            web_socket_instance.push(str(len(web_socket_instance.users)))
            raise Drop


class Wait(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance, handshake):
        if handshake.query_string == "wait":
            await asyncio.sleep(4)
