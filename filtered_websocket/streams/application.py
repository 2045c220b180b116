"""
The paths of streams, in front of a site's HTTP application::

    POST /connection/http_stream      a stream, of JSON or Protobuf
    GET  /connection/sse?cf_connect=  the same as server-sent events; or by POST
    POST /emulation                   what their clients send from then on
    GET  /events/?group=              messages alone, for EventSource

A stream is a connection of the route of the Centrifuge protocol: the WebSocket application
checks, authenticates and serves it.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..auth.credentials import clean_query
from ..codecs.schema import has_protobuf
from ..conf import conf
from ..connections.handshake import NOT_ALLOWED, script_name
from ..connections.origins import headers
from ..connections.refusals import cure_of, log_refusal
from ..logs import LogThrottle
from ..protocols.serving import PROTOCOLS
from ..transports import hide_query
from ..types import ASGIApplication, Receive, Scope, Send
from . import commands, listening
from .formats import EVENTS, LENGTHS, LINES, Format
from .requests import (
    Gone,
    Headers,
    Refused,
    answer,
    origin_problem,
    preflight,
    read_body,
    shared_with,
)
from .stream import Stream

#: Of a request whose body is Protobuf.
BINARY = b"application/octet-stream"
#: The parameter of the query in which a browser sends its first command.
FIRST = b"cf_connect"
#: What a page of this site's own would have to do, which browsers name no origin for.
BY_SCRIPT = "Only scripts of allowed origins may send this, by fetch() or EventSource."
#: Where pages listen that do nothing else.
EVENTS_PATH = "/events/"
#: Headers about the body, which a WebSocket has not.
OF_BODIES = (b"content-length", b"content-type", b"transfer-encoding", b"expect")
#: What a WebSocket's scope has not.
OF_HTTP = ("extensions", "http_version", "method", "trailers")


class Endpoint(NamedTuple):
    """What is served at a path."""

    serve: Callable[..., Awaitable[None]]
    methods: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The methods, as headers have them."""
        return ", ".join((*self.methods, "OPTIONS"))


