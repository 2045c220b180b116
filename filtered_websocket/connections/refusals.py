"""Refuse a handshake: HTTP 403, or accept and a close frame."""

from collections.abc import Awaitable, Callable

from ..auth.credentials import SUBPROTOCOL
from ..conf import conf
from ..types import Scope, Send


async def refuse(
    scope: Scope,
    send: Send,
    send_close: Callable[[int, str], Awaitable[None]],
    code: int,
    reason: str,
) -> None:
    """
    Refuse a handshake as ``REFUSE_WITH`` says. Servers answer HTTP 403 to a close before
    accept; ``send_close`` sends a close frame after it.
    """
    if conf.REFUSE_WITH == "close":
        # A browser that offered subprotocols fails the handshake if none is answered.
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        await send_close(code, reason)
    else:
        await send({"type": "websocket.close", "code": code, "reason": reason})
