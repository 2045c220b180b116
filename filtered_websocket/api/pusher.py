"""
The HTTP API of Pusher Channels, for its packages for servers.

::

    urlpatterns = [path("", include("filtered_websocket.api.pusher"))]

    POST apps/1/events, apps/1/batch_events              publish
    GET  apps/1/channels, apps/1/channels/news           who is there
    GET  apps/1/channels/presence-room/users
    GET  apps/1/connections                              how many clients are connected
    POST apps/1/users/5/terminate_connections

A request is signed with the secret of its app: method, path and query, and the body by its MD5.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import parse_qsl

from django.core.exceptions import RequestDataTooBig
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from ..logs import LogThrottle, get_logger
from ..pusher.apps import App, app_of_id, app_of_key
from . import pusher_calls as calls
from .pusher_calls import Refused
from .requests import ApiError, parse

logger = get_logger(__name__)
_throttle = LogThrottle()

#: How many seconds the clock of a backend may differ from ours.
MAX_AGE = 600
#: What is signed of a path: a site may serve all of it below another one.
_SIGNED = re.compile(r"/(?:apps/[0-9]+|users)/.*", re.ASCII | re.DOTALL)

Call = Callable[..., dict[str, Any]]


def _view(method: str, call: Call) -> Callable[..., HttpResponse]:
    """A view of a call, which gets the app, the fields of the request, and names of the path."""

    # A plain view: Django runs it in a thread of its own under ASGI.
    @csrf_exempt
    @never_cache
    @require_http_methods([method])
    @transaction.non_atomic_requests
    @sensitive_variables()
    @wraps(call)
    def view(request: HttpRequest, app_id: str = "", **names: str) -> HttpResponse:
        try:
            app, query = _caller(request, app_id)
            fields = parse(request.body) if method == "POST" else query
            return JsonResponse(call(app, fields, **names))
        except Refused as refusal:
            return _answer(str(refusal), refusal.status)
        except RequestDataTooBig as error:
            return _answer(str(error), 413)
        except (ApiError, OSError) as error:
            # An OSError of Redis, which does not answer.
            if isinstance(error, ApiError) and error.code == 107:
                return _answer(str(error), 400)
            if _throttle.note(call.__name__):
                logger.error("the Pusher API's call %s failed: %s", call.__name__, error)
            return _answer(str(error), 503)

    # The signature is the login, where LoginRequiredMiddleware asks for one.
    view.login_required = False  # type: ignore[attr-defined]
    return view


def _answer(text: str, status: int) -> HttpResponse:
    return HttpResponse(f"{text}\n", "text/plain", status)


def _caller(request: HttpRequest, app_id: str) -> tuple[App, dict[str, str]]:
    """The app that has signed a request, and the query. :exc:`.Refused` for anybody else."""
    query = _query(request.META.get("QUERY_STRING", ""))
    key = query.get("auth_key", "")
    app = app_of_id(app_id) if app_id else app_of_key(key)
    if app is None:
        raise Refused("there is no such app", 404)
    signature = query.get("auth_signature", "")
    texts = {request.path, *_SIGNED.findall(request.path)[:1]}
    # All are compared, so that the time says nothing.
    good = [app.has_signed(signature, _signed(request, text, query)) for text in texts]
    if app.key != key or not any(good):
        raise Refused("the signature is not that of this app and request", 401)
    if query.get("auth_version") != "1.0":
        raise Refused("auth_version is 1.0", 401)
    _check_time(query.get("auth_timestamp", ""))
    _check_body(request, query)
    if not app.enabled:
        raise Refused("the app is disabled", 403)
    return app, query


def _query(text: str) -> dict[str, str]:
    """Keys in small letters; what comes several times is joined by commas."""
    query: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        key = name.lower()
        query[key] = f"{query[key]},{value}" if key in query else value
    return query


def _signed(request: HttpRequest, where: str, query: dict[str, str]) -> str:
    """The text that a backend signs: whatever parameters there are."""
    pairs = sorted(pair for pair in query.items() if pair[0] != "auth_signature")
    return "\n".join([str(request.method), where, "&".join(f"{key}={text}" for key, text in pairs)])


def _check_time(text: str) -> None:
    at = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    now = int(time.time())  # whole seconds, as backends say them
    if abs(now - at) > MAX_AGE:
        raise Refused(f"auth_timestamp is {text:.20}, and our clock {now}", 401)


def _check_body(request: HttpRequest, query: dict[str, str]) -> None:
    """Some packages sign the body of every request, also where there is none."""
    digest = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
    if "body_md5" in query:
        if not hmac.compare_digest(query["body_md5"].encode(), digest.encode()):
            raise Refused("body_md5 is not that of the body", 401)
    elif request.body:
        raise Refused("the body is not signed: body_md5 is missing", 401)


_terminate = _view("POST", calls.terminate)
urlpatterns = [
    path("apps/<app_id>/events", _view("POST", calls.trigger)),
    path("apps/<app_id>/batch_events", _view("POST", calls.trigger_batch)),
    path("apps/<app_id>/channels", _view("GET", calls.channels)),
    path("apps/<app_id>/channels/<channel>", _view("GET", calls.channel)),
    path("apps/<app_id>/channels/<channel>/users", _view("GET", calls.users)),
    path("apps/<app_id>/connections", _view("GET", calls.connections)),
    path("apps/<app_id>/users/<path:user>/terminate_connections", _terminate),
    # The package for Python leaves the app out.
    path("users/<path:user>/terminate_connections", _terminate),
]
