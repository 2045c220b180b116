"""One filter answers how many users are connected, another delays a handshake on request."""

import asyncio

from filtered_websocket import Drop, WebSocketConnectFilter, WebSocketMessageFilter


class CountUsers(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"count":
            web_socket_instance.push(str(len(web_socket_instance.users)))
            raise Drop


class Wait(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance, handshake):
        if handshake.query_string == "wait":
            await asyncio.sleep(4)
