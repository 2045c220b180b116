"""Asks whether a connection may do something, as a group rule says."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any

from django.db import router

from ..exceptions import Drop, NotAllowed, only_exceptions
from ..groups import Allowed
from ..threads.blocking import run_blocking


def ask(who: Allowed, connection: Any, captured: dict[str, Any]) -> bool | Awaitable[bool]:
    """
    Whether ``connection`` may, as ``who`` says; to be awaited where that takes time, in the
    context of its handshake. Permissions and functions with ``blocking = True`` run in a
    thread.

    Raises what the function raises, but for ``Drop``, which is a no; TypeError for an answer
    that is neither True nor False.
    """
    if isinstance(who, bool):
        return who
    if isinstance(who, str):
        user = connection.user
        return user is not None and run_blocking(_has_permission_now, user, who)
    if is_blocking(who):
        # Not a partial, which has no name: it is logged where it does not return.
        awaited = run_blocking(wraps(who)(lambda: ask_blocking(who, connection, captured)))
        return awaited
    answer = _call(who, connection, captured)
    if inspect.isawaitable(answer):
        return _later(who, answer)
    return _yes_or_no(who, answer)


def is_blocking(who: Allowed) -> bool:
    """Whether it is a function that must not run on the event loop."""
    return bool(getattr(who, "blocking", False))


def ask_blocking(who: Allowed, connection: Any, captured: dict[str, Any]) -> bool:
    """The answer of a function with ``blocking = True``. In a thread."""
    return _yes_or_no(who, _call(who, connection, captured))


def _call(who: Any, connection: Any, captured: dict[str, Any]) -> Any:
    with only_exceptions(describe_allowed(who)):
        try:
            return connection.context.copy().run(who, connection, **captured)
        except NotAllowed:
            raise  # it says why
        except Drop:
            return False


async def _later(who: Allowed, answer: Awaitable[Any]) -> bool:
    with only_exceptions(describe_allowed(who)):
        try:
            return _yes_or_no(who, await answer)
        except NotAllowed:
            raise
        except Drop:
            return False


def _yes_or_no(who: Allowed, answer: Any) -> bool:
    if not isinstance(answer, bool):
        raise TypeError(f"{describe_allowed(who)} returned {answer!r:.80}, not True or False")
    return answer


# Permissions of users


def _has_permission_now(user: Any, permission: str) -> bool:
    return has_permission(fresh_users([user])[0], permission)


def has_permission(user: Any, permission: str) -> bool:
    """Whether a user, None where there is none any more, has it."""
    return user is not None and bool(user.has_perm(permission))


def fresh_users(users: Sequence[Any]) -> list[Any]:
    """
    Each user as the database has it now, None where it is not there: Django keeps a user's
    permissions with the object, which is as old as the connection. One query for all.

    A user that is not from the database is returned as it is.
    """
    stored = {user.pk: user for user in users if _is_stored(user)}
    if not stored:
        return list(users)
    model = next(iter(stored.values()))._meta.model
    # In the database that is written to: a replica may not have the latest changes.
    found = model._base_manager.using(router.db_for_write(model)).in_bulk(list(stored))
    return [found.get(user.pk) if _is_stored(user) else user for user in users]


def _is_stored(user: Any) -> bool:
    state = getattr(user, "_state", None)
    return state is not None and not state.adding and user.pk is not None


def describe_allowed(who: Allowed | Callable[..., Any]) -> str:
    """As one would type it, for ``manage.py groups`` and messages."""
    if isinstance(who, bool | str):
        return repr(who)
    return getattr(who, "__qualname__", None) or repr(who)
