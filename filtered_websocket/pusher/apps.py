"""
Apps: who may speak the Pusher protocol, with which key and secret, and what they may do.

A signature is the hex HMAC-SHA256 of a text, made with the secret of an app.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from django.core.signals import setting_changed

from ..conf import SettingError, conf, import_object
from ..connections.origins import normal_origin
from ..filters.rate_limit import Buckets
from ..setting_rules import COUNT, FLAG, LIMIT, RATE, Rule

_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
_KEY = re.compile(r"[-A-Za-z0-9_]{1,64}", re.ASCII)

TEXT = Rule(lambda value: isinstance(value, str) and bool(value), "a text that is not empty")
ID = Rule(lambda value: isinstance(value, str) and bool(_ID.fullmatch(value)), "a text of digits")
KEY = Rule(
    lambda value: isinstance(value, str) and bool(_KEY.fullmatch(value)),
    "1 to 64 of the letters A-Z a-z 0-9 - _",
)
TEXTS = Rule(
    lambda value: (
        value is None
        or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value))
    ),
    "None or a list of texts",
)
MASTER = Rule(
    lambda value: value is None or (isinstance(value, str) and master_key(value) is not None),
    "None or 32 bytes in base64",
)
FUNCTION = Rule(
    lambda value: value is None or isinstance(value, str) or callable(value),
    "None, a dotted path or a function",
)


def master_key(text: str) -> bytes | None:
    """The 32 bytes of the master key of encrypted channels; None for anything else."""
    try:
        key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == 32 else None


HOOKS = Rule(lambda value: isinstance(value, list | tuple), "a list of dicts with a URL")

#: What a webhook may be told of.
HOOK_EVENTS = (
    "channel_occupied",
    "channel_vacated",
    "member_added",
    "member_removed",
    "client_event",
    "cache_miss",
)
HOOK_OPTIONS = {
    "URL": Rule(
        lambda value: isinstance(value, str) and value.startswith(("http://", "https://")),
        "an address, as https://example.com/webhooks",
    ),
    "EVENTS": Rule(
        lambda value: TEXTS.allows(value) and set(value or ()) <= set(HOOK_EVENTS),
        f"None, or some of {', '.join(HOOK_EVENTS)}",
    ),
    "PREFIX": Rule(lambda value: isinstance(value, str), "a text"),
    "SUFFIX": Rule(lambda value: isinstance(value, str), "a text"),
    "HEADERS": Rule(
        lambda value: (
            isinstance(value, Mapping)
            and all(isinstance(text, str) for pair in value.items() for text in pair)
        ),
        "a dict of texts",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Where a site is told what happens; its fields are the keys of an entry of ``WEBHOOKS``."""

    url: str
    #: None: all of them.
    events: Sequence[str] | None = None
    #: How the names of the channels begin and end that it is told of.
    prefix: str = ""
    suffix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def takes(self, event: Mapping[str, Any]) -> bool:
        """Whether it is told of this."""
        channel: str = event["channel"]
        is_named = channel.startswith(self.prefix) and channel.endswith(self.suffix)
        return is_named and (self.events is None or event["name"] in self.events)


#: The keys of an entry of ``PUSHER_APPS``, and the values that each accepts.
OPTIONS = {
    "ID": ID,
    "KEY": KEY,
    "SECRET": TEXT,
    "ENABLED": FLAG,
    "CLIENT_EVENTS": FLAG,
    "CLIENT_EVENT_RATE": RATE,
    "MAX_EVENT_SIZE": COUNT,
    "MAX_CONNECTIONS": LIMIT,
    "MAX_MEMBERS": COUNT,
    "ALLOWED_ORIGINS": TEXTS,
    "TLS_ONLY": FLAG,
    "ACTIVITY_TIMEOUT": COUNT,
    "ENCRYPTION_MASTER_KEY": MASTER,
    "USER_INFO": FUNCTION,
    "WEBHOOKS": HOOKS,
}
NEEDED = ("ID", "KEY", "SECRET")
#: They are in no message.
SECRETS = ("SECRET", "ENCRYPTION_MASTER_KEY")


