"""What an identity depends on: rows that may change, and moments when it expires."""

from typing import TypeVar

from ..types import Identity
from .keys import digest_of
from .validity import is_token, is_user

#: "user", "token" or "session", and which one.
Dependency = tuple[str, str]
T = TypeVar("T")


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


class Dependents(dict[Dependency, tuple[T, ...] | set[T]]):
    """
    Who depends on what. Mostly that is one connection, as each has a session of its own: kept
    in a tuple, which takes 0.2 KiB less than a set.
    """

    def hold(self, key: Dependency, one: T) -> None:
        """``one`` depends on ``key``."""
        who = self.get(key, ())
        if isinstance(who, set):
            who.add(one)
        else:
            self[key] = {one, *who} if who else (one,)

    def drop(self, key: Dependency, one: T) -> None:
        """It does no longer; KeyError if nobody did."""
        who = self[key]
        if isinstance(who, set):
            who.discard(one)
        elif one in who:
            who = ()
        if not who:
            del self[key]
