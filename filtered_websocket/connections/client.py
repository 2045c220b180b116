"""Who is at the other end of a connection: identity, user, session, address."""

import time
import uuid
from collections.abc import Hashable, Iterator, Mapping
from contextvars import copy_context
from functools import cached_property
from typing import Any, TypeVar

from ..auth.addresses import address_of
from ..auth.tenants import personal_group
from ..types import Identity, Scope

T = TypeVar("T")


class Client:
    """The half of a connection that says who connects."""

    def __init__(self, scope: Scope) -> None:
        #: Unique among all processes.
        self.id: str = str(uuid.uuid4())
        self.scope = scope
        #: When its handshake came, by the monotonic clock.
        self.began = time.monotonic()
        #: The context of its handshake, for whatever is asked on its behalf. Always run a
        #: copy: a context cannot be entered twice at a time.
        self.context = copy_context()
        #: Which tenant it belongs to, once it depends on rows of the database.
        self.tenant: Hashable = None
        #: The token it connected with, or used since.
        self.token: Any = None
        #: When its access expires, by the loop's clock. Private to this package.
        self.deadline: float | None = None
        #: Whether it may publish: not with a token that may only subscribe.
        self.may_publish = True
        #: Whether it may join groups: not with a token that may only publish.
        self.may_subscribe = True
        self._identity: Identity | None = None

    @property
    def identity(self) -> Identity | None:
        """What an authenticator found; None if no credential was offered."""
        return self._identity

    def identify(self, identity: Identity) -> None:
        """Set user and token from what authentication found. Private to this package."""
        self._identity = identity
        self.scope["user"] = identity.user
        self.token = identity.token
        # A token of a site's own authenticator may lack these attributes.
        self.may_publish = getattr(identity.token, "can_publish", True)
        self.may_subscribe = getattr(identity.token, "can_subscribe", True)

    def is_expired(self, now: float) -> bool:
        """Whether its access has expired by the loop's clock."""
        return self.deadline is not None and now >= self.deadline

    @property
    def user(self) -> Any:
        """Django's user, of the session or the token; None where no authentication ran."""
        return self.scope.get("user")

    @property
    def user_id(self) -> str | None:
        """The primary key of a user who is logged in, as text; None of anybody else."""
        key = getattr(self.user, "pk", None)
        # A custom model may have keys of anonymous users too.
        return None if key is None or not self.user.is_authenticated else str(key)

    @property
    def personal_group(self) -> str | None:
        """The name of its user's own group; None where nobody is logged in."""
        user = self.user_id
        return None if user is None else personal_group(user, self.context)

    @cached_property
    def address(self) -> str:
        """
        The client's IP address: the peer's, or with ``TRUSTED_PROXIES`` the one that the
        outermost proxy saw; of IPv6 the /64 network. Empty on a Unix socket.
        """
        return address_of(self.scope)

    @property
    def log_fields(self) -> dict[str, str]:
        """``extra`` of a line of the log that is about this connection."""
        try:
            user = self.user_id or ""
        except Exception:
            user = ""  # one that has to be looked up, which nobody may wait for here
        return {"connection_id": self.id, "user_id": user, "client_address": self.address}

    @property
    def session(self) -> Any:
        """Django's session, to read; it is not saved over a WebSocket."""
        return self.scope.get("session")


class Users(Mapping[str, T]):
    """id -> connection, read-only. Iterating copies the keys first: safe from any thread."""

    def __init__(self, connections: dict[str, T]) -> None:
        self._connections = connections

    def __getitem__(self, key: str) -> T:
        return self._connections[key]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._connections))

    def __len__(self) -> int:
        return len(self._connections)

    # The inherited views look up every key again, which may have been removed meanwhile.
    def items(self) -> Any:
        return tuple(self._connections.items())

    def values(self) -> Any:
        return tuple(self._connections.values())
