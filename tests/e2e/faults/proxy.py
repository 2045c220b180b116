"""A TCP proxy on the loopback that delays, stalls, swallows and resets what passes it."""

import asyncio
import contextlib
import socket
import struct


class Proxy:
    """
    Between clients and ``target``. ``delay`` is seconds per chunk, each way; :meth:`stall`
    holds everything back; :meth:`swallow` takes all that comes over the connections there
    are and hands on nothing, not even an end. With ``delays_subscribers`` only connections are
    delayed on which somebody subscribes.
    """

    def __init__(self, target):
        self._target = target
        self._server = None
        self._pipes = set()
        self._writers = set()
        self._dead = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.delay = 0.0
        self.delays_subscribers = False

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        if self._pipes:
            await asyncio.wait(self._pipes)
        for writer in self._writers:
            writer.transport.abort()

    def stall(self):
        self._flows.clear()

    def go_on(self):
        self._flows.set()

    def swallow(self):
        self._dead |= self._writers

    def bury(self):
        """What was swallowed has ended, for ``target`` too."""
        for writer in self._dead:
            writer.transport.abort()

    def reset(self):
        """Every connection ends with an RST, at once."""
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader, writer):
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        subscribes = asyncio.Event()
        pipes = self._pipe(reader, back, subscribes), self._pipe(there, writer, subscribes)
        for pipe in pipes:
            task = asyncio.ensure_future(pipe)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader, writer, subscribes):
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                if b"SUBSCRIBE" in chunk:
                    subscribes.set()
                if subscribes.is_set() or not self.delays_subscribers:
                    await asyncio.sleep(self.delay)
                await self._flows.wait()
                if writer not in self._dead:
                    writer.write(chunk)
                    await writer.drain()
        if writer not in self._dead:
            writer.close()
            self._writers.discard(writer)
