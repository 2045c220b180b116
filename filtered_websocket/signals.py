"""
Django's signals on tokens, users, sessions and Pusher apps, sent to every process after the
commit.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.db import transaction
from django.db.models.signals import post_delete, post_save

from .api.control import recheck, tell
from .auth.validity import token_model
from .conf import conf
from .disconnect import disconnect_session

#: A save of only these fields ends no access. Any other field of a site's own user model
#: may matter.
HARMLESS_FIELDS = {"last_login"}


def connect_signals() -> None:
    """
    Connect model by model: a receiver for all models would slow down every save and every
    deletion of the site, since Django then loads what it deletes.
    """
    for model in _family(token_model()):
        post_save.connect(_token_changed, sender=model)
        post_delete.connect(_token_changed, sender=model)
    for model in _family(get_user_model()):
        post_save.connect(_user_saved, sender=model)
        post_delete.connect(_user_deleted, sender=model)
    for model in _family(apps.get_model("filtered_websocket", "PusherApp")):
        post_save.connect(_app_changed, sender=model)
        post_delete.connect(_app_changed, sender=model)
    user_logged_out.connect(_logged_out)


def _family(parent: Any) -> list[Any]:
    """The model and its subclasses: a proxy sends signals under its own name."""
    return [model for model in apps.get_models() if issubclass(model, parent)]


def _on_commit(using: str | None, function: Callable[..., object], *args: Any) -> None:
    if transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(partial(function, *args), using=using, robust=True)
    else:
        # Where a site commits by hand this is too early, and RECHECK finds it; on_commit
        # would raise, and break the save.
        function(*args)


def _token_changed(instance: Any, using: str, **kwargs: Any) -> None:
    _on_commit(using, recheck, "token", instance.pk)


def _app_changed(instance: Any, using: str, **kwargs: Any) -> None:
    if conf.PUSHER_APPS_IN_ADMIN:
        _on_commit(using, tell, "pusher_apps", instance.app_id)


def _user_saved(
    instance: Any,
    created: bool,
    using: str,
    update_fields: Collection[str] | None,
    **kwargs: Any,
) -> None:
    if not created and (update_fields is None or not set(update_fields) <= HARMLESS_FIELDS):
        _on_commit(using, recheck, "user", instance.pk)


def _user_deleted(instance: Any, using: str, **kwargs: Any) -> None:
    _on_commit(using, recheck, "user", instance.pk)


def _logged_out(request: Any, **kwargs: Any) -> None:
    session = getattr(request, "session", None)
    key = getattr(session, "session_key", None)
    if key:
        if isinstance(session, SessionBase):
            # Django deletes it after this signal. A process that has read the session
            # meanwhile, and had not subscribed to the layer yet, would miss the event.
            type(session)(key).delete(key)
        _on_commit(None, disconnect_session, key)
