"""
End connections from anywhere: of a user, of a token, of a session; in all processes.

Saving, deleting and logging out do it by themselves (see ``signals``); this is for what
they cannot know of.
"""

from typing import Any

from .auth.keys import digest_of
from .close_codes import UNAUTHORIZED
from .control.orders import tell
from .exceptions import check_close


def disconnect_user(
    user: Any, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """
    Close every connection of ``user`` (or of the user with that primary key).

    Returns when the order is on its way; a process that the layer does not reach is not
    told, and they may connect again if they still have the right to. ``code`` and
    ``reason`` as in :exc:`~filtered_websocket.Close`.
    """
    _close("user", user, code, reason)


def disconnect_token(
    token: Any, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """Close every connection that rests on ``token`` (or its id); as :func:`disconnect_user`."""
    _close("token", token, code, reason)


def disconnect_session(session_key: str, reason: str = "logged out") -> None:
    """
    Close every connection that rests on this session; as :func:`disconnect_user`.

    Where it ends later than this, they may come back with it until then.
    """
    _close("session", digest_of(session_key), UNAUTHORIZED, reason)


def _close(kind: str, who: Any, code: int, reason: str) -> None:
    # Here, where the mistake is: elsewhere it would be a bad event of the house.
    check_close(code, reason)
    name = str(getattr(who, "pk", who))
    tell({"is": "close", "kind": kind, "id": name, "code": code, "reason": reason})
