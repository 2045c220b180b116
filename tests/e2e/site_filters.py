"""Filters that misbehave on demand."""

import asyncio
import os
import threading
import time

from channels.exceptions import StopConsumer

from filtered_websocket import Close, Drop, WebSocketDisconnectFilter, WebSocketMessageFilter
from filtered_websocket.transports.asgi import AsgiTransport

# Where a test reads later than a close frame has time to leave.
AsgiTransport.close_timeout = float(
    os.environ.get("TEST_CLOSE_TIMEOUT", AsgiTransport.close_timeout)
)

released = threading.Event()


class Misbehave(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"drop":
            raise Drop
        if data == b"raise":
            raise KeyError("on demand")
        if data == b"stop":
            raise StopConsumer
        if data == b"close":
            raise Close(4321, "on demand")
        if data == b"forget":
            asyncio.sleep(0)
            web_socket_instance.join("forgotten")
            web_socket_instance.send(f"in {sorted(web_socket_instance.groups)}")
        if data == b"release":
            released.set()


class Block(WebSocketMessageFilter):
    blocking = True

    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"block":
            released.clear()
            print("BLOCKING in", threading.current_thread().name, flush=True)
            released.wait(30)


class BlockTheLoop(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"block the loop":
            time.sleep(2)


class SayGoodbye(WebSocketDisconnectFilter):
    @classmethod
    def filter(cls, web_socket_instance):
        print("GOODBYE", web_socket_instance.close_code, flush=True)


class Hang(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, data):
        if data == b"hang":
            print("HANGING", flush=True)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                print("LET GO", flush=True)
