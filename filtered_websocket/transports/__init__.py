"""
How frames are written to one socket, and on daphne also how they are read.

One transport per connection. On daphne short frames are parsed here, not by autobahn
(``daphne_reading``).

::

    Frame, encoded once -> transport.write -+-> daphne's lane:  the socket itself
                                            +-> uvicorn's lane: its asyncio transport
                                            +-> plain ASGI:     one writer task -> send
                                            +-> HTTP streams:   the server's send, at once

A lane is used only where the server's objects have exactly the attributes that this
package uses, and where ``send`` is the server's own, apart from wrappers that are known
never to look at a WebSocket event (``wrappers``): any other middleware sees every event.
Private attributes of daphne, Twisted and uvicorn are used in this folder and nowhere
else; tests pin them against the installed versions.
"""

from collections.abc import Callable

from ..logs import get_logger
from ..types import Send
from .asgi import AsgiTransport
from .daphne import find_daphne
from .lane import Lane, watch_writes, write_all, write_one, write_with
from .scheduling import settle
from .uvicorn import find_uvicorn
from .wrappers import Response, describe, find_response, hide_query, unwrap

__all__ = [
    "AsgiTransport",
    "Lane",
    "Response",
    "find_response",
    "hide_query",
    "open_transport",
    "settle",
    "watch_writes",
    "write_all",
    "write_one",
    "write_with",
]

logger = get_logger(__name__)

#: How frames leave, as this process has logged it.
_logged: set[str] = set()


def open_transport(
    send: Send, max_unsent: int, on_end: Callable[[int, str], None]
) -> AsgiTransport:
    """The best transport that the server behind ``send`` allows."""
    bare = unwrap(send)
    # That of an HTTP stream knows how.
    own = getattr(bare, "open_transport", None)
    transport: AsgiTransport = (
        (own and own(max_unsent, on_end))
        or find_daphne(bare, send, max_unsent, on_end)
        or find_uvicorn(bare, send, max_unsent, on_end)
        or AsgiTransport(send, max_unsent, on_end)
    )
    way = transport.lane
    if type(transport) is AsgiTransport:
        way += (
            f": send is {describe(bare)}, which is neither daphne's nor uvicorn's"
            " (websockets-sansio) in a form that this package supports"
        )
    if way not in _logged:
        _logged.add(way)
        logger.info("WebSocket frames leave by %s", way)
    return transport
