"""One module per ASGI server that the command line can run; each has ``serve(server)``."""

from typing import Any, Protocol

from ..hub.hub import Hub

#: How long connections may take to end after they were cancelled at shutdown, seconds.
END_TIMEOUT = 5.0
#: Length of the listen queue; Twisted's default of 50 is too short for many reconnects.
BACKLOG = 1024


class Served(Protocol):
    """The part of :class:`filtered_websocket.server.cli.Server` that is used here."""

    options: Any
    application: Any

    def started(self, hub: Hub, port: int) -> None: ...
    def stopping(self) -> None: ...
