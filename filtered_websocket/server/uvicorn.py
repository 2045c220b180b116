"""
Runs uvicorn, an optional extra, for the stand-alone server.

Its own shutdown closes every connection with 1012 (service restart); here they are closed
with 4200 before.
"""

import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from ..hub.hub import get_hub
from .base import BACKLOG, END_TIMEOUT, Served


class _Server(uvicorn.Server):
    """Keeps the hub alive while it serves; ends with status 0."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self.served = served

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        hub = get_hub()
        hub.hold()
        self.served.started(hub, sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.served.stopping()
        hub = get_hub()
        await hub.drain.run()
        await super().shutdown(sockets)
        await hub.release()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again when it has ended, for the program around it.
        # There is none here, and a requested end is no failure.
        before = {number: signal.signal(number, _ignore) for number in _SIGNALS}
        try:
            with super().capture_signals():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _ignore(number: int, frame: Any) -> None:
    """The server has handled it."""


def serve(served: Served) -> None:
    """Serve until SIGINT or SIGTERM; OSError where the port cannot be opened."""
    options = served.options
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    address = (options.host, options.port)
    try:
        listener = socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        # Python adds the address, which is in the caller's message already.
        words = (error.strerror or str(error)).partition(" (while ")[0]
        raise OSError(error.errno, words) from error
    with listener:
        config = uvicorn.Config(
            served.application,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            ssl_keyfile=options.key,
            ssl_certfile=options.cert,
            timeout_graceful_shutdown=int(END_TIMEOUT),
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        _Server(config, served).run(sockets=[listener])
