"""
daphne's WebSocket protocol, with what it loses.

Only what daphne, autobahn and Twisted offer to override is overridden, and none of their
private names is used.
"""

from http import HTTPStatus
from typing import Any

from daphne.ws_protocol import WebSocketProtocol


class Protocol(WebSocketProtocol):
    """One WebSocket connection of our own server."""

    # The handshake

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Say no more than HTTP does: no reprs, no words of a codec."""
        super().failHandshake(HTTPStatus(code).phrase, code, responseHeaders)

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

    # Time, which the wall clock does not tell
