"""
Tokens, with which clients connect without a session, and one-time tickets.

Of a key only its SHA-256 and its first characters are stored: whoever reads the database
cannot connect with what is there.
"""

import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, router
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ..auth.keys import PREFIX_LENGTH, Key, digest_of, is_key, new_key
from ..layer.envelope import MAX_GROUP_NAME

#: How often, at most, a token's ``last_used`` is written.
LAST_USED_EVERY = datetime.timedelta(minutes=1)
#: The shortest leading part of a key that names a token to a command.
MIN_PREFIX = 8


def check_group_name(name: str) -> None:
    """ValidationError for names that are reserved."""
    if name.startswith("token:"):
        raise ValidationError(_("Names that begin with “token:” are reserved."))


class State(models.TextChoices):
    """The state of a token itself; that of its user is not part of it."""

    ACTIVE = "active", _("active")
    EXPIRED = "expired", _("expired")
    REVOKED = "revoked", _("revoked")

    def where(self) -> models.Q:
        """The tokens that are in this state now."""
        if self is State.REVOKED:
            return models.Q(revoked_at__isnull=False)
        expired = models.Q(expires_at__isnull=False, expires_at__lte=timezone.now())
        return models.Q(revoked_at=None) & (expired if self is State.EXPIRED else ~expired)


class TokenManager(models.Manager["Token"]):
    @sensitive_variables("key")
    def create_key(self, **fields: Any) -> tuple["Token", Key]:
        """
        A new token and its key, which is stored nowhere: show it once.

        ``fields`` are the model's; ValidationError for values that are not allowed.
        """
        token = self.model(**fields)
        key = token.set_new_key()
        token.full_clean()
        token.save(force_insert=True, using=self._db)
        return token, key

    @sensitive_variables()
    def find(self, key: str) -> "Token | None":
        """
        The token of ``key``, valid or not, and its user: one indexed query.

        The digest is compared again in constant time, which a database does not promise.
        """
        if not is_key(key):
            return None
        digest = digest_of(key)
        rows = self.using(router.db_for_write(self.model)).select_related("user")
        token = rows.filter(digest=digest).first()
        if token is None or not constant_time_compare(token.digest, digest):
            return None
        return token

    def named(self, name: str) -> "Token":
        """
        The token with this id, or whose key begins so (8 characters or more).

        ValueError, with words for a command line, where there is none or more than one.
        """
        # No key begins with a digit. Errors repeat no more of a key than its prefix.
        start = name[:PREFIX_LENGTH]
        if name.isascii() and name.isdigit():
            tokens = list(self.filter(pk=int(name)))
        elif len(name) >= MIN_PREFIX:
            # SQLite's LIKE ignores case.
            alike = self.filter(prefix__startswith=start)
            tokens = [token for token in alike if token.prefix.startswith(start)]
        else:
            raise ValueError(
                f"{name!r} is too short: give an id, or at least {MIN_PREFIX} characters of a key"
            )
        if not tokens:
            raise ValueError(f"{start!r} is neither the id of a token nor the beginning of a key")
        if len(tokens) > 1:
            raise ValueError(
                f"{start!r} begins the keys of {len(tokens)} tokens: give more of it, or an id"
            )
        return tokens[0]

    def note_used(self, ids: set[int]) -> None:
        """Write when tokens were last used, in one query, once a minute at most."""
        now = timezone.now()
        stale = models.Q(last_used=None) | models.Q(last_used__lt=now - LAST_USED_EVERY)
        self.filter(stale, pk__in=ids).update(last_used=now)


class Token(models.Model):
    """What clients connect with that have its key, and what it allows."""

    name = models.CharField(_("name"), max_length=100)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        verbose_name=_("user"),
        related_name="+",
        null=True,
        blank=True,
        help_text=_("Connections with this token are this user's."),
    )
    group = models.CharField(
        _("broadcast group"),
        max_length=MAX_GROUP_NAME,
        blank=True,
        validators=[check_group_name],
        help_text=_("Shared by the tokens that name it; empty: one of its own."),
    )
    can_publish = models.BooleanField(_("may publish"), default=True)
    can_subscribe = models.BooleanField(_("may subscribe"), default=True)
    can_call_api = models.BooleanField(
        _("may call the HTTP API"),
        default=False,
        help_text=_("For backends: publish to any group, close any connection."),
    )
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    created = models.DateTimeField(_("created"), auto_now_add=True)
    last_used = models.DateTimeField(_("last used"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked at"), null=True, editable=False)
    prefix = models.CharField(
        _("key begins with"), max_length=PREFIX_LENGTH, editable=False, db_index=True
    )
    digest = models.CharField(max_length=64, unique=True, editable=False)

    objects: ClassVar[TokenManager] = TokenManager()

    class Meta:
        verbose_name = _("token")
        verbose_name_plural = _("tokens")
        ordering = ("-created", "-pk")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    #: Unlike those of ``TOKENS = "open"`` its key is a secret.
    is_open = False

    @property
    def label(self) -> str:
        """The name that its clients see of the group that they joined."""
        return self.group or self.name

    @property
    def group_name(self) -> str:
        """The broadcast group of its clients."""
        return self.group or f"token:{self.pk}"

    @sensitive_variables("key")
    def set_new_key(self) -> Key:
        """Replace the key, without saving, and return the new one."""
        key = new_key()
        self.prefix = key[:PREFIX_LENGTH]
        self.digest = digest_of(key)
        return key

    @sensitive_variables("key")
    def rotate(self) -> Key:
        """
        Replace the key, and return the new one. Connections made with the old one are closed.

        ValueError if the token is revoked, which cannot be undone.
        """
        if self.revoked_at is not None:
            raise ValueError(f"{self} is revoked: create another token")
        key = self.set_new_key()
        self.save(update_fields=["prefix", "digest"])
        return key

    def revoke(self) -> None:
        """Make it invalid for ever, and close its connections. Revoking it again is no error."""
        if self.revoked_at is None:
            self.revoked_at = timezone.now()
            self.save(update_fields=["revoked_at"])

    @property
    def state(self) -> State:
        if self.revoked_at is not None:
            return State.REVOKED
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return State.EXPIRED
        return State.ACTIVE

    @property
    def flaw(self) -> str:
        """Why nobody can connect with it; empty where it is valid."""
        if self.state is not State.ACTIVE:
            return f"token {self.state.value}"
        if self.user is not None and not self.user.is_active:
            return "user deactivated"
        return ""


class Ticket(models.Model):
    """Lets a client connect once, soon, as the user of a session; deleted when it is used."""

    digest = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    # Encrypted with the ticket. With signed cookies as sessions it is as long as a cookie.
    session_key = models.TextField()
    session_hash = models.CharField(max_length=128)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"ticket of {self.user_id}"
