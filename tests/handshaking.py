"""A handshake with any content, for tests of who may connect."""

import math

from filtered_websocket.connections.handshake import LATEST_EVENT
from filtered_websocket.testing import Client


async def shake_hands(
    app,
    *,
    headers=(),
    subprotocols=(),
    query="",
    client=("192.0.2.1", 9),
    is_of_a_middleware=False,
    **scope,
):
    """The client of one handshake; ``accepted`` and ``close_code`` tell how it went."""
    made = Client(
        app,
        {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": "/",
            "raw_path": b"/",
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(name.encode(), value) for name, value in headers],
            "subprotocols": list(subprotocols),
            "client": list(client) if client else None,
            # Else a user is the test's, and need not be in the database.
            **({LATEST_EVENT: math.inf} if "user" in scope and not is_of_a_middleware else {}),
            **scope,
        },
    )
    await made.open()
    return made
