"""
Send messages to those who share a token.

A client that sends ``token:abc`` joins the group ``token:abc``; what it sends from
then on reaches the other members of that group, in all processes.
"""

from typing import Any

from .base import WebSocketMessageFilter

#: Characters.
MAX_TOKEN = 128


class TokenMessageFilter(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance: Any, message: bytearray) -> None:
        token = cls.find_token(message)
        if len(token) > MAX_TOKEN:
            web_socket_instance.push(f"Error: A token has at most {MAX_TOKEN} characters")
        elif token:
            await cls.register(web_socket_instance, token)
        elif web_socket_instance.token is not None:
            web_socket_instance.publish(message, f"token:{web_socket_instance.token}")
        else:
            web_socket_instance.push("Error: No token has been set")

    @staticmethod
    def find_token(message: Any) -> str:
        """What follows the first ``token:`` up to white space; empty where nothing does."""
        if not isinstance(message, bytes | bytearray):
            return ""
        _, _, rest = message.partition(b"token:")
        words = rest.split(maxsplit=1)
        if not words or not rest.startswith(words[0]):
            return ""
        return words[0].decode("utf-8", "backslashreplace")

    @staticmethod
    async def register(web_socket_instance: Any, token: str) -> None:
        """Move the connection from its token's group, if any, to the new one's."""
        if web_socket_instance.token not in (None, token):
            await web_socket_instance.leave(f"token:{web_socket_instance.token}")
        await web_socket_instance.join(f"token:{token}")
        web_socket_instance.token = token
        web_socket_instance.push(f"Successfully registered with broadcast group: {token}")
