"""What the server itself costs: an ASGI application that echoes and has no more to it."""

from typing import Any


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Accept, then send back what comes until the client has gone."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": event["text"]})
