"""
Finds the server's own ``send`` behind wrappers that never change a WebSocket event.

Middleware may wrap ``send`` to see what an application sends. Past a wrapper that is not
known here nothing is sent: it sees every event.
"""

import functools
import sys
from types import CodeType, FunctionType
from typing import Any

#: Names that Sentry's wrapper uses: it sets the status of a trace, for HTTP responses.
SENTRY_NAMES = {"StreamedSpan", "get", "isinstance", "set_attribute", "set_http_status", "status"}
SENTRY_VARIABLES = {"send", "span", "transaction"}


def unwrap(send: Any) -> Any:
    """``send`` without the wrappers of Channels' session middleware and of Sentry."""
    while (inner := _channels(send) or _sentry(send)) is not None:
        send = inner
    return send


def describe(send: Any) -> str:
    """Where the function of ``send`` is defined, for the log."""
    while isinstance(send, functools.partial):
        send = send.func
    function = send if hasattr(send, "__qualname__") else type(send)
    return f"{function.__module__}.{function.__qualname__}"


def _channels(send: Any) -> Any:
    """Channels' session middleware sets a cookie on HTTP responses."""
    wrapper = getattr(sys.modules.get("channels.sessions"), "InstanceSessionWrapper", None)
    if wrapper is None or getattr(send, "__func__", None) is not wrapper.send:
        return None
    return send.__self__.real_send


def _sentry(send: Any) -> Any:
    """
    SentryAsgiMiddleware notes the status of HTTP responses, in a function of its own method
    ``_run_app``. One that uses any other name than those known may do more.
    """
    known = getattr(sys.modules.get("sentry_sdk.integrations.asgi"), "SentryAsgiMiddleware", None)
    method = getattr(known, "_run_app", None)
    if type(send) is not FunctionType or type(method) is not FunctionType:
        return None
    code: CodeType = send.__code__
    if (
        not any(code is constant for constant in method.__code__.co_consts)
        or not SENTRY_NAMES.issuperset(code.co_names)
        or not SENTRY_VARIABLES.issuperset(code.co_freevars)
    ):
        return None
    variables = dict(zip(code.co_freevars, send.__closure__ or (), strict=True))
    return variables["send"].cell_contents if "send" in variables else None
