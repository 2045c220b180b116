"""
Runs daphne for the stand-alone server.

Its ``Server`` is subclassed: it reports when the port is open or why not, passes on the
path as the client sent it, and at shutdown sends every client a close frame (daphne's own
shutdown cancels applications, and fails with a KeyError where a socket is less than a
second old).
"""

import asyncio
import contextlib
from typing import Any

from daphne.server import Server as DaphneServer
from twisted.internet import defer, reactor
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import CannotListenError

from ..hub.hub import get_hub
from ..threads.tasks import end_tasks
from .base import BACKLOG, END_TIMEOUT, Served
from .daphne_protocol import Protocol, with_deadline


class _Server(DaphneServer):
    """Listens on one endpoint; sends a close frame to every client at shutdown."""

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
        Keep the path as it was sent: autobahn parses ``//other/ws/`` and ``/ws/;x`` to
        ``/ws/``. ``root_path`` is the server's own setting, never a client's header.
        """
        if scope["type"] == "websocket":
            scope["raw_path"] = protocol.http_request_uri.partition("?")[0].encode()
            scope["root_path"] = self.root_path
        return super().create_application(protocol, scope)

    def listen_error(self, failure: Any) -> None:
        self.failure = failure.value
        self.stop()

    def _begin(self, port: int) -> None:
        # The asyncio loop of the reactor runs by now, but this is not called by it.
        asyncio.get_event_loop().call_soon(self._start, port)

    def _start(self, port: int) -> None:
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
        """Stop listening, send close frames, and wait for the clients' answers."""
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT):
                await end_tasks(left)


def endpoint(options: Any) -> str:
    """Twisted's endpoint description. Its minimum is TLS 1.2."""
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
        # The system's own error, which Twisted wraps, is shorter.
        error = server.failure.socketError
        raise OSError(getattr(error, "strerror", None) or str(error)) from server.failure
