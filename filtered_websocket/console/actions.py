"""
What staff may see and do by the console. Each action has its permission, and a line in the
admin's log, which is written first: what cannot be logged is not done.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django.apps import apps
from django.db import router, transaction
from django.utils.crypto import salted_hmac

from ..api.control import change, close
from ..auth.validity import is_token, token_model
from ..close_codes import UNAUTHORIZED
from ..codecs.frames import dump_json
from ..exceptions import PublishError
from ..layer.envelope import MAX_GROUP_NAME
from ..logs import printable
from ..pipelines.permissions import has_permission
from ..publish import publish

# Models are not imported: routing, which imports this, needs no Django apps.
APP = "filtered_websocket"
#: To look at all; to see what passes; and for each action.
VIEW, TEE = f"{APP}.view_console", f"{APP}.tee_console"
CLOSE, UNSUBSCRIBE = f"{APP}.close_console", f"{APP}.unsubscribe_console"
PUBLISH, REVOKE = f"{APP}.publish_console", f"{APP}.change_token"
ALL = (VIEW, TEE, CLOSE, UNSUBSCRIBE, PUBLISH, REVOKE)

#: The longest text of a page that names something: no group has a longer name.
MAX_TEXT = MAX_GROUP_NAME
#: Why a connection is closed, as its client is told.
REASON = "closed by the staff"
NOT_SENT = "not sent: the channel layer cannot be reached"


def find_permissions(user: Any) -> frozenset[str]:
    """Those of ``ALL`` that a user has; none without ``VIEW``, and of nobody but active staff."""
    if user is None or not (user.is_active and getattr(user, "is_staff", False)):
        return frozenset()
    found = frozenset(name for name in ALL if has_permission(user, name))
    return found if VIEW in found else frozenset()


def page_key(user: Any) -> str:
    """
    What the console's page shows when it connects: pages of other origins, which a site may
    allow to connect with the same cookies, cannot know it. It is no credential.
    """
    known = getattr(user, "get_session_auth_hash", str)()
    return salted_hmac(f"{APP}.console", f"{user.pk} {known}", algorithm="sha256").hexdigest()


class Refused(Exception):
    """An action cannot be done: the text is for who wants it."""


class Action(NamedTuple):
    permission: str
    #: Called with the user, and what the page says about it. Raises :exc:`Refused`.
    do: Callable[[Any, Mapping[str, Any]], None]


def _text(about: Mapping[str, Any], name: str) -> str:
    value = about.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise Refused(f"{name} is a text of 1 to {MAX_TEXT} characters")
    return value


def log(user: Any, what: Any, text: str) -> None:
    """A line in the admin's log: about ``what``, an object of the database or a text."""
    stored = what if is_token(what) else None
    model = apps.get_model(APP, "Console") if stored is None else type(stored)
    types = apps.get_model("contenttypes", "ContentType").objects
    apps.get_model("admin", "LogEntry").objects.create(
        user_id=user.pk,
        content_type_id=types.get_for_model(model).pk,
        # Without one there is no link to a page, which these have not.
        object_id=None if stored is None else str(stored.pk),
        # Not every database takes what a client may have chosen as a name.
        object_repr=printable(what)[:200],
        action_flag=2,  # as the admin says that something has changed
        change_message=printable(text),
    )


def _sent(was_sent: bool) -> None:
    if not was_sent:
        raise Refused(NOT_SENT)


def close_connection(user: Any, about: Mapping[str, Any]) -> None:
    """Close one connection."""
    name = _text(about, "id")
    log(user, f"connection {name}", "Closed the connection.")
    _sent(close("connection", name, UNAUTHORIZED, REASON))


def close_user(user: Any, about: Mapping[str, Any]) -> None:
    """Close all connections of a user."""
    name = _text(about, "user")
    log(user, f"user {name}", "Closed all connections of the user.")
    _sent(close("user", name, UNAUTHORIZED, REASON))


def unsubscribe(user: Any, about: Mapping[str, Any]) -> None:
    """Take a group away from one connection."""
    name, group = _text(about, "id"), _text(about, "group")
    log(user, f"connection {name}", f"Unsubscribed the connection from {group!r}.")
    try:
        _sent(change("unsubscribe", name, group))
    except ValueError as error:
        raise Refused(str(error)) from error


def publish_message(user: Any, about: Mapping[str, Any]) -> None:
    """Publish a text, or a JSON object or list, to a group."""
    group, data = _text(about, "group"), about.get("data")
    if not isinstance(data, str | dict | list) or data == "":
        raise Refused("a message is a text, or a JSON object or list")
    size = len(dump_json(data).encode("utf-8", "replace"))
    log(user, f"group {group}", f"Published a message of {size} bytes.")
    try:
        publish(data, group)
    except PublishError as error:
        raise Refused(str(error)) from error


def revoke_token(user: Any, about: Mapping[str, Any]) -> None:
    """Revoke a token, which closes its connections."""
    pk, model = about.get("token"), token_model()
    token = model.objects.filter(pk=pk).first() if isinstance(pk, int) else None
    if token is None:
        raise Refused("there is no such token")
    with transaction.atomic(using=router.db_for_write(model)):
        log(user, token, "Revoked.")
        token.revoke()


#: By the method of a call.
ACTIONS = {
    "close": Action(CLOSE, close_connection),
    "close_user": Action(CLOSE, close_user),
    "unsubscribe": Action(UNSUBSCRIBE, unsubscribe),
    "publish": Action(PUBLISH, publish_message),
    "revoke": Action(REVOKE, revoke_token),
}
