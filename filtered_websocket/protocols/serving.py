"""
The protocols by name, and the part of a consumer that depends on how its clients speak::

    plain      a frame is a message, which goes through the data and message chains
    protocol   the connection is accepted, and its session reads the frames
"""

from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..close_codes import BAD_MESSAGE, FILTER_ERROR, TOO_LARGE, UNAUTHORIZED
from ..codecs.data import Data, from_bytes
from ..codecs.frames import BYTES, dump_json, text_event
from ..conf import conf, import_object
from ..connections.connection import Connection
from ..connections.handshake import Handshake
from ..connections.refusals import log_accepted, log_refused
from ..exceptions import Close, Drop, InvalidData, ends_the_task
from ..pipelines.entries import PipelineError
from ..pipelines.pipeline import Pipeline
from ..pipelines.rules import Rules
from ..transports import AsgiTransport
from ..types import Scope
from .codes import is_connect, log_plain_route, translate
from .connection import ClientConnection
from .pushes import Pushes
from .session import Session


class Speaks(Protocol):
    """What handles the frames of one connection."""

    subprotocol: str | None
    #: Whether its client is connected, as the protocol understands that.
    is_connected: bool

    def begin(self) -> Awaitable[object] | None: ...
    def receive(self, payload: bytes, text: bool) -> Awaitable[object] | None: ...
    def end(self) -> None: ...


class Speaking(Protocol):
    """How clients of a route speak."""

    name: str
    #: Where ``with_websockets(protocols=True)`` serves it.
    path: str
    #: Whether connections of users who are logged in join their user's own group.
    is_personal: bool

    def rules(self, declared: Rules | None) -> Rules | None: ...
    def connection(
        self, scope: Scope, view: Any, transport: AsgiTransport, home: str
    ) -> Connection: ...
    def session(self, consumer: Any, view: Any) -> Speaks: ...
    def pushes(self, counts: Any) -> Any: ...
    def decode(self, frame: bytearray, text: bool) -> Any: ...
    def encode(self, message: Any, meta: Any) -> str | bytes: ...


class Centrifuge:
    """The Centrifuge protocol. One object for all routes; also their codec, for their chains."""

    name = "centrifuge"
    path = "connection/websocket"
    is_personal = True

    translate = staticmethod(translate)

    def rules(self, declared: Rules | None) -> Rules | None:
        """The rules of a route."""
        return declared

    def connection(
        self, scope: Scope, view: Any, transport: AsgiTransport, home: str
    ) -> ClientConnection:
        """A connection that speaks it."""
        transport.translate = translate
        return ClientConnection(scope, view, transport, home)

    def session(self, consumer: Any, view: Any) -> Session:
        """What handles the frames of the connection of ``consumer``."""
        return Session(consumer, view)

    def pushes(self, counts: Any) -> Pushes:
        """What sends to the subscribers of one pipeline."""
        return Pushes(counts)

    def decode(self, frame: bytearray, text: bool) -> Any:
        """The message in data, which is JSON where it can be."""
        return from_bytes(bytes(frame)).value

    def encode(self, message: Any, meta: Any) -> str | bytes:
        """A message as it is published."""
        if isinstance(message, Data):
            return message.payload
        return bytes(message) if isinstance(message, BYTES) else dump_json(message)


#: What a site writes for the usual way to speak.
PLAIN = "plain"
PROTOCOLS: dict[str, Speaking] = {"centrifuge": Centrifuge()}
#: Those that are imported only for sites that use them.
OTHERS = {"pusher": "filtered_websocket.pusher.protocol.PUSHER"}


def served_protocols() -> Iterator[str]:
    """The names of those that ``with_websockets(protocols=True)`` serves."""
    yield from PROTOCOLS
    if conf.PUSHER_APPS or conf.PUSHER_APPS_IN_ADMIN:
        yield "pusher"


def find_protocol(name: Any) -> Speaking | None:
    """
    The protocol of this name, or without one that of ``PROTOCOL``; None for the plain one.
    :exc:`.PipelineError` for others.
    """
    chosen = conf.PROTOCOL if name is None else name
    if chosen == PLAIN:
        return None
    found = PROTOCOLS.get(chosen) if isinstance(chosen, str) else None
    if isinstance(chosen, str) and chosen in OTHERS:
        found = import_object(OTHERS[chosen])
    if found is None:
        known = ", ".join(map(repr, [PLAIN, *PROTOCOLS, *OTHERS]))
        raise PipelineError(f"there is no protocol {chosen!r:.80}.", f"Name one of {known}.", 30)
    return found


