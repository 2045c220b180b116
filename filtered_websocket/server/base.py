"""One module per ASGI server that the command line can run; each has ``serve(server)``."""

from typing import Any, Protocol

from ..hub.hub import Hub

#: How long what was cancelled at the end may go on, seconds.
END_TIMEOUT = 5.0
#: Handshakes that may wait for this process; Twisted's default of 50 is soon full.
BACKLOG = 1024


class Served(Protocol):
    """The part of :class:`filtered_websocket.server.Server` that is used here."""

    options: Any
    application: Any

    def started(self, hub: Hub, port: int) -> None: ...
    def stopping(self) -> None: ...
