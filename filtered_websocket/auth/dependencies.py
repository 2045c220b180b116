"""What an identity depends on: rows that may change, and moments when it expires."""

from collections.abc import Collection, Iterable
from typing import Any, Generic, TypeVar

from ..types import Identity, TokenUser
from .keys import digest_of
from .validity import is_token, is_user

#: "user", "token" or "session", and which one.
Dependency = tuple[str, str]
T = TypeVar("T")


def dependencies(identity: Identity) -> list[Dependency]:
    """What control events name; access ends with any of these."""
    found = []
    if is_user(identity.user) or isinstance(identity.user, TokenUser):
        found.append(("user", str(identity.user.pk)))
    if is_token(identity.token):
        found.append(("token", str(identity.token.pk)))
    if identity.session_key:
        # A digest, as in the events that cross the layer: a session's key is a secret.
        found.append(("session", digest_of(identity.session_key)))
    return found


def all_dependencies(identities: Iterable[Identity]) -> set[Dependency]:
    """:func:`dependencies` of several identities."""
    return {one for identity in identities for one in dependencies(identity)}


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


class Owners(Generic[T]):
    """
    Whose connections those are that do not depend on their user, as a middleware or a filter
    has set it, and no authenticator.
    """

    def __init__(self) -> None:
        self._users: dict[T, Dependency] = {}
        self._connections: Dependents[T] = Dependents()

    def note(self, one: T, user: Any) -> bool:
        """``one`` is of ``user`` from now on; or of nobody, and False, where that is not saved."""
        self.forget(one)
        if not is_user(user):
            return False
        key = self._users[one] = "user", str(user.pk)
        self._connections.hold(key, one)
        return True

    def forget(self, one: T) -> None:
        """It has ended."""
        key = self._users.pop(one, None)
        if key is not None:
            self._connections.drop(key, one)

    def get(self, key: Dependency) -> Collection[T]:
        """The connections of a user."""
        return self._connections.get(key, ())
