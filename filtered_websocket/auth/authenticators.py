"""
Authenticators find out who connects. They run before the connect chain, under any middleware.

::

    handshake ─┬─ no credential ── the session's user, or anonymous
               └─ one credential ─┬─ valid: its identity
                                  └─ not valid, or more than one: 4401, never anonymous

A credential takes precedence over the session, whose cookie a browser sends by itself.
"""

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from django.contrib.auth import HASH_SESSION_KEY
from django.core.exceptions import ImproperlyConfigured
from django.views.decorators.debug import sensitive_variables

from ..close_codes import FILTER_ERROR, UNAUTHORIZED
from ..conf import SettingError, conf, describe, import_object
from ..exceptions import AuthFault, Close
from ..logs import fields_of, get_logger
from ..threads.database import run_query
from ..types import Authenticator, Identity, Scope
from .addresses import address_of
from .credentials import Credential, credentials
from .keys import digest_of, is_key
from .throttle import KeyLookups, Throttle
from .tickets import redeem
from .validity import token_model

logger = get_logger(__name__)

#: How long it may take to find out who connects, seconds: daphne waits 5 for an answer.
AUTH_TIMEOUT = 3.0
_throttle = Throttle()
_lookups = KeyLookups()
#: The connection whose credentials are looked at: authenticators are given its scope only.
_asker: ContextVar[Any] = ContextVar("fws_asker", default=None)


@contextmanager
def _on_behalf_of(connection: Any) -> Iterator[None]:
    """Lines of the log are about ``connection`` meanwhile."""
    token = _asker.set(connection)
    try:
        yield
    finally:
        _asker.reset(token)


def _told() -> dict[str, Any]:
    """``extra`` of a line of the log."""
    return fields_of(_asker.get())


def refusal() -> Close:
    """The same refusal whatever is wrong with a credential: a client learns no more."""
    return Close(UNAUTHORIZED, "unauthorized")


class SessionAuthenticator:
    """Django's session, where no other credential is offered."""

    async def authenticate(self, scope: Scope) -> Identity | None:
        user = scope.get("user")
        if user is None or not user.is_authenticated or credentials(scope):
            return None
        session = scope.get("session")
        if session is None:
            return Identity(user=user)
        return Identity(
            user=user,
            session_key=session.session_key,
            session_hash=session.get(HASH_SESSION_KEY),
        )


class _TokenAuthenticator:
    kind: ClassVar[str]

    @sensitive_variables()
    async def authenticate(self, scope: Scope) -> Identity | None:
        found = [secret for kind, secret in credentials(scope) if kind == self.kind]
        if not found:
            return None
        return identity_of(await find_token(found[0], address_of(scope)))


class HeaderAuthenticator(_TokenAuthenticator):
    """``Authorization: Token KEY``, or ``Bearer KEY``."""

    kind = "header"


class SubprotocolAuthenticator(_TokenAuthenticator):
    """``new WebSocket(url, ["fws", "fws.token.KEY"])``, the way browsers can."""

    kind = "subprotocol"


class QueryAuthenticator(_TokenAuthenticator):
    """
    ``?token=KEY``, which ends up in the logs of proxies: off unless it is listed in
    ``AUTHENTICATORS``.
    """

    kind = "query"


class TicketAuthenticator:
    """``?ticket=TICKET``, once, within 30 seconds of its issue."""

    @sensitive_variables()
    async def authenticate(self, scope: Scope) -> Identity | None:
        found = [secret for kind, secret in credentials(scope) if kind == "ticket"]
        if not found:
            return None
        identity: Identity | None = await _run_secretly(lambda: redeem(found[0]))
        if identity is None:
            raise refusal()
        user = scope.get("user")
        if user is not None and user.is_authenticated and user.pk != identity.user.pk:
            logger.info("a ticket came with the session of another user", extra=_told())
            raise refusal()
        return identity


#: They know nobody who has neither a credential nor a session: they are not asked then.
_BUNDLED = (
    SessionAuthenticator.authenticate,
    _TokenAuthenticator.authenticate,
    TicketAuthenticator.authenticate,
)


