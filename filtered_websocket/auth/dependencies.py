"""What an identity depends on: rows that may change, and moments when it expires."""

from ..types import Identity
from .keys import digest_of
from .validity import is_token, is_user

#: "user", "token" or "session", and which one.
Dependency = tuple[str, str]


def dependencies(identity: Identity) -> list[Dependency]:
    """What control events name; access ends with any of these."""
    found = []
    if is_user(identity.user):
        found.append(("user", str(identity.user.pk)))
    if is_token(identity.token):
        found.append(("token", str(identity.token.pk)))
    if identity.session_key:
        # A digest, as in the events that cross the layer: a session's key is a secret.
        found.append(("session", digest_of(identity.session_key)))
    return found


def expiries(identity: Identity) -> list[float]:
    """When it expires, in seconds since the epoch: each moment that is known."""
    ends = [identity.expires_at]
    if is_token(identity.token):
        ends.append(identity.token.expires_at)
    return [end.timestamp() for end in ends if end is not None]
