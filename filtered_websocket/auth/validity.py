"""
Whether identities are still valid, asked of the database: many in a few queries.

Always the database that is written to: a replica may not have the latest changes.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.db import router
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.debug import sensitive_variables

from ..types import Identity

#: What a token allows. Where one of these changes, the connection is closed.
TOKEN_RIGHTS = ("user_id", "group", "can_publish", "can_subscribe")
#: Why a session's connection is not valid: the password changed, and its session is still of
#: the old one; or there is no such session any more, perhaps because it got another key.
PASSWORD_CHANGED, RENEWED = "password changed", "session renewed"
#: Most values in one query: SQLite allowed 999 until 3.32.
CHUNK = 500


def token_model() -> Any:
    """The model of tokens; LookupError where the app is not installed."""
    return apps.get_model("filtered_websocket", "Token")


def token_rows() -> Any:
    """All tokens, in the database that is written to: a replica may miss a revocation."""
    model = token_model()
    return model._base_manager.using(router.db_for_write(model))


def is_read_from_a_replica(user: Any) -> bool:
    """Whether this user was read from a replica, which may miss the latest changes."""
    if not router.routers:
        return False
    model = type(user)
    return bool(router.db_for_read(model) != router.db_for_write(model))


def is_token(token: Any) -> bool:
    """Whether this is a ``Token``, not an object of a site's own authenticator."""
    if token is None or not apps.is_installed("filtered_websocket"):
        return False
    return isinstance(token, token_model())


def is_user(user: Any) -> bool:
    """Whether this is a saved user of ``AUTH_USER_MODEL``."""
    return getattr(user, "pk", None) is not None and isinstance(user, get_user_model())


def password_hash(user: Any) -> str | None:
    """The hash of the user's password that sessions store; None for users without one."""
    get_hash = getattr(user, "get_session_auth_hash", None)
    return None if get_hash is None else str(get_hash())


@sensitive_variables("known", "now")
def is_same_password(user: Any, known: str | None) -> bool:
    """Whether ``known``, made with SECRET_KEY or a fallback, matches the user's password."""
    now = password_hash(user)
    if known is None or now is None:
        return True
    return constant_time_compare(known, now) or any(
        constant_time_compare(known, old) for old in user.get_session_auth_fallback_hash()
    )


class Passwords:
    """Whether users still have a password. What many connections share is worked out once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, str | None], bool] = {}

    @sensitive_variables("known", "key")
    def is_same(self, user: Any, known: str | None) -> bool:
        """:func:`is_same_password`."""
        key = user.pk, known
        if key not in self._known:
            self._known[key] = is_same_password(user, known)
            # Else the event loop waits for this thread, for sys.getswitchinterval() each time.
            time.sleep(0)
        return self._known[key]


@sensitive_variables("identities", "identity", "sessions", "keys")
def find_invalid(identities: Sequence[Identity]) -> list[tuple[str, Identity]]:
    """
    For each of ``identities``: why it is not valid any more (empty where it is), and the
    identity with its token and its session as they are now.

    One query for all tokens, one for all users, one for all sessions (for each 500 of
    them), and one more where passwords have changed; sessions outside of a database are
    looked up one by one. It blocks: not for the event loop's thread.

    Django saves a user who changes their own password before the session that they keep:
    for ``PASSWORD_CHANGED`` and ``RENEWED``, ask again a moment later.
    """
    tokens = _rows(
        token_model, {identity.token.pk for identity in identities if is_token(identity.token)}
    )
    users = _rows(
        get_user_model, {identity.user.pk for identity in identities if is_user(identity.user)}
    )
    passwords = Passwords()
    sessions = _open_sessions({one.session_key for one in identities if one.session_key})
    hashes = _session_hashes(
        {
            one.session_key
            for one in identities
            if one.session_key
            and is_user(one.user)
            and one.user.pk in users
            and not passwords.is_same(users[one.user.pk], one.session_hash)
        }
    )
    return [_check(identity, tokens, users, sessions, hashes, passwords) for identity in identities]


def _rows(get_model: Callable[[], Any], ids: set[Any]) -> dict[Any, Any]:
    if not ids:
        return {}
    model = get_model()
    rows = model._base_manager.using(router.db_for_write(model)).in_bulk
    return {pk: row for some in _chunks(ids) for pk, row in rows(some).items()}


def _chunks(values: Iterable[Any]) -> Iterable[list[Any]]:
    listed = list(values)
    return (listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK))


@sensitive_variables("keys", "some", "key")
def _open_sessions(keys: set[str]) -> set[str]:
    if not keys:
        return set()
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if not hasattr(store, "get_model_class"):
        return {key for key in keys if _is_open(store, key)}
    rows = _session_rows(store)
    return {
        key
        for some in _chunks(keys)
        for key in rows.filter(session_key__in=some).values_list("session_key", flat=True)
    }


def _session_rows(store: Any) -> Any:
    model = store.get_model_class()
    rows = model._base_manager.using(router.db_for_write(model))
    return rows.filter(expire_date__gt=timezone.now())


@sensitive_variables()
def _session_hashes(keys: set[str]) -> dict[str, str]:
    """The hash of a password that each session has now; none for those that do not exist."""
    if not keys:
        return {}
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if hasattr(store, "get_model_class"):
        found = {
            row.session_key: store().decode(row.session_data)
            for some in _chunks(keys)
            for row in _session_rows(store).filter(session_key__in=some)
        }
    else:
        # One that lives in a cookie is never found: only the browser has its latest state.
        found = {key: store(key) for key in keys if store().exists(key)}
    return {key: data.get(HASH_SESSION_KEY, "") for key, data in found.items()}


@sensitive_variables("key")
def _is_open(store: Any, key: str) -> bool:
    if SESSION_KEY in store(key):
        return True
    # Where the cache does not answer, Django's read looks like a session that has ended.
    # exists() raises then, and the caller asks again later.
    store().exists(key)
    return False


@sensitive_variables("identity", "sessions", "hashes", "known")
def _check(
    identity: Identity,
    tokens: dict[Any, Any],
    users: dict[Any, Any],
    sessions: set[str],
    hashes: dict[str, str],
    passwords: Passwords,
) -> tuple[str, Identity]:
    token = identity.token
    user = None
    if is_user(identity.user):
        user = users.get(identity.user.pk)
        if user is None:
            return "user deleted", identity
        if identity.was_active and not user.is_active:
            return "user deactivated", identity
        if not passwords.is_same(user, identity.session_hash):
            known = hashes.get(identity.session_key or "")
            if identity.session_key and known is None:
                return RENEWED, identity
            if known is None or not passwords.is_same(user, known):
                return PASSWORD_CHANGED, identity
            identity = replace(identity, session_hash=known)
    if is_token(token):
        row = tokens.get(token.pk)
        if row is None:
            return "token deleted", identity
        if row.digest != token.digest:
            return "token rotated", identity
        if any(getattr(row, name) != getattr(token, name) for name in TOKEN_RIGHTS):
            return "token changed", identity
        if user is not None and user.pk == row.user_id:
            # Saves a query.
            row.user = user
        if row.flaw:
            return row.flaw, identity
        identity = replace(identity, token=row)
    if identity.session_key and identity.session_key not in sessions:
        return "session ended", identity
    return "", identity
