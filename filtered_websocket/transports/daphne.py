"""
daphne's lane: a frame is written to the socket at once where nothing is buffered, else
it joins what is.

``Server.handle_reply`` takes about 20 microseconds per frame, and Twisted's ``write``
waits for the reactor's next turn; a direct write takes 2.
"""

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

from ..codecs.frames import Bundle, Frame
from ..conf import conf
from ..logs import get_logger
from ..types import Send
from .asgi import AsgiTransport
from .daphne_reading import take_short_frames
from .daphne_rounds import spread_rounds
from .inbox import Gate, bound

logger = get_logger(__name__)

TWISTED = ("twisted.internet.tcp", "twisted.internet.unix", "twisted.protocols.tls")
#: Methods of the protocol by which bytes leave.
WAYS_OUT = ("sendClose", "sendData", "sendMessage")
#: What is used of daphne's protocol object, and of Twisted's transport below it.
look_at_protocol = attrgetter(
    "STATE_OPEN",
    "_perMessageCompress",
    "application_queue",
    "closeHandshakeTimeout",
    "last_ping",
    "maskServerFrames",
    "sendClose",
    "sendData",
    "sendMessage",
    "sendPing",
    "send_queue",
    "server",
    "state",
    "transport",
)
look_at_socket = attrgetter(
    "TLS",
    "_tempDataLen",
    "connected",
    "dataBuffer",
    "disconnecting",
    "fileno",
    "offset",
    "pauseProducing",
    "resumeProducing",
    "socket.send",
    "write",
)


class DaphneTransport(AsgiTransport):
    """
    daphne's own protocol object: what ASGI loses (the reason of a close, empty
    messages) arrives, and what daphne holds counts: unsent against ``MAX_OUTBOX``, and
    not asked for yet against ``MAX_INBOX``.
    """

    __slots__ = ("_gate", "_open_state", "_protocol", "_socket")

    def __init__(
        self,
        protocol: Any,
        socket: Any,
        send: Send,
        max_unsent: int,
        on_over: Callable[[int, str], None],
    ) -> None:
        super().__init__(send, max_unsent, on_over)
        self._protocol = protocol
        self._socket = socket
        self._open_state = protocol.STATE_OPEN
        self._gate = Gate(protocol, socket)

    def open(self) -> None:
        bound(self._protocol.application_queue, self._gate, conf.MAX_INBOX)
        take_short_frames(self._protocol)
        spread_rounds(self._protocol.server)
        super().open()

    @property
    def leaving(self) -> bool:
        # Until its answer to the close frame, or the end of autobahn's patience.
        return bool(self._socket.connected)

    def _ended(self, code: int, reason: str) -> None:
        # The answer to a close frame stands behind what is unread.
        self._gate.finish()
        super()._ended(code, reason)

    def _buffered(self) -> int:
        socket, protocol = self._socket, self._protocol
        unsent: int = len(socket.dataBuffer) - socket.offset + socket._tempDataLen
        if protocol.send_queue:
            unsent += sum(len(data) for data, _ in protocol.send_queue)
        return unsent

    async def _send_frame(self, frame: Frame) -> None:
        # In any other state the server tells the end of the connection itself.
        if self._protocol.state == self._open_state:
            self._protocol.sendMessage(frame.payload, not frame.text)

    async def send_close(self, code: int, reason: str) -> None:
        if self._buffered():
            # Autobahn's second is short for a close frame behind a full buffer.
            self._protocol.closeHandshakeTimeout = self.close_timeout
        if self._protocol.state == self._open_state:
            self._protocol.sendClose(code, reason)


class DaphneTls(DaphneTransport):
    """TLS: never written to but through daphne, one writer task per connection."""

    __slots__ = ()

    lane: ClassVar[str] = "daphne's protocol, under TLS"

    def _buffered(self) -> int:
        # And what waits to be encrypted.
        return super()._buffered() + sum(map(len, self._protocol.transport._appSendBuffer))


