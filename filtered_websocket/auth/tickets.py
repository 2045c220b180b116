"""
Tickets: they let a client connect once, within seconds of their issue. For a page that
cannot set headers and whose cookies do not reach this server.

A ticket is signed, so that a forged one is refused without a query. It has a row, which is
deleted when it is used, so that it works once in all processes together. The session key in
that row is encrypted with the ticket: whoever reads the database cannot use the session.
"""

import datetime
import hashlib
import secrets
from base64 import urlsafe_b64encode
from typing import Any

from cryptography.fernet import Fernet
from django.apps import apps
from django.contrib.auth import HASH_SESSION_KEY
from django.core.signing import BadSignature, TimestampSigner
from django.db import router
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from ..types import Identity
from .keys import digest_of
from .validity import find_invalid

#: How long a ticket can be used, seconds.
LIFETIME = 30


def _signer() -> TimestampSigner:
    return TimestampSigner(sep=".", salt="filtered_websocket.ticket")


def _cipher(nonce: str) -> Fernet:
    return Fernet(urlsafe_b64encode(hashlib.sha256(b"session" + nonce.encode()).digest()))


def ticket_model() -> Any:
    return apps.get_model("filtered_websocket", "Ticket")


@sensitive_variables()
def issue(user: Any, session: Any) -> str:
    """
    A ticket for ``user``, valid no longer than ``session``. Writes one row, and deletes
    the rows of expired tickets.
    """
    now = timezone.now()
    nonce = secrets.token_urlsafe(32)
    tickets = ticket_model().objects
    tickets.filter(expires_at__lte=now).delete()
    tickets.create(
        digest=digest_of(nonce),
        user=user,
        session_key=_cipher(nonce).encrypt((session.session_key or "").encode()).decode(),
        session_hash=session.get(HASH_SESSION_KEY, ""),
        expires_at=now + datetime.timedelta(seconds=LIFETIME),
    )
    return _signer().sign(nonce)


@sensitive_variables()
def redeem(ticket: str) -> Identity | None:
    """The identity that ``ticket`` stands for, once; None where it is not valid."""
    try:
        nonce = _signer().unsign(ticket, max_age=LIFETIME)
    except BadSignature:
        return None
    model = ticket_model()
    # Not a replica, which may not have the new row yet.
    tickets = model.objects.using(router.db_for_write(model)).filter(digest=digest_of(nonce))
    row = tickets.select_related("user").first()
    # Of several clients that use it at once, the one that deletes the row connects.
    if row is None or not tickets.delete()[0] or row.expires_at <= timezone.now():
        return None
    identity = Identity(
        user=row.user,
        session_key=_cipher(nonce).decrypt(row.session_key).decode() or None,
        session_hash=row.session_hash or None,
    )
    [(flaw, identity)] = find_invalid([identity])
    return None if flaw or not row.user.is_active else identity
