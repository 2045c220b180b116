"""How a handshake is refused."""

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
    Refuse a handshake as ``REFUSE_WITH`` says: of a close before accept, servers make
    HTTP 403. ``send_close`` is the best way to a close frame after it.
    """
    if conf.REFUSE_WITH == "close":
        # A browser that offers subprotocols takes no answer without one.
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        await send_close(code, reason)
    else:
        await send({"type": "websocket.close", "code": code, "reason": reason})