class Serves:
    """A part of the consumer."""

    scope: Scope
    connection: Connection
    pipeline: Pipeline
    hub: Any
    _view: Any
    _max_size: int
    _accepted: bool
    _reason: str
    _reader: Any
    #: Where the clients of the route speak a protocol.
    _session: Speaks | None = None

    if TYPE_CHECKING:

        async def send(self, message: Any) -> None: ...
        def _check_handshake(self) -> tuple[int, str] | None: ...
        async def _authenticate(self) -> tuple[int, str] | None: ...
        async def _refusal(self, handshake: Handshake) -> tuple[int, str] | None: ...

    # Plain

    def _receive_first(self, payload: bytes, text: bool) -> Awaitable[None]:
        """The first frame: of a client that speaks a protocol, the log says what it needs."""
        if self._reader.handle == self._receive_first:
            self._reader.handle = self._receive
            if is_connect(payload, self.scope.get("subprotocols", ())):
                log_plain_route(self.connection)
        return self._receive(payload, text)

    async def _receive(self, payload: bytes, text: bool) -> None:
        """One frame through the data chain, the codec and the message chain."""
        connection = self.connection
        if connection.deadline is not None and connection.is_expired(self.hub.loop.time()):
            connection.close(UNAUTHORIZED, "expired")
            return
        if len(payload) > self._max_size:
            connection.close(TOO_LARGE, f"a message has at most {self._max_size} bytes")
            return
        pipeline = self.pipeline
        token = text_event.set(text)
        try:
            frame = bytearray(payload)
            if pipeline.data.stages:
                frame = await pipeline.data.pipe(connection, frame)
            message = frame if pipeline.codec is None else pipeline.codec.decode(frame, text)
            if pipeline.message.awaits:
                await pipeline.message.arun(connection, message)
            else:
                pipeline.message.run(connection, message)
        except InvalidData as error:
            connection.close(BAD_MESSAGE, error.reason)
        except Drop as drop:
            self._view.dropped(drop, connection)
        except Close as close:
            connection.close(close.code, close.reason)
        except BaseException as error:
            if ends_the_task(error):
                raise
            pipeline.failed(error, connection)
            if conf.ON_ERROR == "close":
                connection.close(FILTER_ERROR, "a filter failed")
        finally:
            text_event.reset(token)

    # A protocol

    async def _open_session(self, session: Speaks) -> None:
        """Accept a connection that speaks a protocol, which is closed where it is refused."""
        limits = self.hub.limits
        refusal = self._check_handshake() or limits.enter(self.connection)
        if refusal is None:
            refusal = await self._authenticate() or limits.identified(self.connection)
        self._accepted = True
        try:
            await self.send({"type": "websocket.accept", "subprotocol": session.subprotocol})
        except Exception:
            self._accepted = False
            raise
        self.connection.transport.open()
        if refusal is not None:
            self.connection.close(*self.refused(*refusal))
        opening = session.begin()
        if opening is not None:
            await self._reader.guard(opening)

    async def admit(self) -> tuple[int, str] | None:
        """
        The client has introduced itself: run the connect chain and join groups. Code and
        reason of a refusal, which is logged, or None.
        """
        refusal = await self._refusal(Handshake(self.scope)) or self.connection.transport.closed
        if refusal is None:
            self._admit()
            return None
        return self.refused(*refusal)

    def refused(self, code: int, reason: str) -> tuple[int, str]:
        """Count and log that a connection which was accepted is refused; code and reason again."""
        log_refused(self.connection, code, self._reason or reason)
        return code, reason

    def _admit(self) -> None:
        """It is a connection of its pipeline from now on."""
        log_accepted(self.connection)
        self._view.connections[self.connection.id] = self.connection

    @property
    def _stood(self) -> bool:
        """Whether the connection was one, so that its disconnect chain runs."""
        return self._accepted if self._session is None else self._session.is_connected
