"""Who connects: credentials, what they open, and whether they still hold."""

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
