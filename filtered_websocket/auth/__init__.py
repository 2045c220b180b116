"""Authentication: credentials, tokens and tickets, and whether they are still valid."""

from .authenticators import (
    HeaderAuthenticator,
    QueryAuthenticator,
    SessionAuthenticator,
    SubprotocolAuthenticator,
    TicketAuthenticator,
)

__all__ = [
    "HeaderAuthenticator",
    "QueryAuthenticator",
    "SessionAuthenticator",
    "SubprotocolAuthenticator",
    "TicketAuthenticator",
]
