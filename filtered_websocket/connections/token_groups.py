"""The broadcast groups of tokens: who shows a key joins its token's group."""

from typing import Any, Literal, NamedTuple, Protocol

from ..auth.authenticators import identity_of, use_key
from ..conf import conf
from ..types import Identity
from .connection import Connection

#: Begins the names of groups that only a token opens.
OF_TOKENS = "token:"


class OpenToken(NamedTuple):
    """``TOKENS = "open"``: whatever a client says is a token, as in 2014."""

    label: str
    is_open: bool = True
    can_publish: bool = True
    can_subscribe: bool = True

    @property
    def group_name(self) -> str:
        return OF_TOKENS + self.label


class Grants(Protocol):
    """The part of a hub's grants that is used here."""

    @property
    def events_seen(self) -> int: ...
    async def receiving(self) -> None: ...
    def add(
        self, connection: Connection, identity: Identity, since: int, slot: Literal["used"]
    ) -> None: ...
    def remove(self, connection: Connection, slot: Literal["used"]) -> None: ...


class TokenView(Protocol):
    """The part of a hub's view that is used here."""

    @property
    def grants(self) -> Grants: ...
    async def enter(self, connection: Connection, group: str) -> bool: ...
    def leave(self, connection: Connection, group: str) -> None: ...


async def token_of(connection: Connection, key: str | None) -> Any:
    """The token with this key, or that of the handshake; None where there is none."""
    if key is not None:
        return OpenToken(key) if conf.TOKENS == "open" else await use_key(key, connection.scope)
    own = None if connection.identity is None else connection.identity.token
    # That of a site's own authenticator has no group.
    return own if hasattr(own, "group_name") else None


async def use_token(view: TokenView, connection: Connection, key: str | None) -> Any:
    """See :meth:`Connection.use_token`."""
    grants = view.grants
    if key is not None and conf.TOKENS != "open":
        await grants.receiving()
    since = grants.events_seen
    token = await token_of(connection, key)
    if token is None:
        return None
    former, connection.token = connection.token, token
    own = None if connection.identity is None else connection.identity.token
    if token.is_open or token == own:
        # The handshake's rests on itself.
        grants.remove(connection, "used")
    else:
        grants.add(connection, identity_of(token), since, "used")
    group = getattr(former, "group_name", None)
    stays = token.can_subscribe and group == token.group_name
    if group is not None and group != connection.home and not stays:
        view.leave(connection, group)
    if token.can_subscribe:
        await view.enter(connection, token.group_name)
    return token
