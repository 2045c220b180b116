"""
Close the connections of a user, a token or a session, in all processes.

Saving, deleting and logging out do this by themselves (see ``signals``); these functions
are for everything else.
"""

from typing import Any

from .auth.keys import digest_of
from .close_codes import UNAUTHORIZED
from .control.orders import send
from .exceptions import check_close


def disconnect_user(
    user: Any, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """
    Close every connection of ``user`` (or of the user with that primary key).

    Returns when the command is queued, or where no WebSockets are served, when Redis has it.
    A process that the layer does not reach is not told, and clients may connect again if they
    are still allowed to. ``code`` and ``reason`` as in :exc:`~filtered_websocket.Close`.
    """
    _close("user", user, code, reason)


def disconnect_token(
    token: Any, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """Close every connection of ``token`` (or its id); as :func:`disconnect_user`."""
    _close("token", token, code, reason)


def disconnect_session(session_key: str, reason: str = "logged out") -> None:
    """
    Close every connection of this session; as :func:`disconnect_user`.

    While the session exists, clients may connect again with it.
    """
    _close("session", digest_of(session_key), UNAUTHORIZED, reason)


def _close(kind: str, who: Any, code: int, reason: str) -> None:
    # Checked here, so that the caller gets the error.
    check_close(code, reason)
    name = str(getattr(who, "pk", who))
    send({"is": "close", "kind": kind, "id": name, "code": code, "reason": reason})
