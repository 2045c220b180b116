"""
Apps of the Pusher protocol that are made in the admin.

A signature needs the secret itself, so a digest of it is not enough: it is stored encrypted with
a key that is made of ``SECRET_KEY``. Who reads the database alone cannot sign.
"""

import base64
import hashlib
import hmac
import secrets
from typing import Any, ClassVar

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, router
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ..auth.keys import Key, new_key
from ..connections.origins import normal_origin
from ..setting_rules import APP_ID, APP_KEY, HOOK_OPTIONS, RATE

SALT = "filtered_websocket.pusher"
#: What a webhook of the admin has: headers may be secrets, and everybody reads them there.
HOOK_KEYS = HOOK_OPTIONS.keys() - {"HEADERS"}
LOST = (
    "its secret cannot be decrypted, as SECRET_KEY is not the one that it was encrypted with:"
    " make a new secret in the admin, or put that key into SECRET_KEY_FALLBACKS"
)


def new_app_id() -> str:
    """A random number: those that a site gives itself are mostly smaller."""
    return str(10**9 + secrets.randbelow(10**10))


def new_app_key() -> str:
    """A random key, which is no secret: every page has it."""
    return secrets.token_hex(10)


def check_app_id(value: str) -> None:
    """ValidationError for what is no id of an app."""
    if not APP_ID.allows(value):
        raise ValidationError(_("Write 1 to 20 digits."))


def check_app_key(value: str) -> None:
    """ValidationError for what is no key of an app."""
    if not APP_KEY.allows(value):
        raise ValidationError(_("Write 1 to 64 of the characters A-Z a-z 0-9 - _."))


def check_rate(value: str) -> None:
    """ValidationError for what is no rate."""
    if not RATE.allows(value):
        raise ValidationError(_("Write a rate, as 20/s, 600/m or 5000/h."))


def check_origins(value: str) -> None:
    """ValidationError for a line that is no origin."""
    for line in value.split():
        try:
            if line != "*":
                normal_origin(line)
        except ValueError:
            words = _("“%(line)s” is no origin, as https://example.com is one.")
            raise ValidationError(words, params={"line": line}) from None


def check_webhooks(value: Any) -> None:
    """ValidationError for what is no list of webhooks."""
    if not (isinstance(value, list) and all(map(_is_hook, value))):
        example = '[{"URL": "https://example.com/webhooks", "EVENTS": ["channel_occupied"]}]'
        words = _("Write a list of webhooks with URL, EVENTS, PREFIX or SUFFIX, as %(example)s.")
        raise ValidationError(words, params={"example": example})


def _is_hook(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "URL" in value
        and value.keys() <= HOOK_KEYS
        and all(HOOK_OPTIONS[name].allows(one) for name, one in value.items())
    )


class PusherAppManager(models.Manager["PusherApp"]):
    @sensitive_variables("secret")
    def create_app(self, **fields: Any) -> tuple["PusherApp", Key]:
        """
        A new app and its secret: show it once.

        ``fields`` are the model's; ValidationError for values that are not allowed.
        """
        app = self.model(**fields)
        secret = app.set_new_secret()
        app.full_clean()
        app.save(force_insert=True, using=self._db)
        return app, secret


def _count(name: Any, default: int | None, **options: Any) -> Any:
    """A field for numbers above 0."""
    above_0 = [MinValueValidator(1)]
    return models.PositiveIntegerField(name, default=default, validators=above_0, **options)