@functools.cache
def _load(path: str) -> Authenticator:
    try:
        factory = import_object(path)
    except SettingError as error:
        raise ImproperlyConfigured(
            f"FILTERED_WEBSOCKET['AUTHENTICATORS'] names {path!r}: {error}"
        ) from error.__cause__
    try:
        made = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ImproperlyConfigured(
            f"FILTERED_WEBSOCKET['AUTHENTICATORS'] names {path!r}, which is called without"
            f" arguments and raises {describe(error)}."
        ) from error
    if not inspect.iscoroutinefunction(getattr(made, "authenticate", None)):
        raise ImproperlyConfigured(
            f"FILTERED_WEBSOCKET['AUTHENTICATORS'] names {path!r}, which has no"
            " 'async def authenticate(self, scope)'."
        )
    authenticator: Authenticator = made
    return authenticator


def load_authenticators() -> list[Authenticator]:
    """Those of the setting, each made once. ImproperlyConfigured for one that cannot be made."""
    return [_load(path) for path in conf.AUTHENTICATORS]


@sensitive_variables()
async def authenticate(scope: Scope, connection: Any = None) -> Identity | None:
    """
    Find out who connects, by ``connection``; None for an anonymous client.

    Raises :exc:`Close` with 4401 for a credential that is not valid, or that no
    authenticator knows, after a delay that grows with each one from its address. Any
    other exception of an authenticator passes through.
    """
    offers = credentials(scope)
    if not offers:
        return await _identify(scope, offers)
    with _on_behalf_of(connection):
        return await _identify(scope, offers)


@sensitive_variables()
async def _identify(scope: Scope, offers: list[Credential]) -> Identity | None:
    try:
        if len(offers) > 1:
            logger.info("a handshake offers %d credentials at once", len(offers), extra=_told())
            raise refusal()
        user = scope.get("user")
        is_nobody = not offers and (user is None or not user.is_authenticated)
        for authenticator in load_authenticators():
            if is_nobody and type(authenticator).authenticate in _BUNDLED:
                continue
            identity = await authenticator.authenticate(scope)
            if identity is not None:
                return identity
        if offers:
            kind = offers[0].kind
            logger.info("no authenticator takes a credential that came as %s", kind, extra=_told())
            raise refusal()
    except Close:
        await _count_refusal(address_of(scope))
        raise
    return None


async def _count_refusal(address: str) -> None:
    delay = _throttle.note(address)
    if delay:
        await asyncio.sleep(delay)


def identity_of(token: Any) -> Identity:
    """The identity of whoever connects with ``token``."""
    # This import needs django.contrib.auth, which a server without a project has not installed.
    from django.contrib.auth.models import AnonymousUser

    return Identity(user=token.user or AnonymousUser(), token=token)


@sensitive_variables()
async def use_key(key: str, connection: Any) -> Any:
    """
    The token of ``key``, offered on an open ``connection``, or None.

    Keys that are not valid are counted and delayed as in a handshake.
    """
    address = connection.address
    try:
        with _on_behalf_of(connection):
            return await find_token(key, address)
    except Close:
        await _count_refusal(address)
        return None
    except AuthFault as error:
        # Not raised as it is: the report of a filter's error would show the message with the key.
        logger.error("%s", error, extra=fields_of(connection))
        raise Close(FILTER_ERROR, "cannot look the token up") from None


@sensitive_variables()
async def find_token(key: str, address: str) -> Any:
    """
    The token of ``key``: one indexed query.

    Raises :exc:`Close` with 4401 if it is not valid: without a query if it does not have the
    form of a key; once ``address`` has sent too many bad keys, one query a second serves
    all such addresses. :exc:`AuthFault` where the database does not answer.
    """
    if not is_key(key):
        raise refusal()
    token = await _look_up(key, address)
    if token is None:
        raise refusal()
    if token.flaw:
        flaw, told = token.flaw, _told()
        logger.info("refused token %s… (%s): %s", token.prefix, token.pk, flaw, extra=told)
        raise refusal()
    return token


@sensitive_variables()
async def _look_up(key: str, address: str) -> Any:
    try:
        if _throttle.is_over(address) and not await _lookups.is_known(digest_of(key)):
            return None
        with _throttle.looking_up(address):
            return await _run_secretly(lambda: token_model().objects.find(key))
    except Exception as error:
        raise AuthFault(f"cannot look a token up: {type(error).__name__}: {error}") from None


async def _run_secretly(call: Callable[[], Any]) -> Any:
    """
    ``call()`` in a thread. Without arguments: those would appear in the frames of other
    functions, and so in the report of an exception.
    """
    return await run_query(sensitive_variables()(call))
