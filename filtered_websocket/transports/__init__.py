"""
How frames are written to one socket, and on daphne also how they are read.

One transport per connection. On daphne short frames are parsed here, not by autobahn
(``daphne_reading``).

::

    Frame, encoded once -> transport.write -+-> daphne's lane:  the socket itself
                                            +-> uvicorn's lane: its asyncio transport
                                            +-> plain ASGI:     one writer task -> send

A lane is used only where the server's objects have exactly the attributes that this
package uses, and where ``send`` is the server's own: a middleware that wraps it sees every
event. Private attributes of daphne, Twisted and uvicorn are used in this package and nowhere
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

#: Kinds of transport that this process has logged.
_logged: set[str] = set()


def open_transport(
    send: Send, max_unsent: int, on_end: Callable[[int, str], None]
) -> AsgiTransport:
    """The best transport that the server behind ``send`` allows."""
    bare = unwrap(send)
    transport = (
        find_daphne(bare, send, max_unsent, on_end)
        or find_uvicorn(bare, send, max_unsent, on_end)
        or AsgiTransport(send, max_unsent, on_end)
    )
    if transport.lane not in _logged:
        _logged.add(transport.lane)
        logger.info("WebSocket frames leave by %s", transport.lane)
    return transport


def unwrap(send: Any) -> Any:
    """
    ``send`` without the wrapper of Channels' session middleware, which is there for HTTP
    responses and passes every WebSocket event on unchanged.
    """
    wrapper = getattr(sys.modules.get("channels.sessions"), "InstanceSessionWrapper", None)
    while wrapper is not None and getattr(send, "__func__", None) is wrapper.send:
        send = send.__self__.real_send
    return send
