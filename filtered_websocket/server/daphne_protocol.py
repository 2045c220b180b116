"""
daphne's WebSocket protocol, held to bounds that no application can keep.

Only what daphne, autobahn and Twisted offer to override is overridden, and none of their
private names is used.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from autobahn.websocket.types import ConnectionDeny
from daphne.ws_protocol import WebSocketProtocol

from ..close_codes import BAD_MESSAGE, NO_PONG, TOO_LARGE

#: From the TCP connection to the end of its request, seconds, however busily it drips.
REQUEST_TIMEOUT = 10.0
#: Bytes that may come before the handshake is answered.
MAX_EARLY = 65_536
#: Fragments of one message, or pieces that TCP made of them.
MAX_FRAGMENTS = 16_384
#: How long one message may take to arrive, seconds; looked at every two.
MESSAGE_TIMEOUT = 10.0
#: How often a client is asked whether it is there, however much it sends, and how long it
#: has to answer, seconds; looked at every two.
PING_INTERVAL = 20.0
PONG_TIMEOUT = 20.0


class Protocol(WebSocketProtocol):
    """One WebSocket connection of our own server."""

    last_ping: float

    def connectionMade(self) -> None:
        super().connectionMade()
        self._opened = time.monotonic()
        self._clogged = False
        self._ping: bytes | None = None
        self._unfinished: tuple[Any, float] = (None, 0.0)
        self._asked = self._answered = 0.0
        # In the place of the HTTP channel's, which has done its work.
        self.unregisterProducer()
        self.registerProducer(self, True)
        # Of what came together with the request, against RFC 6455 section 4.1, the channel
        # takes some for a next request, and stops reading for it: nobody would go on.
        self.factory.reactor.callLater(0, self.transport.resumeProducing)

    # The handshake

    def processHandshake(self) -> None:
        # While the application decides, autobahn would look for a second request in all
        # that has come since, whenever more comes.
        if not hasattr(self, "handshake_deferred"):
            super().processHandshake()

    def onConnect(self, request: Any) -> Any:
        # daphne joins headers of one name, and takes more than one Host for a strange one
        # (RFC 9112 section 3.2); text that is no ASCII it logs as an error of its own.
        headers = request.headers
        offered = headers.get("sec-websocket-protocol", "")
        if "," in headers.get("host", "") or not offered.isascii():
            raise ConnectionDeny(ConnectionDeny.BAD_REQUEST)
        return super().onConnect(request)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Say no more than HTTP does: no reprs, no words of a codec."""
        super().failHandshake(HTTPStatus(code).phrase, code, responseHeaders)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # Where the handshake failed, daphne has not been told of the connection.
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
                # Autobahn would reset the connection: nobody could say why.
                self._fail(TOO_LARGE, f"a message has at most {self.maxMessagePayloadSize} bytes")
            elif len(self.message_data) >= MAX_FRAGMENTS:
                self._fail(TOO_LARGE, f"a message has at most {MAX_FRAGMENTS} fragments")
        super().onMessageFrameBegin(length)

    def _fail(self, code: int, reason: str) -> None:
        """Close, and let nothing more of what arrives reach the application."""
        self.failedByMe = True
        self.sendClose(code, reason)

    def onPing(self, payload: bytes) -> None:
        """A client that does not read gets one pong, of the last ping, when it does."""
        if self._clogged:
            self._ping = payload
        else:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Also called where the client is not read, and so cannot be heard."""
        super().onPong(payload)
        self._answered = self.duration()

    # What leaves

    def handle_reply(self, message: Any) -> None:
        """daphne's, with the empty messages and the reasons that it loses."""
        if self.state == self.STATE_OPEN and message.get("type") == "websocket.send":
            text = message.get("text")
            self.sendMessage(message["bytes"] if text is None else text.encode(), text is None)
        elif self.state == self.STATE_OPEN and message.get("type") == "websocket.close":
            self.sendClose(message.get("code") or 1000, message.get("reason"))
        else:
            super().handle_reply(message)

    def pauseProducing(self) -> None:
        """Twisted's word for "the socket takes no more"."""
        self._clogged = True

    def resumeProducing(self) -> None:
        """Twisted's word for "all has left"."""
        self._clogged = False
        ping, self._ping = self._ping, None
        if ping is not None:
            self.sendPong(ping)

    def stopProducing(self) -> None:
        """Twisted's word for "the connection is lost", which comes otherwise too."""

    # Time, which the wall clock does not tell

    def duration(self) -> float:
        return time.monotonic() - self._opened

    def check_timeouts(self) -> None:
        """daphne calls it every two seconds."""
        # A clock that was set back would stop the pings until it has caught up.
        self.last_ping = min(self.last_ping, time.time())
        super().check_timeouts()
        message = getattr(self, "message_data", None)
        noticed, since = self._unfinished
        if message is None or message is not noticed:
            self._unfinished = (message, self.duration())
        elif self.duration() - since >= MESSAGE_TIMEOUT and not self.failedByMe:
            self._fail(BAD_MESSAGE, f"a message arrives within {MESSAGE_TIMEOUT:.0f} seconds")
        if self.state == self.STATE_OPEN:
            self._look_for_life()

    def _look_for_life(self) -> None:
        """daphne takes any data for a sign of life, and asks only who is idle."""
        now = self.duration()
        if self._asked <= self._answered:
            if now - self._answered >= PING_INTERVAL:
                self.sendPing(b"fws")
                self._asked = now
        elif now - self._asked >= PONG_TIMEOUT:
            self._fail(NO_PONG, f"a ping is answered within {PONG_TIMEOUT:.0f} seconds")


class Timeout:
    """A timer that nothing puts off."""

    def __init__(self, call: Any) -> None:
        self.cancel = call.cancel
        self.active = call.active

    def reset(self, seconds: float) -> None:
        """The peer has sent something: no reason to wait longer."""


def with_deadline(build: Callable[[Any], Any], reactor: Any) -> Callable[[Any], Any]:
    """
    ``buildProtocol`` of an HTTP factory whose connections have ``REQUEST_TIMEOUT``
    seconds in all to ask for a WebSocket; Twisted's timeout begins anew with every byte.
    """

    def build_with_deadline(address: Any) -> Any:
        end = reactor.seconds() + REQUEST_TIMEOUT

        def call_later(delay: float, function: Callable[..., Any], *args: Any) -> Timeout:
            left = max(0.0, end - reactor.seconds())
            return Timeout(reactor.callLater(min(delay, left), function, *args))

        channel = build(address)
        channel.callLater = call_later
        return channel

    return build_with_deadline
