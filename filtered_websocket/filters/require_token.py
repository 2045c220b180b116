"""Refuse connections that did not send a valid token."""

from typing import Any

from ..close_codes import UNAUTHORIZED
from ..exceptions import Close
from .base import WebSocketConnectFilter


class RequireTokenFilter(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any) -> None:
        # Not web_socket_instance.token: any filter may have set that.
        identity = web_socket_instance.identity
        if identity is None or identity.token is None:
            raise Close(UNAUTHORIZED, "a token is required")