@dataclass(frozen=True, kw_only=True, eq=False)
class App:
    """One app; its fields are the keys of an entry of ``PUSHER_APPS``, in small letters."""

    id: str
    key: str
    secret: str = field(repr=False)
    #: Whether its clients and backends are served.
    enabled: bool = True
    #: Whether clients may send to one another.
    client_events: bool = False
    #: How many client events one connection may send.
    client_event_rate: str = "10/s"
    #: The longest data of an event, in bytes.
    max_event_size: int = 10_240
    #: Connections in each process.
    max_connections: int | None = None
    #: Users of a channel with presence.
    max_members: int = 100
    #: Pages that may connect, of those that the site lets in; None: all of these.
    allowed_origins: Sequence[str] | None = None
    #: Whether clients must connect by TLS.
    tls_only: bool = False
    #: Seconds after which an idle client pings.
    activity_timeout: int = 30
    encryption_master_key: str | None = field(default=None, repr=False)
    #: ``(user) -> dict``: what others see of a user in channels with presence.
    user_info: str | Callable[[Any], Any] | None = None
    webhooks: Sequence[Hook] = ()
    #: Whether its channels are groups by their own names.
    is_first: bool = False

    @cached_property
    def buckets(self) -> Buckets:
        """Count the client events of each connection."""
        return Buckets(self.client_event_rate, None)

    def sign(self, text: str) -> str:
        """The signature of a text."""
        return hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    def has_signed(self, signature: Any, text: str) -> bool:
        """Whether ``signature`` is that of ``text``; compared in constant time."""
        good = self.sign(text).encode()
        return isinstance(signature, str) and hmac.compare_digest(signature.encode(), good)

    def has_authorized(self, auth: Any, text: str) -> bool:
        """The same, of what clients have from a site: ``key:signature``."""
        if not isinstance(auth, str):
            return False
        key, _, signature = auth.partition(":")
        return key == self.key and self.has_signed(signature, text)

    def authorize(self, text: str) -> str:
        """What clients get from a site."""
        return f"{self.key}:{self.sign(text)}"

    def shared_secret(self, channel: str) -> str | None:
        """The key of an encrypted channel; None without a master key."""
        master = (
            None if self.encryption_master_key is None else master_key(self.encryption_master_key)
        )
        if master is None:
            return None
        return base64.b64encode(hashlib.sha256(channel.encode() + master).digest()).decode()

    def info_of(self, user: Any) -> Any:
        """What others see of a user; None: nothing but the id."""
        chosen = self.user_info
        find: Any = import_object(chosen) if isinstance(chosen, str) else chosen
        return None if find is None else find(user)


def _read(where: str, entry: Mapping[str, Any], options: Mapping[str, Rule]) -> dict[str, Any]:
    """The values of an entry, by the names of fields. :exc:`.SettingError` for a mistake."""
    values: dict[str, Any] = {}
    for name, value in entry.items():
        rule = options.get(name)
        if rule is None:
            known = ", ".join(options)
            raise SettingError(f"{where} has no option {name!r:.80}.", f"Known: {known}.")
        if not rule.allows(value):
            found = "of another kind" if name in SECRETS else f"{value!r:.80}"
            raise SettingError(f"{where} has {name} {found}.", f"It must be {rule.words}.")
        values[name.lower()] = value
    return values


def _make_hook(where: str, entry: Any) -> Hook:
    if not isinstance(entry, Mapping) or "URL" not in entry:
        raise SettingError(f"{where} has a webhook {entry!r:.80}.", "Write a dict with a URL.")
    return Hook(**_read(f"{where} in WEBHOOKS", entry, HOOK_OPTIONS))


def make_app(entry: Any, number: int) -> App:
    """The app of an entry of ``PUSHER_APPS``. :exc:`.SettingError` for one that is none."""
    where = f"FILTERED_WEBSOCKET['PUSHER_APPS'], entry {number},"
    if not isinstance(entry, Mapping):
        raise SettingError(f"{where} is {entry!r:.80}.", "Write a dict with ID, KEY and SECRET.")
    for name in NEEDED:
        if name not in entry:
            raise SettingError(f"{where} has no {name}.", "An app needs ID, KEY and SECRET.")
    values = _read(where, entry, OPTIONS)
    values["webhooks"] = [_make_hook(where, hook) for hook in values.get("webhooks", ())]
    for origin in values.get("allowed_origins") or ():
        if origin != "*":
            try:
                normal_origin(origin)
            except ValueError as error:
                raise SettingError(
                    f"{where} has ALLOWED_ORIGINS: {error}.", "Correct it."
                ) from None
    return App(**values, is_first=number == 0)


@lru_cache(1)
def site_apps() -> tuple[App, ...]:
    """Those of the settings, made once. Raises :exc:`.SettingError`."""
    entries = conf.PUSHER_APPS
    if not isinstance(entries, list | tuple):
        raise SettingError(
            f"FILTERED_WEBSOCKET['PUSHER_APPS'] is {entries!r:.80}.", "It must be a list of dicts."
        )
    apps = tuple(make_app(entry, number) for number, entry in enumerate(entries))
    for name in ("id", "key"):
        values = [getattr(app, name) for app in apps]
        for value in values:
            if values.count(value) > 1:
                found = f"two apps with {name.upper()} {value!r}"
                raise SettingError(
                    f"FILTERED_WEBSOCKET['PUSHER_APPS'] has {found}.", "Each has its own."
                )
    return apps


def app_of_key(key: str) -> App | None:
    """The app whose clients have this key."""
    return next((app for app in site_apps() if app.key == key), None)


def app_of_id(app_id: str) -> App | None:
    """The app with this id."""
    return next((app for app in site_apps() if app.id == app_id), None)


def _forget(**of_the_signal: object) -> None:
    site_apps.cache_clear()


setting_changed.connect(_forget, dispatch_uid="filtered_websocket.pusher.apps")