class DaphneLane(DaphneTransport):
    """A plain socket, TCP or Unix, that is written to directly."""

    __slots__ = ("_direct", "_send_now")

    lane: ClassVar[str] = "daphne's lane, written straight to the socket"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._send_now: Callable[[bytes], int] = self._socket.socket.send
        # Decided by the handshake's outcome.
        self._direct = False

    def open(self) -> None:
        protocol = self._protocol
        self._direct = protocol._perMessageCompress is None and not protocol.maskServerFrames
        super().open()

    def write(self, frame: Frame | Bundle, done: "asyncio.Future[None] | None" = None) -> None:
        if not self._idle or not self._direct or done is not None:
            super().write(frame, done)
            return
        protocol, socket = self._protocol, self._socket
        if protocol.state != self._open_state or not socket.connected or socket.disconnecting:
            return  # the server tells the end of the connection itself
        try:
            wire = frame.wire or frame.encode()
            size = len(wire)
            if (
                socket.dataBuffer
                or socket._tempDataLen
                or protocol.send_queue
                or size > self._max_unsent
            ):
                self._write_behind(frame, wire)
                return
            try:
                sent = self._send_now(wire)
            except OSError:
                # It takes no more, or is dead, which the reactor finds out.
                sent = 0
            if sent != size:
                socket.write(wire[sent:])
        except Exception as error:
            self._fail(error)
            asyncio.get_running_loop().call_soon(self._end)

    def _write_behind(self, frame: Frame | Bundle, wire: bytes) -> None:
        """A direct write would overtake what is buffered, be it a close frame."""
        if len(frame.parts) > 1:
            for part in frame.parts:
                self.write(part)
        elif self.unsent + len(wire) > self._max_unsent:
            self._overflow()
        else:
            self._protocol.sendData(wire)


def find_daphne(
    bare: Any, send: Send, max_unsent: int, on_over: Callable[[int, str], None]
) -> AsgiTransport | None:
    """A transport where ``bare`` is daphne's own ``send`` and all below is as known."""
    protocol = _protocol(bare)
    if protocol is None:
        return None
    tcp, unix, tls = map(sys.modules.get, TWISTED)
    try:
        look_at_protocol(protocol)
        plain = {tcp.Server, unix.Server}  # type: ignore[union-attr]
        wrappers = {tls.TLSMemoryBIOProtocol, tls.BufferingTLSTransport}  # type: ignore[union-attr]
        transport = protocol.transport
        # Exactly: a TLS transport hands unknown names on to the raw socket, so that a
        # frame written through what "hasattr" finds would leave in clear.
        is_wrapped = type(transport) in wrappers
        socket = transport.transport if is_wrapped else transport
        if type(socket) not in plain or socket.TLS:
            return None
        if is_wrapped:
            _ = transport._appSendBuffer
        look_at_socket(socket)
    except AttributeError as error:
        logger.warning("daphne is not as this package knows it: %s", error)
        return None
    return (DaphneTls if is_wrapped else DaphneLane)(protocol, socket, send, max_unsent, on_over)


def _protocol(bare: Any) -> Any:
    """The protocol object in ``partial(Server.handle_reply, protocol)``."""
    if type(bare) is not partial or bare.keywords or len(bare.args) != 1:
        return None
    # Looked up, not imported: to import daphne installs a reactor.
    handle_reply = getattr(bare.func, "__func__", None)
    server = getattr(sys.modules.get("daphne.server"), "Server", None)
    if server is None or handle_reply is not server.handle_reply:
        return None
    protocol = bare.args[0]
    known = getattr(sys.modules.get("daphne.ws_protocol"), "WebSocketProtocol", None)
    # A subclass is welcome that leaves alone how bytes leave.
    if known is None or not isinstance(protocol, known):
        return None
    same = (getattr(type(protocol), way) is getattr(known, way, None) for way in WAYS_OUT)
    return protocol if all(same) else None
