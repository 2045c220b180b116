"""
Close the connections of a user, a token or a session, or change the groups that they are in,
in all processes.

Saving, deleting and logging out close connections by themselves (see ``signals``); these
functions are for everything else.
"""

from typing import Any
from uuid import UUID

from .api.control import change, close
from .auth.keys import digest_of
from .auth.tenants import check_user
from .close_codes import UNAUTHORIZED
from .connections.connection import Connection


def disconnect_user(
    user: Any, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """
    Close every connection of ``user`` (or of the user with that primary key); where a site has
    several tenants, in each of them: too many are closed rather than too few.

    Returns when the command is queued, or where no WebSockets are served, when Redis has it.
    A process that the layer does not reach is not told, and clients may connect again if they
    are still allowed to. ``code`` and ``reason`` as in :exc:`~filtered_websocket.Close`.
    ValueError for a text that cannot be a primary key.
    """
    check_user(user)
    close("user", _key(user), code, reason)


def disconnect_token(
    token: Any, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """Close every connection of ``token`` (or its id); as :func:`disconnect_user`."""
    close("token", _key(token), code, reason)


def disconnect_session(session_key: str, reason: str = "logged out") -> None:
    """
    Close every connection of this session; as :func:`disconnect_user`.

    While the session exists, clients may connect again with it.
    """
    close("session", digest_of(session_key), UNAUTHORIZED, reason)


def disconnect_connection(
    connection: Connection | str, code: int = UNAUTHORIZED, reason: str = "disconnected by the site"
) -> None:
    """Close one connection (or that with this id); as :func:`disconnect_user`."""
    who = connection.id if isinstance(connection, Connection) else connection
    close("connection", str(who), code, reason)


def subscribe(who: Any, group: str) -> None:
    """
    Have the connections of a user (or of the user with that primary key), or the connection
    (or that with this id), join ``group`` wherever they are.

    Group rules are not asked, ``may_join`` of each route is. Returns as
    :func:`disconnect_user`; whoever connects later is not subscribed. ValueError for names
    that begin with ``token:`` or ``user:``, and for a text that is neither a primary key nor
    the id of a connection.
    """
    change("subscribe", _name(who), group)


def unsubscribe(who: Any, group: str) -> None:
    """
    Take ``group`` away from them, and joins of it that are not decided yet; as
    :func:`subscribe`. They may join again if they are still allowed to.
    """
    change("unsubscribe", _name(who), group)


def _key(who: Any) -> str:
    return str(getattr(who, "pk", who))


def _name(who: Any) -> str:
    name = who.id if isinstance(who, Connection) else getattr(who, "pk", who)
    if name is None:
        raise ValueError(f"{who!r:.80} has no primary key: nobody is logged in as that user")
    if isinstance(who, str) and not _is_connection(who):
        check_user(who)
    return str(name)


def _is_connection(name: str) -> bool:
    """Whether it may be the id of a connection."""
    try:
        UUID(name)
    except ValueError:
        return False
    return True
