"""Tokens and tickets, apps of the Pusher protocol, and the permissions of the console."""

from .console import Console
from .pusher import PusherApp
from .tokens import LAST_USED_EVERY, State, Ticket, Token, TokenManager, check_group_name

__all__ = [
    "LAST_USED_EVERY",
    "Console",
    "PusherApp",
    "State",
    "Ticket",
    "Token",
    "TokenManager",
    "check_group_name",
]
