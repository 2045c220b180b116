"""Broadcast groups of tokens: a connection that sends a key joins the group of its token."""

import asyncio
from typing import Any, Literal, NamedTuple, Protocol

from ..auth.authenticators import identity_of, use_key
from ..conf import conf
from ..groups import TOKEN_PREFIX
from ..types import Identity
from .connection import Connection


class OpenToken(NamedTuple):
    """With ``TOKENS = "open"`` any text that a client sends is a token, as in version 0.4."""

    label: str
    is_open: bool = True
    can_publish: bool = True
    can_subscribe: bool = True

    @property
    def group_name(self) -> str:
        return TOKEN_PREFIX + self.label


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
    def enter(self, connection: Connection, group: str) -> Any: ...
    def leave(self, connection: Connection, group: str) -> None: ...


async def token_of(connection: Connection, key: str | None) -> Any:
    """The token with this key, or without a key that of the handshake; None if there is none."""
    if key is not None:
        return OpenToken(key) if conf.TOKENS == "open" else await use_key(key, connection)
    own = None if connection.identity is None else connection.identity.token
    # A token of a site's own authenticator may have no group.
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
        # Access already depends on the handshake's token.
        grants.remove(connection, "used")
    else:
        grants.add(connection, identity_of(token), since, "used")
    group = getattr(former, "group_name", None)
    stays = token.can_subscribe and group == token.group_name
    if group is not None and group != connection.home and not stays:
        view.leave(connection, group)
    if token.can_subscribe:
        joined = view.enter(connection, token.group_name)
        if isinstance(joined, asyncio.Future):
            await joined
    return token