class Streams:
    """``http``, and streams that the WebSocket application serves."""

    def __init__(
        self, http: ASGIApplication, websocket: ASGIApplication, events: str = EVENTS_PATH
    ) -> None:
        self._http = http
        self._websocket = websocket
        self._throttle = LogThrottle()
        self._endpoints = {
            "/connection/http_stream": Endpoint(self._serve_lines, ("POST",)),
            "/connection/sse": Endpoint(self._serve_events, ("GET", "POST")),
            "/emulation": Endpoint(self._carry_out, ("POST",)),
        }
        self._events = events
        self._listening = Endpoint(self._serve_listener, ("GET",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(script_name(scope))
        endpoint = self._endpoints.get(path)
        if path and path == self._events and listening.is_asked(scope):
            endpoint = self._listening
        if endpoint is None:
            await self._http(scope, receive, send)
            return
        scope = self._without_query(scope, send)
        more: Headers = [(b"vary", b"origin")]
        try:
            self._check_origin(scope)
            more = shared_with(scope)
            if scope["method"] == "OPTIONS":
                await answer(send, 204, [*preflight(endpoint.allowed), *more])
                return
            if scope["method"] not in endpoint.methods:
                raise Refused(405, "not this method", [(b"allow", endpoint.allowed.encode())])
            await endpoint.serve(scope, receive, send, more)
        except Refused as refused:
            await answer(send, refused.status, [*more, *refused.headers], str(refused))
        except Gone:
            pass  # nobody waits for an answer

    def _without_query(self, scope: Scope, send: Send) -> Scope:
        """
        A copy of ``scope``, of which the server's log has no credentials, whatever becomes of
        the request, nor what a client begins with.
        """
        inside = {**scope}
        _, rest = take_first(scope.get("query_string", b""))
        scope["query_string"] = clean_query({"query_string": rest})
        hide_query(send)
        return inside

    def _check_origin(self, scope: Scope) -> None:
        problem = origin_problem(scope)
        if not problem:
            return
        has_origin = problem != NOT_ALLOWED or headers(scope, b"origin")
        cure = cure_of(scope, problem) if has_origin else BY_SCRIPT
        log_refusal(scope, problem, cure, self._throttle)
        raise Refused(403, problem)

    # Each endpoint

    async def _serve_lines(self, scope: Scope, receive: Receive, send: Send, more: Headers) -> None:
        body = await read_body(receive, conf.MAX_MESSAGE_SIZE)
        if not is_binary(scope):
            await self._serve(scope, receive, send, LINES, text_of(body), more)
        elif has_protobuf():
            await self._serve(scope, receive, send, LENGTHS, body, more)
        else:
            raise Refused(415, "this server does not speak Protobuf")

    async def _serve_events(
        self, scope: Scope, receive: Receive, send: Send, more: Headers
    ) -> None:
        if scope["method"] == "GET":
            command, rest = take_first(scope.get("query_string", b""))
            # By a link, a page of another site may have sent it: no more than to connect.
            if b"\n" in command.strip():
                raise Refused(400, "one command at first")
        else:
            rest = scope.get("query_string", b"")
            command = await read_body(receive, conf.MAX_MESSAGE_SIZE)
        if not command:
            raise Refused(400, "no command")
        if len(command) > conf.MAX_MESSAGE_SIZE:
            raise Refused(413, f"at most {conf.MAX_MESSAGE_SIZE} bytes")
        inside = {**scope, "query_string": rest}
        await self._serve(inside, receive, send, EVENTS, text_of(command), more)

    async def _serve_listener(
        self, scope: Scope, receive: Receive, send: Send, more: Headers
    ) -> None:
        groups, last = listening.asked(scope)
        if last == listening.FINAL:
            await answer(send, 204, more)
            return
        inside = as_websocket(scope, EVENTS, self._events)
        stream = listening.Listening(inside, send, groups, last, more)
        await stream.serve(self._websocket, receive)

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        form: Format,
        first: bytes | str,
        more: Headers,
    ) -> None:
        stream = Stream(as_websocket(scope, form), send, form, more)
        stream.put(first)
        await stream.serve(self._websocket, receive)

    async def _carry_out(self, scope: Scope, receive: Receive, send: Send, more: Headers) -> None:
        body = await read_body(receive, commands.most_bytes())
        await commands.carry_out(scope, commands.read(body, is_binary(scope)))
        await answer(send, 204, more)


def is_binary(scope: Scope) -> bool:
    """Whether the body of a request is Protobuf."""
    return headers(scope, b"content-type") == [BINARY]


def text_of(body: bytes) -> str:
    """A body of text. :exc:`.Refused` 400 for anything else."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None


def take_first(query: bytes) -> tuple[bytes, bytes]:
    """The first command in a query, and the rest of that."""
    command, rest = b"", []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == FIRST:
            command = unquote_to_bytes(value.replace(b"+", b" "))
        else:
            rest.append(part)
    return command, b"&".join(rest)


def as_websocket(scope: Scope, form: Format, path: str = "/connection/") -> Scope:
    """
    The handshake of a WebSocket at the path of the protocol, with what a request has sent to
    ``path``, or below.
    """
    protocol = PROTOCOLS["centrifuge"]
    inside = {key: value for key, value in scope.items() if key not in OF_HTTP}
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    own = f"/{protocol.path}"
    return {
        **inside,
        "type": "websocket",
        "scheme": "wss" if scope.get("scheme") == "https" else "ws",
        "path": script_name(scope) + own,
        "raw_path": raw[: raw.rfind(path.encode())] + own.encode(),
        "headers": [pair for pair in scope["headers"] if pair[0] not in OF_BODIES],
        "subprotocols": [form.codec.subprotocol],
    }
