"""
Send messages to the members of a token's broadcast group.

A client that sends ``token:KEY`` joins the group of the token with that key; messages it
sends afterwards reach the other members of that group, in all processes. A client that
connected with a token is in its group from the start.
"""

import re
from typing import Any

from ..exceptions import Drop
from .base import WebSocketConnectFilter, WebSocketMessageFilter

#: Longest key that is looked up, characters.
MAX_TOKEN = 128
#: A key that this package made.
KEY = re.compile(rb"fws_[A-Za-z0-9_-]{43}")


class TokenConnectFilter(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, web_socket_instance: Any) -> None:
        await web_socket_instance.use_token()


class TokenMessageFilter(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance: Any, message: bytearray) -> None:
        key = cls.find_key(message)
        token = web_socket_instance.token
        group = getattr(token, "group_name", None)
        if len(key) > MAX_TOKEN:
            web_socket_instance.push(f"Error: A token has at most {MAX_TOKEN} characters")
        elif key:
            await cls.register(web_socket_instance, key)
        elif isinstance(message, bytes | bytearray) and KEY.search(message):
            # A misspelt registration: the key must not be published or printed.
            web_socket_instance.push("Error: Unknown token")
            raise Drop
        elif group is None:
            web_socket_instance.push("Error: No token has been set")
        elif not token.can_publish:
            web_socket_instance.push("Error: This token may not publish")
        else:
            web_socket_instance.publish(message, group)

    @staticmethod
    def find_key(message: Any) -> str:
        """The text after the first ``token:``, up to white space; empty if there is none."""
        if not isinstance(message, bytes | bytearray):
            return ""
        _, _, rest = message.partition(b"token:")
        words = rest.split(maxsplit=1)
        if not words or not rest.startswith(words[0]):
            return ""
        return words[0].decode("utf-8", "backslashreplace")

    @staticmethod
    async def register(web_socket_instance: Any, key: str) -> None:
        token = await web_socket_instance.use_token(key)
        if token is None:
            web_socket_instance.push("Error: Unknown token")
            raise Drop
        label = token.label
        web_socket_instance.push(f"Successfully registered with broadcast group: {label}")
        if not token.is_open:
            # The message holds a secret key: later filters must not see it.
            raise Drop
