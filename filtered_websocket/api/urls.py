"""
The HTTP API of the Centrifuge protocol: URLs to include, and their view.

::

    urlpatterns = [path("api/", include("filtered_websocket.api.urls"))]

    POST api/publish, api/info, ...    checks the key, reads the body, writes the answer
"""

from functools import partial

from django.core.exceptions import RequestDataTooBig
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from .calls import answer
from .keys import Refused, caller_of, may_call
from .requests import ApiError, parse


# A plain view: Django runs it in a thread of its own under ASGI, and where a WSGI server runs
# it, with gevent or without, publishing needs no event loop.
@csrf_exempt
@never_cache
@require_POST
@transaction.non_atomic_requests
@sensitive_variables()
def api(request: HttpRequest, method: str) -> HttpResponse:
    """
    One request of the HTTP API: 200 with ``{"result": ...}`` or ``{"error": ...}``, or
    401 without a good key, 429 after too many bad ones, 503 where none can be looked up.
    """
    try:
        caller = caller_of(request)
    except Refused as refusal:
        response = HttpResponse(f"{refusal}\n", "text/plain", refusal.status)
        if refusal.status == 401:
            response["WWW-Authenticate"] = "apikey"
        return response
    try:
        fields = parse(request.body)
    except ApiError as error:
        return JsonResponse(error.answer)
    except RequestDataTooBig as error:
        return JsonResponse(ApiError(107, str(error)).answer)
    return JsonResponse(answer(method, fields, partial(may_call, caller)))


# The key is the login, where LoginRequiredMiddleware asks for one.
api.login_required = False  # type: ignore[attr-defined]

app_name = "filtered_websocket_api"
urlpatterns = [path("<slug:method>", api, name="api")]
