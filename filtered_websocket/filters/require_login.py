"""Refuse connections without a logged-in user (of a session, a ticket or a token)."""

from typing import Any

from ..close_codes import UNAUTHORIZED
from ..exceptions import Close
from .base import WebSocketConnectFilter


class RequireLoginFilter(WebSocketConnectFilter):
    @classmethod
    def filter(cls, web_socket_instance: Any) -> None:
        user = web_socket_instance.user
        if user is None or not user.is_authenticated:
            raise Close(UNAUTHORIZED, "log in first")
