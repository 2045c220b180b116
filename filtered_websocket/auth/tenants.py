"""
Which tenant a connection belongs to, where a site has several databases or schemas.

A site chooses one by a context variable, which an ASGI middleware sets: queries for a
connection run in the context of its handshake. Connections of one tenant share a query.
"""

import functools
from collections.abc import Callable, Hashable, Iterator
from contextvars import Context, copy_context
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import DEFAULT_DB_ALIAS, router

from ..conf import SettingError, conf, import_object
from ..groups import PERSONAL_PREFIX
from .validity import token_model


def load_tenant() -> Callable[[], Hashable]:
    """What ``TENANT`` names. :exc:`~filtered_websocket.conf.SettingError` if it is unusable."""
    chosen = conf.TENANT
    if chosen is None:
        return databases if router.routers else the_only_database
    found = _import(chosen) if isinstance(chosen, str) else chosen
    if not callable(found):
        raise SettingError(
            f"FILTERED_WEBSOCKET['TENANT'] names {chosen!r}, which is {found!r:.80}.",
            "Name a function without arguments.",
        )
    tenant: Callable[[], Hashable] = found
    return tenant


@functools.cache
def _import(path: str) -> Any:
    return import_object(path)


def tenant_of(context: Context) -> Hashable:
    """
    The tenant of a connection whose handshake has this context.

    Raises what ``TENANT`` raises, and TypeError for an answer that has no hash.
    """
    tenant: Hashable = context.copy().run(load_tenant())
    hash(tenant)
    return tenant


def personal_group(user: Any, context: Context) -> str:
    """
    The name of the own group of a user (or of the user with that primary key), who belongs
    to the tenant of this context: ``user:<pk>``, and the tenant where a site has several.

    Raises as :func:`tenant_of`; ValueError for a user without a primary key, TypeError for a
    tenant that has another name in each process.
    """
    key = getattr(user, "pk", user)
    if key is None or isinstance(key, bool) or not str(key):
        raise ValueError(f"{user!r:.80} has no primary key: nobody is logged in as that user")
    tenant = tenant_name(tenant_of(context))
    # No primary key that a database stores has the character in between.
    return f"{PERSONAL_PREFIX}{key}\0{tenant}" if tenant else f"{PERSONAL_PREFIX}{key}"


def group_of_user(user: Any) -> str:
    """:func:`personal_group` in this context, as of :func:`check_user`."""
    check_user(user)
    return personal_group(user, copy_context())


def check_user(user: Any) -> None:
    """
    ValueError for a text that cannot be the primary key of a user of the database, as a name
    cannot where keys are numbers. Not where users may come from elsewhere. No query.
    """
    if not (isinstance(user, str) and user):
        return
    try:
        model = get_user_model()
    except ImproperlyConfigured:
        return  # the site has no users
    if not (_is_key(model, user) or _has_other_users()):
        kind = type(model._meta.pk).__name__
        raise ValueError(
            f"{user!r:.80} is no primary key of {model._meta.label}, whose keys are of the kind"
            f" {kind}: give the user, or its pk"
        )


@functools.lru_cache(maxsize=1024)
def _is_key(model: Any, text: str) -> bool:
    try:
        model._meta.pk.to_python(text)
    except (ValidationError, ValueError, TypeError):
        return False
    return True


def _has_other_users() -> bool:
    """Whether clients may be users that the database does not have: a page has signed for them."""
    own = __name__.partition(".")[0] + "."
    return bool(
        conf.JWT_KEY is not None
        or conf.PUSHER_APPS
        or conf.PUSHER_APPS_IN_ADMIN
        or not all(str(one).startswith(own) for one in conf.AUTHENTICATORS)
    )


def tenant_name(tenant: Hashable) -> str:
    """
    The name of a tenant in all processes; empty where a site has one only.

    TypeError for one that has another name in each process.
    """
    databases = set(tenant) if isinstance(tenant, tuple) else {tenant}
    if databases <= {DEFAULT_DB_ALIAS, None}:
        return ""
    name = tenant if isinstance(tenant, str) else repr(tenant)
    if " at 0x" in name:
        raise TypeError(f"TENANT returned {name:.80}: users and groups need a text, or a number")
    return name


def the_only_database() -> Hashable:
    """Where no router chooses, without asking it about each model."""
    return DEFAULT_DB_ALIAS


def databases() -> Hashable:
    """The databases that the routers choose for users, tokens and sessions."""
    return tuple(router.db_for_write(model) for model in _models())


def _models() -> Iterator[Any]:
    if apps.is_installed("django.contrib.auth"):
        yield get_user_model()
    if apps.is_installed("filtered_websocket"):
        yield token_model()
    if apps.is_installed("django.contrib.sessions"):
        store = import_module(settings.SESSION_ENGINE).SessionStore
        if hasattr(store, "get_model_class"):
            yield store.get_model_class()
