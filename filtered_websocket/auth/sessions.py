"""
The session and the user of a handshake's cookie: read at the handshake, never written, as
there is no response that could set another cookie.

::

    handshakes of one moment ── a batch ─┬─ one query for their sessions
    (and one tenant)                     └─ one query for their users

Only Django's own classes are asked together, with the queries that they would make, for many
keys at once. Whatever is different, or fails, is looked up alone: what is wrong with one
session concerns no other.
"""

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import Context, copy_context
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, load_backend
from django.contrib.sessions.backends.db import SessionStore
from django.db import router
from django.db.models import Manager, QuerySet
from django.db.models.manager import BaseManager
from django.utils import timezone
from django.utils.functional import LazyObject
from django.views.decorators.debug import sensitive_variables

from ..conf import conf
from ..logs import LogThrottle, get_logger
from ..threads.batches import Batches, Question
from ..threads.blocking import call_safely
from ..threads.database import run_query, within
from ..types import Scope
from .authenticators import AUTH_TIMEOUT
from .tenants import load_tenant
from .validity import CHUNK, is_same_password

logger = get_logger(__name__)
_throttle = LogThrottle()

#: The answer for a session that has to be looked up alone.
ALONE = object()


class TogetherFailed(Exception):
    """A query for many sessions has failed: each has to be looked up alone."""


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
    The user of a handshake's session, or an anonymous one. TimeoutError where the database
    does not answer within ``AUTH_TIMEOUT``, as its queue allows (see ``QueryTimer``).

    As ``django.contrib.auth.get_user``, SECRET_KEY_FALLBACKS included, but the session is
    only read. (``channels.auth`` knows no fallbacks, and flushes the session instead.)
    """
    from django.contrib.auth.models import AnonymousUser

    session, user = scope["session"], None
    if type(session) is NewSession or session.session_key is None:
        return AnonymousUser()
    if _is_unread(session) and _is_plain(session.session_key) and _may_share():
        try:
            user = await _batches.ask((session, copy_context()), _tenant())
        except TogetherFailed:
            user = ALONE
    else:
        user = ALONE
    if user is ALONE:
        user = await within(AUTH_TIMEOUT, run_query(_user_of, session))
    return AnonymousUser() if user is None else user


def _is_unread(session: Any) -> bool:
    """Whether it is one of Django's database, and no middleware of the site has used it."""
    return type(session) is SessionStore and not hasattr(session, "_session_cache")


def _is_plain(key: str) -> bool:
    """Whether every database can compare this key: another could make a query of many fail."""
    return key.isascii() and key.isprintable()


def _may_share() -> bool:
    """
    Whether the query of one handshake may find the users of others. A manager or queryset that
    chooses its rows itself may choose them by the context of the handshake; ``TENANT`` tells
    how.
    """
    from django.contrib.auth import get_user_model

    if conf.TENANT is not None:
        return True
    manager = get_user_model()._default_manager
    if type(manager).get_queryset is not BaseManager.get_queryset:
        return False
    return _is_plain_queryset(type(manager.get_queryset()))


@functools.cache
def _is_plain_queryset(kind: type) -> bool:
    """Whether it has no method of a ``QuerySet`` in its own way."""
    own = itertools.takewhile(lambda one: one is not QuerySet, kind.__mro__)
    methods = vars(QuerySet).keys()
    return not any(
        name in methods and hasattr(value, "__get__")
        for one in own
        for name, value in vars(one).items()
    )


@sensitive_variables()
def _user_of(session: Any, get_user: Callable[[Any, Any], Any] | None = None) -> Any:
    path = session.get(BACKEND_SESSION_KEY)
    if SESSION_KEY not in session or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    backend, key = load_backend(path), _primary_key(session[SESSION_KEY])
    user = backend.get_user(key) if get_user is None else get_user(backend, key)
    known = session.get(HASH_SESSION_KEY, "")
    return user if user is not None and is_same_password(user, known) else None


def _primary_key(text: Any) -> Any:
    from django.contrib.auth import get_user_model

    return get_user_model()._meta.pk.to_python(text)


# Together


def _tenant() -> Hashable:
    """Handshakes that share queries are of one tenant, and read the same databases."""
    if conf.TENANT is None and not router.routers:
        return None
    from django.contrib.auth import get_user_model

    models = SessionStore.get_model_class(), get_user_model()
    return load_tenant()(), *map(router.db_for_read, models)


@sensitive_variables()
def find_users(waiting: Sequence[Question]) -> list[Any]:
    """
    For each session, which comes with the context of its handshake, its user, None, or
    ``ALONE``; None for who waits no more. It blocks.

    Raises what the lookup of a single session raises, and :exc:`TogetherFailed`: the thread
    keeps no connection to the database that an error may have broken.
    """
    asked = [None if answer.done() else question for question, answer in waiting]
    left = [question[0] for question in asked if question is not None]
    if len(asked) == 1:
        return [_user_of(session) for session in left] or [None]
    try:
        _load_sessions(left)
        get_user = _load_users(left)
    except Exception as error:
        if _throttle.note("together"):
            logger.info("sessions are looked up one by one, as together it failed: %r", error)
        raise TogetherFailed from None
    return [None if question is None else _outcome(question, get_user) for question in asked]


@sensitive_variables()
def _outcome(question: tuple[Any, Context], get_user: Callable[[Any, Any], Any]) -> Any:
    session, context = question
    try:
        # A backend may decide by what a middleware of the site has set.
        return context.run(call_safely, _user_of, session, get_user)
    except Exception:
        return ALONE


@sensitive_variables()
def _load_sessions(sessions: Sequence[Any]) -> None:
    """Load each as ``SessionStore.load`` does, in one query for all."""
    rows = SessionStore.get_model_class().objects.filter(
        session_key__in={session.session_key for session in sessions},
        expire_date__gt=timezone.now(),
    )
    found = dict(rows.values_list("session_key", "session_data"))
    for session in sessions:
        data = found.get(session.session_key)
        if data is None:
            session._session_key = None
        session._session_cache = {} if data is None else session.decode(data)


@sensitive_variables()
def _load_users(sessions: Sequence[Any]) -> Callable[[Any, Any], Any]:
    """
    One query for the users of all. Returns what does for each as ``ModelBackend.get_user``;
    it raises LookupError for whom it does not know.
    """
    from django.contrib.auth import backends

    model: Any = backends.UserModel
    wanted = Counter(filter(None, map(_key_of_user, sessions)))
    manager = model._default_manager
    rows = manager.filter(pk__in=list(wanted))
    if type(manager).get is not Manager.get or type(rows).get is not QuerySet.get:
        raise TypeError(f"{type(manager).__name__} has a get() of its own")
    counts = Counter(user.pk for user in rows)
    # Where a manager finds several rows for a user, its get() raises.
    users = {user.pk: user for user in rows if counts[user.pk] == 1}

    def get_user(backend: Any, key: Any) -> Any:
        if type(backend).get_user is not backends.ModelBackend.get_user:
            raise LookupError
        user = users[key]
        wanted[key] -= 1
        if wanted[key]:
            # Each connection has a user of its own, and whatever is in it: filters may change it.
            user = copy.deepcopy(user)
        return user if backend.user_can_authenticate(user) else None

    return get_user


def _key_of_user(session: Any) -> Any:
    try:
        return _primary_key(session[SESSION_KEY])
    except Exception:
        return None  # nobody, or a mistake that its own lookup reports


_batches = Batches(find_users, CHUNK, AUTH_TIMEOUT)
