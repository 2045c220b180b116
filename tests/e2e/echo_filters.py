"""Echo: what a conformance suite asks of a server."""

from filtered_websocket import WebSocketMessageFilter


class Echo(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, data):
        await web_socket_instance.send(data)
