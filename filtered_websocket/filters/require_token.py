"""Let nobody connect but bearers of a token."""

from typing import Any

from ..close_codes import UNAUTHORIZED
from ..exceptions import Close
from .base import WebSocketConnectFilter


class RequireTokenFilter(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any) -> None:
        # Not what a filter before this one may have set on the connection.
        identity = web_socket_instance.identity
        if identity is None or identity.token is None:
            raise Close(UNAUTHORIZED, "a token is required")
