"""A module with one filter of its own, and one that it only imports."""

from tests.examples import Shout, WebSocketMessageFilter

__all__ = ["Pop", "Shout"]


class Pop(WebSocketMessageFilter):
    depth: int = 1

    @classmethod
    def filter(cls, web_socket_instance, data):
        del data[-cls.depth :]


alias = Pop
