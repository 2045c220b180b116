"""
The open streams of this process by session, and the ids of sessions.

An id is 192 random bits and a signature, by which every process of the site knows that one of
them has made it: what strangers make up is asked of nobody else.
"""

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.signing import BadSignature, Signer

from ..connections.handshake import cookies_of
from ..hub.registry import process_uid
from ..types import Scope

if TYPE_CHECKING:
    from .stream import Stream

# What came of a command.
#: It waits for its turn.
TAKEN = "taken"
#: There is no such session.
UNKNOWN = "unknown"
#: Too much waits already: the stream is closed.
FULL = "full"
#: The session of another user: that of the cookie has to be looked up.
WHOSE = "whose"

#: Session -> its stream.
_streams: "dict[str, Stream]" = {}


def _signer(node: str) -> Signer:
    return Signer(salt=f"filtered_websocket.streams.{node}", sep=".")


def note(stream: "Stream") -> dict[str, str]:
    """Its client is connected: the fields that tell it where to send its commands."""
    node = process_uid()
    stream.session = _signer(node).sign(secrets.token_urlsafe(24))
    _streams[stream.session] = stream
    return {"session": stream.session, "node": node}


def forget(stream: "Stream") -> None:
    """It has ended."""
    _streams.pop(stream.session, None)


def find(session: str) -> "Stream | None":
    """The stream of a session, if this process has it. Any thread."""
    return _streams.get(session)


def is_genuine(session: str, node: str) -> bool:
    """Whether the process ``node`` of this site has made this id."""
    try:
        _signer(node).unsign(session)
    except (BadSignature, ValueError):  # of text that is not UTF-8
        return False
    return True


def cookie_of(scope: Scope) -> str:
    """What tells the session cookie of a request from others; empty without one."""
    cookie = cookies_of(scope).get(settings.SESSION_COOKIE_NAME, "")
    return hashlib.sha256(cookie.encode()).hexdigest() if cookie else ""


def hand_over(stream: "Stream", command: bytes | str, cookie: str, user: str | None) -> str:
    """
    Give a stream what its client has sent, on its event loop. ``cookie`` is that of the request,
    ``user`` who is logged in by it, where that was looked up. What came of it.
    """
    connection: Any = stream.connection
    if stream.is_over or connection.closing:
        return UNKNOWN
    identity = connection.identity
    # Who has come by a token is not known by the cookie, which may change.
    is_by_token = identity is not None and not identity.session_key
    has_session = connection.session is not None and not is_by_token
    has_session = has_session and connection.user_id is not None
    own = cookie_of(stream.scope) if has_session else ""
    if own and cookie != own and user != connection.user_id:
        return WHOSE
    return TAKEN if stream.put(command) else FULL


# After a fork they are the parent's. Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_streams.clear)
