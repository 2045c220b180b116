"""
The session and the user of a handshake's cookie: read at the handshake, never written.

There is no response to a WebSocket handshake that could set another cookie.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, load_backend
from django.utils.functional import LazyObject
from django.views.decorators.debug import sensitive_variables

from ..threads.database import run_query
from ..types import Scope
from .validity import is_same_password


class NewSession(LazyObject):  # type: ignore[type-arg]
    """The session of a client without one: made when something first uses it."""

    def _setup(self) -> None:
        self._wrapped = session_store()()


def session_store() -> Any:
    """The class of sessions that ``SESSION_ENGINE`` names."""
    return import_module(settings.SESSION_ENGINE).SessionStore


@sensitive_variables()
def session_of(cookies: Mapping[str, str]) -> Any:
    """The session that the cookies name; nothing is read before it is used."""
    key = cookies.get(settings.SESSION_COOKIE_NAME)
    return NewSession() if key is None else session_store()(key)


@sensitive_variables()
async def session_user(scope: Scope) -> Any:
    """
    The user of a handshake's session, or an anonymous one.

    As ``django.contrib.auth.get_user``, SECRET_KEY_FALLBACKS included, but the session is
    only read: there is no response to send another cookie with. (``channels.auth``
    knows no fallbacks, and flushes the session instead.)
    """
    from django.contrib.auth.models import AnonymousUser

    session = scope["session"]
    if type(session) is NewSession or session.session_key is None:
        return AnonymousUser()
    return await run_query(_session_user, session) or AnonymousUser()


@sensitive_variables()
def _session_user(session: Any) -> Any:
    path = session.get(BACKEND_SESSION_KEY)
    if SESSION_KEY not in session or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    user = load_backend(path).get_user(_primary_key(session[SESSION_KEY]))
    known = session.get(HASH_SESSION_KEY, "")
    return user if user is not None and is_same_password(user, known) else None


def _primary_key(text: Any) -> Any:
    from django.contrib.auth import get_user_model

    return get_user_model()._meta.pk.to_python(text)
