"""
daphne's lane: a frame is written to the socket at once where nothing is buffered, else it
is added to the buffer.

``Server.handle_reply`` takes about 20 microseconds per frame, and Twisted's ``write``
sends in the next iteration of the reactor; a direct write takes 2.
"""

import asyncio
import math
import random
import sys
from collections.abc import Callable, Collection, Set
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

from ..close_codes import RESTART
from ..codecs.frames import Bundle, Frame
from ..conf import conf
from ..logs import get_logger
from ..types import Receive, Send
from .asgi import AsgiTransport
from .daphne_costs import cut_costs_of_logging, spread_checks
from .daphne_reading import read_short_frames
from .inbox import MessageQueue, SocketReader, limit_queue
from .lane import NOBODY, Lane

logger = get_logger(__name__)

#: daphne ends every connection after ``--websocket_timeout`` (one day), without a code that
#: says to come back. Here it is closed this much earlier, seconds: at random, so that
#: connections that were opened together do not return together.
CLOSE_EARLIER = (10.0, 60.0)
#: How long a process that ends waits for the answer to a close frame, seconds.
ANSWER_TIMEOUT = 1.0

TWISTED = ("twisted.internet.tcp", "twisted.internet.unix", "twisted.protocols.tls")
#: Methods of the protocol that send bytes. A subclass must not override them.
SENDING_METHODS = ("sendClose", "sendData", "sendMessage")
#: Attributes used of daphne's protocol object, and of Twisted's transport below it.
protocol_attributes = attrgetter(
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
socket_attributes = attrgetter(
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


class DaphneTransport(Lane):
    """
    Sends by daphne's own protocol object, so that close reasons and empty messages arrive,
    which daphne's ASGI loses. What daphne buffers is limited: unsent bytes by
    ``MAX_OUTBOX``, frames that were not received yet by ``MAX_INBOX``.
    """

    __slots__ = ("_answer_by", "_lifetime", "_open_state", "_protocol", "_reader", "_socket")
    server: ClassVar[str] = "daphne"

    def __init__(
        self,
        protocol: Any,
        socket: Any,
        send: Send,
        max_unsent: int,
        on_end: Callable[[int, str], None],
    ) -> None:
        super().__init__(send, max_unsent, on_end)
        self._protocol = protocol
        self._socket = socket
        self._open_state = protocol.STATE_OPEN
        self._reader = SocketReader(protocol, socket, conf.MAX_INBOX)
        self._lifetime: asyncio.TimerHandle | None = None
        #: Nobody waits for an answer to the close frame after this time of the event loop.
        self._answer_by = math.inf

    def open(self) -> None:
        limit_queue(self._protocol.application_queue, self._reader)
        read_short_frames(self._protocol)
        spread_checks(self._protocol.server)
        left = _lifetime(self._protocol)
        if left is not None:
            loop = asyncio.get_running_loop()
            reason = "open for as long as this server allows: connect again"
            self._lifetime = loop.call_later(left, self.close, RESTART, reason)
        super().open()

    def inbox_of(self, receive: Receive) -> MessageQueue | None:
        queue = self._protocol.application_queue
        is_bare = getattr(receive, "__self__", None) is queue
        return queue if is_bare and isinstance(queue, MessageQueue) else None

    @property
    def disconnected(self) -> bool:
        return not self._socket.connected

    @property
    def leaving(self) -> bool:
        # Until the client answers the close frame; what it has not read yet is not lost when
        # the process ends.
        now = asyncio.get_running_loop().time()
        return bool(self._socket.connected and (now < self._answer_by or self._buffered()))

    def _set_closed(self, code: int, reason: str) -> None:
        # The client's answer to the close frame comes after what is unread.
        self._reader.finish()
        if self._lifetime is not None:
            self._lifetime.cancel()
        super()._set_closed(code, reason)

    def _buffered(self) -> int:
        socket, protocol = self._socket, self._protocol
        unsent: int = len(socket.dataBuffer) - socket.offset + socket._tempDataLen
        if protocol.send_queue:
            unsent += sum(len(data) for data, _ in protocol.send_queue)
        return unsent

    async def _send_frame(self, frame: Frame) -> None:
        # In any other state the server reports the end of the connection itself.
        if self._protocol.state == self._open_state:
            self._protocol.sendMessage(frame.payload, not frame.text)

    async def send_close(self, code: int, reason: str) -> None:
        # Autobahn then resets the connection, and what the client has not read is lost. Its
        # default of 1 s is short for a slow network, a full buffer, or where thousands of
        # connections are closed at once.
        self._protocol.closeHandshakeTimeout = self.close_timeout
        self._answer_by = asyncio.get_running_loop().time() + ANSWER_TIMEOUT
        if self._protocol.state == self._open_state:
            self._protocol.sendClose(code, reason)


class DaphneTls(DaphneTransport):
    """TLS: written only through daphne, by one writer task per connection."""

    __slots__ = ()

    lane: ClassVar[str] = "daphne's protocol, under TLS"

    def _buffered(self) -> int:
        # And what is not encrypted yet.
        return super()._buffered() + sum(map(len, self._protocol.transport._appSendBuffer))


class DaphneLane(DaphneTransport):
    """A plain TCP or Unix socket, which is written to directly."""

    __slots__ = ("_send_now",)

    lane: ClassVar[str] = "daphne's lane, written straight to the socket"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._send_now: Callable[[bytes], int] = self._socket.socket.send

    def open(self) -> None:
        protocol = self._protocol
        # Known after the handshake.
        self._direct = protocol._perMessageCompress is None and not protocol.maskServerFrames
        super().open()

    @staticmethod
    def write_directly(
        transports: Collection[AsgiTransport],
        frame: Frame | Bundle,
        skipped: Set[AsgiTransport] = NOBODY,
    ) -> None:
        # In one function: of a message to many, calls would cost as much as the rest.
        wire = frame.wire or frame.encode()
        size = len(wire)
        for transport in transports:
            if transport in skipped:
                continue
            if not isinstance(transport, DaphneLane) or not (transport._idle and transport._direct):
                transport.write(frame)
                continue
            protocol, socket = transport._protocol, transport._socket
            if (
                protocol.state != transport._open_state
                or not socket.connected
                or socket.disconnecting
            ):
                continue  # the server reports the end of the connection itself
            try:
                if (
                    socket.dataBuffer
                    or socket._tempDataLen
                    or protocol.send_queue
                    or size > transport._max_unsent
                ):
                    transport._write_behind(frame, wire)
                    continue
                try:
                    sent = transport._send_now(wire)
                except OSError:
                    # The system's buffer is full, or the connection is lost: the reactor
                    # finds out.
                    sent = 0
                if sent != size:
                    socket.write(wire[sent:])
            except Exception as error:
                transport._fail_soon(error)

    def _write_behind(self, frame: Frame | Bundle, wire: bytes) -> None:
        """Add to the buffer, behind other frames: a direct write would change the order."""
        if len(frame.parts) > 1:
            for part in frame.parts:
                self.write(part)
        elif self.unsent + len(wire) > self._max_unsent:
            self.overflow(is_kept=frame.is_kept)
        else:
            self._protocol.sendData(wire)


def _lifetime(protocol: Any) -> float | None:
    """Seconds until ``protocol`` is to be closed; None where daphne does not close it."""
    allowed = getattr(protocol.server, "websocket_timeout", None)
    duration = getattr(protocol, "duration", None)
    if not isinstance(allowed, int | float) or allowed < 0 or not callable(duration):
        return None
    # A tenth of a short time.
    earlier = min(random.uniform(*CLOSE_EARLIER), allowed / 10)
    left: float = allowed - earlier - duration()
    return max(0.0, left)


def find_daphne(
    bare: Any, send: Send, max_unsent: int, on_end: Callable[[int, str], None]
) -> AsgiTransport | None:
    """A transport if ``bare`` is daphne's ``send`` and its objects are as expected."""
    protocol = _protocol(bare)
    if protocol is None:
        return None
    tcp, unix, tls = map(sys.modules.get, TWISTED)
    try:
        protocol_attributes(protocol)
        # Where there are no Unix sockets (Windows), Twisted does not import that module.
        plain = {module.Server for module in (tcp, unix) if module is not None}
        wrappers = {tls.TLSMemoryBIOProtocol, tls.BufferingTLSTransport}  # type: ignore[union-attr]
        transport = protocol.transport
        # Compare types exactly: a TLS transport passes unknown attributes on to the raw
        # socket, so that a write to what "hasattr" finds would not be encrypted.
        is_wrapped = type(transport) in wrappers
        socket = transport.transport if is_wrapped else transport
        if type(socket) not in plain or socket.TLS:
            return None
        if is_wrapped:
            _ = transport._appSendBuffer
        socket_attributes(socket)
    except AttributeError as error:
        logger.warning(
            "frames are sent by plain ASGI: this release of daphne differs from those that this"
            " package supports (%s)",
            error,
        )
        return None
    cut_costs_of_logging()
    return (DaphneTls if is_wrapped else DaphneLane)(protocol, socket, send, max_unsent, on_end)


def _protocol(bare: Any) -> Any:
    """The protocol object in ``partial(Server.handle_reply, protocol)``."""
    if type(bare) is not partial or bare.keywords or len(bare.args) != 1:
        return None
    # Looked up, not imported: importing daphne installs a reactor.
    handle_reply = getattr(bare.func, "__func__", None)
    server = getattr(sys.modules.get("daphne.server"), "Server", None)
    if server is None or handle_reply is not server.handle_reply:
        return None
    protocol = bare.args[0]
    known = getattr(sys.modules.get("daphne.ws_protocol"), "WebSocketProtocol", None)
    # A subclass is supported unless it overrides how bytes are sent.
    if known is None or not isinstance(protocol, known):
        return None
    same = (getattr(type(protocol), way) is getattr(known, way, None) for way in SENDING_METHODS)
    return protocol if all(same) else None
