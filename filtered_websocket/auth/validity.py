"""
Whether identities still hold, asked of the database: many in a few queries.

Asked at the database that is written to: a replica may not know yet what just ended.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.db import router
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.debug import sensitive_variables

from ..types import Identity

#: A connection rests on these as they were: where one changes it has to come again.
WHAT_A_TOKEN_GRANTS = ("user_id", "group", "can_publish", "can_subscribe")
#: Most values in one query: SQLite allowed 999 until 3.32.
CHUNK = 500


def token_model() -> Any:
    """The model of tokens; LookupError where the app is not installed."""
    return apps.get_model("filtered_websocket", "Token")


def token_rows() -> Any:
    """All tokens, where they are written: a replica may not know yet what was just revoked."""
    model = token_model()
    return model._base_manager.using(router.db_for_write(model))


def is_read_from_a_replica(user: Any) -> bool:
    """Whether what was read of this user may be older than what was last written."""
    model = type(user)
    return bool(router.db_for_read(model) != router.db_for_write(model))


def is_token(token: Any) -> bool:
    """Whether this is a row of ours, not what a site's own authenticator made."""
    return apps.is_installed("filtered_websocket") and isinstance(token, token_model())


def is_user(user: Any) -> bool:
    """Whether this is a row of the site's users, not anonymous, nor what a site made up."""
    return getattr(user, "pk", None) is not None and isinstance(user, get_user_model())


def password_hash(user: Any) -> str | None:
    """What a session remembers of a user's password (``AbstractBaseUser``), if anything."""
    get_hash = getattr(user, "get_session_auth_hash", None)
    return None if get_hash is None else str(get_hash())


@sensitive_variables("known", "now")
def is_same_password(user: Any, known: str | None) -> bool:
    """Whether ``known``, made with this SECRET_KEY or a fallback, is of today's password."""
    now = password_hash(user)
    if known is None or now is None:
        return True
    return constant_time_compare(known, now) or any(
        constant_time_compare(known, old) for old in user.get_session_auth_fallback_hash()
    )


@sensitive_variables("identities", "identity", "sessions", "keys")
def find_invalid(identities: Sequence[Identity]) -> list[tuple[str, Identity]]:
    """
    What ended each of ``identities``, empty where it holds; and the identity with its
    token as it is now.

    One query for all tokens, one for all users, one for all sessions (for each 500 of
    them); of sessions that are no rows, one look-up each. Any thread but a loop's.
    """
    tokens = _rows(
        token_model, {identity.token.pk for identity in identities if is_token(identity.token)}
    )
    users = _rows(
        get_user_model, {identity.user.pk for identity in identities if is_user(identity.user)}
    )
    sessions = _living_sessions({one.session_key for one in identities if one.session_key})
    return [_verdict(identity, tokens, users, sessions) for identity in identities]


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
def _living_sessions(keys: set[str]) -> set[str]:
    if not keys:
        return set()
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if not hasattr(store, "get_model_class"):
        return {key for key in keys if _is_living(store, key)}
    model = store.get_model_class()
    living = model._base_manager.using(router.db_for_write(model)).filter(
        expire_date__gt=timezone.now()
    )
    return {
        key
        for some in _chunks(keys)
        for key in living.filter(session_key__in=some).values_list("session_key", flat=True)
    }


@sensitive_variables("key")
def _is_living(store: Any, key: str) -> bool:
    if SESSION_KEY in store(key):
        return True
    # Reading one, Django takes a cache that does not answer for a session that has ended.
    # This raises then, and who asks keeps everybody for a while.
    store().exists(key)
    return False


@sensitive_variables("identity", "sessions")
def _verdict(
    identity: Identity, tokens: dict[Any, Any], users: dict[Any, Any], sessions: set[str]
) -> tuple[str, Identity]:
    token = identity.token
    user = None
    if is_user(identity.user):
        user = users.get(identity.user.pk)
        if user is None:
            return "user deleted", identity
        if identity.was_active and not user.is_active:
            return "user deactivated", identity
        if not is_same_password(user, identity.session_hash):
            return "password changed", identity
    if is_token(token):
        row = tokens.get(token.pk)
        if row is None:
            return "token deleted", identity
        if row.digest != token.digest:
            return "token rotated", identity
        if any(getattr(row, name) != getattr(token, name) for name in WHAT_A_TOKEN_GRANTS):
            return "token changed", identity
        if user is not None and user.pk == row.user_id:
            # So that nothing has to ask for it.
            row.user = user
        if row.flaw:
            return row.flaw, identity
        identity = replace(identity, token=row)
    if identity.session_key and identity.session_key not in sessions:
        return "session ended", identity
    return "", identity
