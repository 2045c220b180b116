"""
How bytes leave a process for one socket, and on daphne how they arrive.

One transport per connection; on daphne short frames come in past autobahn's parser
(``daphne_reading``).

::

    Frame, encoded once -> transport.write -+-> daphne's lane:  the socket itself
                                            +-> uvicorn's lane: its asyncio transport
                                            +-> plain ASGI:     one writer task -> send

A lane is taken only where every part of the server has the shape this package knows,
and where ``send`` is the server's own: a middleware that wraps it sees every event.
Private attributes of daphne, Twisted and uvicorn are used in this package and nowhere
else; tests pin them against the installed versions.
"""

import sys
from collections.abc import Callable
from typing import Any

from ..logs import get_logger
from ..types import Send
from .asgi import AsgiTransport, settle
from .daphne import find_daphne
from .uvicorn import find_uvicorn

__all__ = ["AsgiTransport", "open_transport", "settle"]

logger = get_logger(__name__)

#: The kinds of transport this process has told of.
_told: set[str] = set()


def open_transport(
    send: Send, max_unsent: int, on_over: Callable[[int, str], None]
) -> AsgiTransport:
    """The best transport that the server behind ``send`` allows."""
    bare = unwrap(send)
    transport = (
        find_daphne(bare, send, max_unsent, on_over)
        or find_uvicorn(bare, send, max_unsent, on_over)
        or AsgiTransport(send, max_unsent, on_over)
    )
    if transport.lane not in _told:
        _told.add(transport.lane)
        logger.info("WebSocket frames leave by %s", transport.lane)
    return transport


def unwrap(send: Any) -> Any:
    """
    ``send`` as it was before Channels' session middleware, which wraps it for HTTP
    responses and passes on every event of a WebSocket.
    """
    wrapper = getattr(sys.modules.get("channels.sessions"), "InstanceSessionWrapper", None)
    while wrapper is not None and getattr(send, "__func__", None) is wrapper.send:
        send = send.__self__.real_send
    return send
