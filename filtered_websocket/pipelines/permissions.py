"""Asks whether a connection may do something, as a group rule says."""

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from ..exceptions import only_exceptions
from ..groups import Allowed
from ..threads.blocking import run_blocking


def ask(who: Allowed, connection: Any, captured: dict[str, Any]) -> "bool | Awaitable[bool]":
    """
    Whether ``connection`` may, as ``who`` says; to be awaited where that takes time, in the
    context of its handshake. Permissions and functions with ``blocking = True`` run in a
    thread.

    Raises what the function raises, TypeError for an answer that is neither True nor False.
    """
    if isinstance(who, bool):
        return who
    if isinstance(who, str):
        user = connection.user
        return user is not None and run_blocking(has_permission, user, who)
    name = describe_allowed(who)
    if getattr(who, "blocking", False):
        # Not a partial, which has no name: it is logged where it does not return.
        call = wraps(who)(lambda: who(connection, **captured))
        return _checked(name, run_blocking(call))
    with only_exceptions(name):
        answer = connection.context.copy().run(who, connection, **captured)
    return _checked(name, answer) if inspect.isawaitable(answer) else _yes_or_no(name, answer)


async def _checked(name: str, answer: Awaitable[Any]) -> bool:
    with only_exceptions(name):
        return _yes_or_no(name, await answer)


def _yes_or_no(name: str, answer: Any) -> bool:
    if not isinstance(answer, bool):
        raise TypeError(f"{name} returned {answer!r:.80}, not True or False")
    return answer


def has_permission(user: Any, permission: str) -> bool:
    """
    Whether ``user`` has it now: Django keeps a user's permissions with the object, which is
    as old as the connection.
    """
    state = getattr(user, "_state", None)
    if state is not None and not state.adding and user.pk is not None:
        user = type(user)._default_manager.filter(pk=user.pk).first()
    return user is not None and bool(user.has_perm(permission))


def describe_allowed(who: Allowed | Callable[..., Any]) -> str:
    """As one would type it, for ``manage.py groups`` and messages."""
    if isinstance(who, bool | str):
        return repr(who)
    return getattr(who, "__qualname__", None) or repr(who)
