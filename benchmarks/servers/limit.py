"""
The limit of an event loop in Python: a uvloop transport, and a frame built beforehand.

No WebSocket server: it answers a handshake, counts what comes by its length and writes
the one frame it has to the transports of a group.
"""

import asyncio
import base64
import hashlib
import os
from collections import defaultdict
from typing import cast

import uvloop

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PAYLOAD = int(os.environ["BENCH_PAYLOAD"])
FRAME = bytes([0x81, 126]) + PAYLOAD.to_bytes(2, "big") + b"x" * PAYLOAD
#: A client's frame has a mask of four bytes.
FRAME_IN = len(FRAME) + 4

groups: defaultdict[str, list[asyncio.Transport]] = defaultdict(list)


class Limit(asyncio.Protocol):
    def __init__(self) -> None:
        self.head = bytearray()
        self.members: list[asyncio.Transport] | None = None
        self.to_self = False
        self.unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own is no subclass.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.members is None:
            self.head += data
            if self.head.endswith(b"\r\n\r\n"):
                self.shake_hands()
            return
        frames, self.unread = divmod(self.unread + len(data), FRAME_IN)
        for _ in range(frames):
            for member in self.members:
                if member is not self.transport or self.to_self:
                    member.write(FRAME)

    def shake_hands(self) -> None:
        first, *lines = bytes(self.head).split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines if line)
        digest = hashlib.sha1(headers[b"Sec-WebSocket-Key"] + MAGIC).digest()
        _, kind, *rest = first.split()[1].decode().split("/")
        self.to_self = kind != "fan"
        self.members = [] if kind == "echo" else groups[rest[0]]
        self.members.append(self.transport)
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if self.members is not None:
            self.members.remove(self.transport)


async def main() -> None:
    loop = asyncio.get_running_loop()
    port = int(os.environ["PORT"])
    server = await loop.create_server(Limit, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
