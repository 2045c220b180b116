"""
Where clients have their subscriptions signed: the rule of the group says who may join.

::

    urlpatterns = [path("pusher/", include("filtered_websocket.pusher.views"))]

    POST pusher/auth       socket_id, channel_name  -> auth, channel_data, shared_secret
    POST pusher/user-auth  socket_id                -> auth, user_data
"""

import inspect
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from ..auth.addresses import address_of, scope_of
from ..auth.authenticators import HeaderAuthenticator, identity_of, load_authenticators
from ..auth.credentials import credentials
from ..auth.throttle import Throttle
from ..codecs.frames import dump_json
from ..connections.client import Client
from ..exceptions import NotAllowed
from ..groups import GroupRule
from ..logs import get_logger
from ..models import Token
from ..pipelines.keeping import site_rules
from ..pipelines.permissions import ask, ask_blocking, has_permission, is_blocking
from .apps import App, app_of_id, site_apps
from .channels import group_of, is_channel, kind_of

logger = get_logger(__name__)
_throttle = Throttle()
_SOCKET_ID = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}", re.ASCII)
#: Laravel Echo sends here what Django reads in ``X-CSRFToken``.
ECHO_HEADER = "HTTP_X_CSRF_TOKEN"


class Refused(Exception):
    """The answer has this status and text."""

    def __init__(self, text: str, status: int = 403) -> None:
        super().__init__(text)
        self.status = status


def _endpoint(answer: Callable[[HttpRequest, App], dict[str, Any]]) -> Callable[..., HttpResponse]:
    """
    A view of what answers a POST that passes Django's check against forged requests, or has a
    token: no page of another site can send one.
    """

    def serve(request: HttpRequest, app_id: str) -> HttpResponse:
        try:
            return JsonResponse(answer(request, _app(app_id)))
        except Refused as refusal:
            return _answer(refusal)

    checked = csrf_protect(serve)

    # Its own check knows one header more than that of the site's middleware.
    @csrf_exempt
    @never_cache
    @require_POST
    @sensitive_variables()
    @wraps(answer)
    def view(request: HttpRequest, app_id: str = "") -> HttpResponse:
        if ECHO_HEADER in request.META:
            request.META.setdefault(settings.CSRF_HEADER_NAME, request.META[ECHO_HEADER])
        try:
            has_token = _identify(request)
        except Refused as refusal:
            return _answer(refusal)
        response: HttpResponse = (serve if has_token else checked)(request, app_id)
        return response

    view.login_required = False  # type: ignore[attr-defined]
    return view


def _answer(refusal: Refused) -> HttpResponse:
    return HttpResponse(f"{refusal}\n", "text/plain", refusal.status)


@sensitive_variables()
def _identify(request: HttpRequest) -> bool:
    """
    Whether the request has a token in ``Authorization``, as a handshake may have; then its user
    is that of the token, whoever is logged in. :exc:`Refused` for one that is not valid.
    """
    header = request.META.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
    scope = scope_of(request.META)
    offered = credentials({**scope, "headers": [(b"authorization", header)]})
    if not offered or not any(
        isinstance(one, HeaderAuthenticator) for one in load_authenticators()
    ):
        return False
    address = address_of(scope)
    if _throttle.is_over(address):
        raise Refused("too many bad tokens from this address", 429)
    token = _find(offered[0].secret)
    if token is None:
        _throttle.note(address)
        raise Refused("the token is not valid", 401)
    identity = identity_of(token)
    request.user, request.fws_identity = identity.user, identity  # type: ignore[attr-defined]
    return True


@sensitive_variables()
def _find(key: str) -> Token | None:
    """The token of ``key``, if it is valid now."""
    try:
        token = Token.objects.find(key)
        if token is None or token.flaw:
            return None
        Token.objects.note_used({token.pk})
    except Exception as error:
        # Not raised as it is: a report would show the frames with the key.
        logger.error("cannot look a token up: %s: %s", type(error).__name__, error)
        raise Refused("the token cannot be looked up now", 503) from None
    return token


def _app(app_id: str) -> App:
    """The app with this id, or the first one."""
    app = app_of_id(app_id) if app_id else next(iter(site_apps()), None)
    if app is None:
        raise Refused("there is no such app", 404)
    if not app.enabled:
        raise Refused("the app is disabled")
    return app


@_endpoint
def auth(request: HttpRequest, app: App) -> dict[str, Any]:
    """Sign a subscription of this user."""
    socket_id, channel = _socket_id(request), request.POST.get("channel_name", "")
    if not is_channel(channel):
        raise Refused("channel_name is no name of a channel", 400)
    kind = kind_of(channel)
    if not kind.is_private:
        raise Refused("this channel needs no signature", 400)
    _check_rule(request, group_of(app, channel))
    signed, answer = f"{socket_id}:{channel}", {}
    if kind.has_presence:
        data = dump_json(_user(request, app, "user_id"))
        signed, answer = f"{signed}:{data}", {"channel_data": data}
    if kind.is_encrypted:
        secret = app.shared_secret(channel)
        if secret is None:
            raise Refused("the app has no ENCRYPTION_MASTER_KEY", 400)
        answer["shared_secret"] = secret
    return {"auth": app.authorize(signed), **answer}


@_endpoint
def user_auth(request: HttpRequest, app: App) -> dict[str, Any]:
    """Sign who this user is."""
    socket_id, data = _socket_id(request), dump_json(_user(request, app, "id"))
    return {"auth": app.authorize(f"{socket_id}::user::{data}"), "user_data": data}


def _socket_id(request: HttpRequest) -> str:
    socket_id = request.POST.get("socket_id", "")
    if not _SOCKET_ID.fullmatch(socket_id):
        raise Refused("socket_id is two numbers with a dot between them", 400)
    return socket_id


def _user(request: HttpRequest, app: App, name: str) -> dict[str, Any]:
    """Who is logged in, as others see that."""
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        raise Refused("nobody is logged in")
    info = app.info_of(user)
    return {name: str(user.pk), **({} if info is None else {"user_info": info})}


def _check_rule(request: HttpRequest, group: str) -> None:
    """:exc:`Refused` unless the rule of a group lets the user join it."""
    rules = site_rules()
    match = None if rules is None else rules.find(group)
    if match is None:
        raise Refused(f"no group rule in GROUPS names {group!r}: nobody may join it")
    user: Any = getattr(request, "user", None)
    _ = user is not None and user.is_authenticated  # read here, as a rule may be async
    session = getattr(request, "session", None)
    client = Client({"path": request.path, "user": user, "session": session, "headers": []})
    identity = getattr(request, "fws_identity", None)
    if identity is not None:
        client.identify(identity)
    if not client.may_subscribe:
        raise Refused("this token may not subscribe")
    try:
        allowed = _may_join(match.rule, client, match.captured)
    except NotAllowed:
        allowed = False
    if not allowed:
        raise Refused("not allowed")


def _may_join(rule: GroupRule, client: Client, captured: dict[str, Any]) -> bool:
    """What a rule says, in this thread."""
    who = rule.join
    if isinstance(who, str):
        return has_permission(client.user, who)
    if is_blocking(who):
        return ask_blocking(who, client, captured)
    answer = ask(who, client, captured)
    return async_to_sync(_wait)(answer) if inspect.isawaitable(answer) else bool(answer)


async def _wait(answer: Awaitable[bool]) -> bool:
    return await answer


urlpatterns = [path("auth", auth), path("user-auth", user_auth)]
