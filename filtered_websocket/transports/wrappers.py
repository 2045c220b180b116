"""
Finds the server's own ``send`` behind wrappers that never change a WebSocket event; and what
is behind the ``send`` of an HTTP response.

Middleware may wrap ``send`` to see what an application sends. Past a wrapper that is not
known here nothing is sent: it sees every event.
"""

import asyncio
import contextlib
import functools
import sys
from types import CodeType, FunctionType
from typing import Any

from .lane import abort
from .scheduling import settle

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


# HTTP responses


class Response:
    """An HTTP response of a server that is not known here: its ``send`` waits for room, or not."""

    #: Whether the connection was cut off.
    is_aborted = False

    @property
    def takes_now(self) -> bool:
        """Whether ``send`` is known not to wait now, so that its coroutine ends at once."""
        return False

    async def room(self) -> None:
        """Return when the server has room for more of the body."""

    def abort(self) -> None:
        """Cut the connection off, where that is possible: what is unsent stays unsent."""

    def release(self) -> None:
        """The response ends, or has ended: nothing waits for room any more."""


class DaphneResponse(Response):
    """
    daphne takes whatever it is given, and keeps it. Twisted tells when its buffer is full, as it
    tells every producer.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._room: asyncio.Future[None] | None = None
        request.registerProducer(self, True)
        self._is_registered = True

    @property
    def takes_now(self) -> bool:
        return self._room is None or self._room.done()

    async def room(self) -> None:
        while self._room is not None and not self._room.done():
            await asyncio.wait([self._room])

    def abort(self) -> None:
        self.is_aborted = True
        channel = self._request.channel
        self.release()
        if channel is not None:
            # A stream of HTTP/2 has a method of its own.
            way = channel if hasattr(channel, "abortConnection") else channel.transport
            way.abortConnection()

    def release(self) -> None:
        settle(self._room)
        if self._is_registered:
            self._is_registered = False
            if self._request.channel is not None:
                self._request.unregisterProducer()

    # Called by Twisted

    def pauseProducing(self) -> None:
        """Its buffer is full."""
        # It may say so more than once.
        if self._is_registered and (self._room is None or self._room.done()):
            self._room = asyncio.get_running_loop().create_future()

    def resumeProducing(self) -> None:
        """It has room."""
        settle(self._room)

    stopProducing = resumeProducing


class UvicornResponse(Response):
    """uvicorn's ``send`` waits for room itself, where its protocol was told to pause."""

    def __init__(self, transport: Any, flow: Any) -> None:
        self._transport = transport
        self._flow = flow

    @property
    def takes_now(self) -> bool:
        return not self._flow.write_paused

    def abort(self) -> None:
        self.is_aborted = True
        abort(self._transport)


UVICORN = ("uvicorn.protocols.http.h11_impl", "uvicorn.protocols.http.httptools_impl")


def find_response(send: Any) -> Response:
    """What is behind the ``send`` of an HTTP response."""
    bare = unwrap(send)
    owner: Any = getattr(bare, "__self__", None)
    known: Any
    for name in UVICORN:
        known = getattr(sys.modules.get(name), "RequestResponseCycle", None)
        if known is not None and type(owner) is known:
            with contextlib.suppress(AttributeError):  # of another release
                _ = owner.flow.write_paused
                return UvicornResponse(owner.transport, owner.flow)
    if (request := _request_of_daphne(bare)) is not None:
        with contextlib.suppress(AttributeError):
            return DaphneResponse(request)
    return Response()


def _request_of_daphne(bare: Any) -> Any:
    """The request that a ``send`` of daphne answers; None for any other."""
    if type(bare) is functools.partial and len(bare.args) == 1:
        known = getattr(sys.modules.get("daphne.http_protocol"), "WebRequest", None)
        if known is not None and isinstance(bare.args[0], known):
            return bare.args[0]
    return None


def hide_query(send: Any) -> None:
    """Have daphne log the address without its query, which may have credentials."""
    if (request := _request_of_daphne(unwrap(send))) is not None:
        with contextlib.suppress(AttributeError):  # of another release
            request.uri = request.path