class PusherApp(models.Model):
    """An app: its fields are the options of an entry of ``PUSHER_APPS``."""

    name = models.CharField(_("name"), max_length=100)
    app_id = models.CharField(
        _("app id"), max_length=20, unique=True, default=new_app_id, validators=[check_app_id]
    )
    key = models.CharField(
        _("key"),
        max_length=64,
        unique=True,
        default=new_app_key,
        validators=[check_app_key],
        help_text=_("No secret: every client has it."),
    )
    enabled = models.BooleanField(
        _("enabled"), default=True, help_text=_("Otherwise its clients and backends are refused.")
    )
    client_events = models.BooleanField(
        _("client events"), default=False, help_text=_("Clients may send to one another.")
    )
    client_event_rate = models.CharField(
        _("client event rate"),
        max_length=20,
        default="10/s",
        validators=[check_rate],
        help_text=_("How many client events one connection may send."),
    )
    max_event_size = _count(_("longest data of an event, in bytes"), 10_240)
    max_connections = _count(
        _("most connections of each process"),
        None,
        null=True,
        blank=True,
        help_text=_("Empty: as many as the site allows."),
    )
    max_members = _count(_("most users of a presence channel"), 100)
    allowed_origins = models.TextField(
        _("allowed origins"),
        blank=True,
        validators=[check_origins],
        help_text=_("One in each line. Empty: all that the site lets in."),
    )
    tls_only = models.BooleanField(_("TLS only"), default=False)
    activity_timeout = _count(
        _("activity timeout"), 30, help_text=_("Seconds after which an idle client pings.")
    )
    webhooks = models.JSONField(
        _("webhooks"),
        default=list,
        blank=True,
        validators=[check_webhooks],
        help_text=_("Who is told what happens, as WEBHOOKS in the settings."),
    )
    created = models.DateTimeField(_("created"), auto_now_add=True)
    encrypted_secret = models.TextField(editable=False)

    objects: ClassVar[PusherAppManager] = PusherAppManager()

    class Meta:
        verbose_name = _("Pusher app")
        verbose_name_plural = _("Pusher apps")
        ordering = ("name", "pk")

    def __str__(self) -> str:
        return f"{self.name} ({self.app_id})"

    @sensitive_variables("secret")
    def set_new_secret(self) -> Key:
        """Replace the secret, without saving, and return the new one."""
        secret = new_key()
        # With the key of the app: what is stored of one is of no use in the row of another.
        self.encrypted_secret = MultiFernet(_ciphers()).encrypt(self._bound(secret)).decode()
        return secret

    @property
    @sensitive_variables()
    def secret(self) -> Key:
        """The secret. ValueError where it cannot be decrypted."""
        try:
            text = MultiFernet(_ciphers()).decrypt(self.encrypted_secret).decode()
        except InvalidToken:
            raise ValueError(LOST) from None
        key, _colon, secret = text.partition(":")
        if key != self.key:
            raise ValueError("its secret is that of another key: make a new secret in the admin")
        return Key(secret)

    @property
    def is_of_an_old_key(self) -> bool:
        """Whether ``SECRET_KEY`` alone does not decrypt it."""
        try:
            _ciphers()[0].decrypt(self.encrypted_secret)
        except InvalidToken:
            return True
        return False

    def encrypt_again(self) -> bool:
        """
        Store it encrypted with ``SECRET_KEY``, where a fallback is needed to read it. Whether
        it was stored; ValueError where it cannot be decrypted.
        """
        if not self.is_of_an_old_key:
            return False
        made = MultiFernet(_ciphers()).encrypt(self._bound(self.secret)).decode()
        rows = type(self)._base_manager.using(router.db_for_write(type(self)))
        # Unless it has been given a new one since it was read.
        same = rows.filter(pk=self.pk, encrypted_secret=self.encrypted_secret)
        return same.update(encrypted_secret=made) > 0

    def _bound(self, secret: str) -> bytes:
        return f"{self.key}:{secret}".encode()

    @property
    @sensitive_variables()
    def encryption_master_key(self) -> Key:
        """The master key of its encrypted channels, which changes with the secret."""
        made = hmac.digest(self.secret.encode(), b"encryption master key", hashlib.sha256)
        return Key(base64.b64encode(made).decode())

    def options(self) -> dict[str, Any]:
        """As an entry of ``PUSHER_APPS``. ValueError where the secret cannot be decrypted."""
        return {
            "ID": self.app_id,
            "KEY": self.key,
            "SECRET": self.secret,
            "ENABLED": self.enabled,
            "CLIENT_EVENTS": self.client_events,
            "CLIENT_EVENT_RATE": self.client_event_rate,
            "MAX_EVENT_SIZE": self.max_event_size,
            "MAX_CONNECTIONS": self.max_connections,
            "MAX_MEMBERS": self.max_members,
            "ALLOWED_ORIGINS": self.allowed_origins.split() or None,
            "TLS_ONLY": self.tls_only,
            "ACTIVITY_TIMEOUT": self.activity_timeout,
            "ENCRYPTION_MASTER_KEY": self.encryption_master_key,
            "WEBHOOKS": self.webhooks,
        }


def _ciphers() -> list[Fernet]:
    """Of ``SECRET_KEY``, and of each fallback."""
    return [_cipher(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


@sensitive_variables()
def _cipher(secret_key: str | bytes) -> Fernet:
    made = salted_hmac(SALT, "secrets of apps", secret=secret_key, algorithm="sha256").digest()
    return Fernet(base64.urlsafe_b64encode(made))
