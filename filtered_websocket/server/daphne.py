"""
daphne, with what it lacks for a program of its own.

Its ``Server`` is subclassed: it says when the port is open or why not, hands on the path
as the client wrote it, and at the end gives every client a close frame (daphne's own
shutdown cancels applications, and fails with a KeyError where a socket is less than a
second old).
"""

import asyncio
from typing import Any

from daphne.server import Server as DaphneServer
from twisted.internet import defer, reactor
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import CannotListenError

from ..hub.hub import get_hub
from .base import BACKLOG, END_TIMEOUT, Served
from .daphne_protocol import Protocol, with_deadline


class _Server(DaphneServer):
    """One endpoint, and an end that every client is told of."""

    def __init__(self, served: Served) -> None:
        options = served.options
        super().__init__(
            application=served.application,
            endpoints=[endpoint(options)],
            verbosity=options.verbosity,
            server_name="filtered_websocket",
        )
        self.served = served
        self.ports: list[Any] = []
        self.failure: Exception | None = None

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self.ws_factory.protocol = Protocol
        self.http_factory.buildProtocol = with_deadline(self.http_factory.buildProtocol, reactor)
        self.ports.append(port)
        reactor.callWhenRunning(self._begin, port.getHost().port)

    def create_application(self, protocol: Any, scope: Any) -> Any:
        """
        With the path as it was sent: autobahn parses ``//other/ws/`` and ``/ws/;x`` to
        ``/ws/``. And where the application is mounted is this server's to say, not a
        header's that any client can send.
        """
        if scope["type"] == "websocket":
            scope["raw_path"] = protocol.http_request_uri.partition("?")[0].encode()
            scope["root_path"] = self.root_path
        return super().create_application(protocol, scope)

    def listen_error(self, failure: Any) -> None:
        self.failure = failure.value
        self.stop()

    def _begin(self, port: int) -> None:
        # The reactor's asyncio loop runs from here on, but this is no coroutine of it.
        asyncio.get_event_loop().call_soon(self._hold, port)

    def _hold(self, port: int) -> None:
        try:
            hub = get_hub()
            hub.hold()
            self.served.started(hub, port)
        except Exception as error:
            self.failure = error
            self.stop()

    def kill_all_applications(self) -> Any:
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        """No new clients, a close frame to the old ones, and their answers."""
        for port in self.ports:
            port.stopListening()
        self.served.stopping()
        hub = get_hub()
        await hub.drain.run()
        await hub.release()
        left = [
            details["application_instance"]
            for details in self.connections.values()
            if "application_instance" in details
        ]
        for application in left:
            application.cancel()
        if left:
            await asyncio.wait(left, timeout=END_TIMEOUT)


def endpoint(options: Any) -> str:
    """Twisted's description of where to listen; TLS 1.2 is its minimum."""
    interface = f"interface={quoteStringArgument(options.host)}:backlog={BACKLOG}"
    if options.key is None:
        return f"tcp:port={options.port}:{interface}"
    files = (
        f"privateKey={quoteStringArgument(options.key)}:certKey={quoteStringArgument(options.cert)}"
    )
    return f"ssl:port={options.port}:{files}:{interface}"


def serve(served: Served) -> None:
    """Serve until SIGINT or SIGTERM; OSError where the port cannot be opened."""
    server = _Server(served)
    server.run()
    if server.failure is not None:
        if not isinstance(server.failure, CannotListenError):
            raise server.failure
        # Twisted wraps the system's own error, which says it in fewer words.
        error = server.failure.socketError
        raise OSError(getattr(error, "strerror", None) or str(error)) from server.failure
