"""
daphne's WebSocket protocol with limits that an ASGI application cannot enforce.

Only methods that daphne, autobahn and Twisted document for overriding are overridden, and
none of their private names is used.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from autobahn.websocket.types import ConnectionDeny
from daphne.ws_protocol import WebSocketProtocol

from ..close_codes import BAD_MESSAGE, NO_PONG, TOO_LARGE

#: From the TCP connection to the end of its request, seconds, also for slow senders.
REQUEST_TIMEOUT = 10.0
#: Bytes that may arrive before the handshake is answered.
MAX_EARLY = 65_536
#: Fragments of one message, or TCP segments of it.
MAX_FRAGMENTS = 16_384
#: How long one message may take to arrive, seconds; checked every two.
MESSAGE_TIMEOUT = 10.0
#: How often a client is pinged, however much it sends, and how long it has to answer,
#: seconds; checked every two.
PING_INTERVAL = 20.0
PONG_TIMEOUT = 20.0


class Protocol(WebSocketProtocol):
    """One WebSocket connection of the stand-alone server."""

    last_ping: float

    def connectionMade(self) -> None:
        super().connectionMade()
        self._opened = time.monotonic()
        self._is_write_paused = False
        self._ping: bytes | None = None
        self._unfinished: tuple[Any, float] = (None, 0.0)
        self._pinged_at = self._ponged_at = 0.0
        # Instead of the HTTP channel, which is not used any more.
        self.unregisterProducer()
        self.registerProducer(self, True)
        # Where bytes came together with the request, against RFC 6455 section 4.1, the
        # channel takes them for a next request and pauses reading, for ever.
        self.factory.reactor.callLater(0, self.transport.resumeProducing)

    # The handshake

    def processHandshake(self) -> None:
        # While the application decides, autobahn would parse a second request, whenever
        # more bytes arrive.
        if not hasattr(self, "handshake_deferred"):
            super().processHandshake()

    def onConnect(self, request: Any) -> Any:
        # daphne joins headers of one name, so that two Host headers become one wrong one
        # (RFC 9112 section 3.2). It logs text that is not ASCII as an error of its own.
        headers = request.headers
        offered = headers.get("sec-websocket-protocol", "")
        if "," in headers.get("host", "") or not offered.isascii():
            raise ConnectionDeny(ConnectionDeny.BAD_REQUEST)
        return super().onConnect(request)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Answer with the status phrase only: autobahn's reasons contain reprs."""
        super().failHandshake(HTTPStatus(code).phrase, code, responseHeaders)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # Where the handshake failed, daphne does not know the connection.
        if hasattr(self, "server"):
            super().onClose(wasClean, code, reason)

    # What arrives

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_CONNECTING and len(self.data) + len(data) > MAX_EARLY:
            self.transport.abortConnection()
        else:
            super().dataReceived(data)

    def onMessageFrameBegin(self, length: int) -> None:
        if not self.failedByMe:
            size = self.message_data_total_length + length
            if size > self.maxMessagePayloadSize:
                # Autobahn would reset the connection, without a code or reason.
                self._fail(TOO_LARGE, f"a message has at most {self.maxMessagePayloadSize} bytes")
            elif len(self.message_data) >= MAX_FRAGMENTS:
                self._fail(TOO_LARGE, f"a message has at most {MAX_FRAGMENTS} fragments")
        super().onMessageFrameBegin(length)

    def _fail(self, code: int, reason: str) -> None:
        """Close, and ignore everything that arrives from now on."""
        self.failedByMe = True
        self.sendClose(code, reason)

    def onPing(self, payload: bytes) -> None:
        """While the client does not read, only the last ping is kept to be answered."""
        if self._is_write_paused:
            self._ping = payload
        else:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Also called by the transport while the client is not read."""
        super().onPong(payload)
        self._ponged_at = self.duration()

    # What leaves

    def handle_reply(self, message: Any) -> None:
        """daphne's, but empty messages and close reasons are sent."""
        if self.state == self.STATE_OPEN and message.get("type") == "websocket.send":
            text = message.get("text")
            self.sendMessage(message["bytes"] if text is None else text.encode(), text is None)
        elif self.state == self.STATE_OPEN and message.get("type") == "websocket.close":
            self.sendClose(message.get("code") or 1000, message.get("reason"))
        else:
            super().handle_reply(message)

    def pauseProducing(self) -> None:
        """Twisted: the write buffer is full."""
        self._is_write_paused = True

    def resumeProducing(self) -> None:
        """Twisted: the write buffer is empty again."""
        self._is_write_paused = False
        ping, self._ping = self._ping, None
        if ping is not None:
            self.sendPong(ping)

    def stopProducing(self) -> None:
        """Twisted: the connection is lost. ``connectionLost`` is called, too."""

    # Time, by the monotonic clock

    def duration(self) -> float:
        return time.monotonic() - self._opened

    def check_timeouts(self) -> None:
        """daphne calls it every two seconds."""
        # Were the clock set back, pings would stop until it reached the old time.
        self.last_ping = min(self.last_ping, time.time())
        super().check_timeouts()
        message = getattr(self, "message_data", None)
        noticed, since = self._unfinished
        if message is None or message is not noticed:
            self._unfinished = (message, self.duration())
        elif self.duration() - since >= MESSAGE_TIMEOUT and not self.failedByMe:
            self._fail(BAD_MESSAGE, f"a message arrives within {MESSAGE_TIMEOUT:.0f} seconds")
        if self.state == self.STATE_OPEN:
            self._check_pong()

    def _check_pong(self) -> None:
        """Ping every client: daphne pings only those that send nothing."""
        now = self.duration()
        if self._pinged_at <= self._ponged_at:
            if now - self._ponged_at >= PING_INTERVAL:
                self.sendPing(b"fws")
                self._pinged_at = now
        elif now - self._pinged_at >= PONG_TIMEOUT:
            self._fail(NO_PONG, f"a ping is answered within {PONG_TIMEOUT:.0f} seconds")


class FixedTimeout:
    """A timer that cannot be reset to a later time."""

    def __init__(self, call: Any) -> None:
        self.cancel = call.cancel
        self.active = call.active

    def reset(self, seconds: float) -> None:
        """Does nothing: bytes from the client do not extend the time."""


def with_deadline(build: Callable[[Any], Any], reactor: Any) -> Callable[[Any], Any]:
    """
    ``buildProtocol`` of an HTTP factory whose connections have ``REQUEST_TIMEOUT`` seconds
    in all to send their request; Twisted's own timeout starts again with every byte.
    """

    def build_with_deadline(address: Any) -> Any:
        end = reactor.seconds() + REQUEST_TIMEOUT

        def call_later(delay: float, function: Callable[..., Any], *args: Any) -> FixedTimeout:
            left = max(0.0, end - reactor.seconds())
            return FixedTimeout(reactor.callLater(min(delay, left), function, *args))

        channel = build(address)
        channel.callLater = call_later
        return channel

    return build_with_deadline
