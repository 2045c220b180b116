"""
Apps: who may speak the Pusher protocol, with which key and secret, and what they may do.

A signature is the hex HMAC-SHA256 of a text, made with the secret of an app.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary, proxy

from django.apps import apps
from django.core.signals import setting_changed
from django.db import router

from ..conf import SettingError, conf, import_object
from ..connections.origins import normal_origin
from ..filters.rate_limit import Buckets
from ..hub.registry import active_hub, missed, told
from ..logs import LogThrottle, get_logger
from ..setting_rules import APP_OPTIONS, HOOK_OPTIONS, Rule, master_key
from ..threads.rows import KnownRows

logger = get_logger(__name__)
_throttle = LogThrottle()

NEEDED = ("ID", "KEY", "SECRET")
#: They are in no message.
SECRETS = ("SECRET", "ENCRYPTION_MASTER_KEY")


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
    #: The values of its row, where it was made in the admin.
    row: Sequence[Any] | None = field(default=None, repr=False)

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
    return _make(where, entry, is_first=number == 0)


def _make(where: str, entry: Mapping[str, Any], **fields: Any) -> App:
    values = _read(where, entry, APP_OPTIONS)
    values["webhooks"] = [_make_hook(where, hook) for hook in values.get("webhooks", ())]
    for origin in values.get("allowed_origins") or ():
        if origin != "*":
            try:
                normal_origin(origin)
            except ValueError as error:
                raise SettingError(
                    f"{where} has ALLOWED_ORIGINS: {error}.", "Correct it."
                ) from None
    return App(**values, **fields)


@lru_cache(1)
def site_apps() -> tuple[App, ...]:
    """Those of the settings, made once. Raises :exc:`.SettingError`."""
    entries = conf.PUSHER_APPS
    if not isinstance(entries, list | tuple):
        raise SettingError(
            f"FILTERED_WEBSOCKET['PUSHER_APPS'] is {entries!r:.80}.", "It must be a list of dicts."
        )
    made = tuple(make_app(entry, number) for number, entry in enumerate(entries))
    for name in ("id", "key"):
        values = [getattr(app, name) for app in made]
        for value in values:
            if values.count(value) > 1:
                found = f"two apps with {name.upper()} {value!r}"
                raise SettingError(
                    f"FILTERED_WEBSOCKET['PUSHER_APPS'] has {found}.", "Each has its own."
                )
    return made


def app_of_key(key: str) -> App | None:
    """The app whose clients have this key. It may ask the database: not on an event loop."""
    return _of_settings("key", key) or _of_admin("key", key)


def app_of_id(app_id: str) -> App | None:
    """The app with this id; as :func:`app_of_key`."""
    return _of_settings("id", app_id) or _of_admin("id", app_id)


async def find_app(hub: Any, key: str) -> App | None:
    """The app whose clients have this key, on the loop of ``hub``."""
    app = _of_settings("key", key)
    if app is None and conf.PUSHER_APPS_IN_ADMIN:
        app = await known_apps(hub).find(key)
    return app


def _of_settings(name: str, value: str) -> App | None:
    return next((app for app in site_apps() if getattr(app, name) == value), None)


# Those of the admin

#: As each hub knows them: it is told when they change.
_known: WeakKeyDictionary[Any, KnownRows[App]] = WeakKeyDictionary()


def known_apps(hub: Any) -> KnownRows[App]:
    """Those of the admin, by key, as ``hub`` knows them."""
    known = _known.get(hub)
    if known is None:
        mine: Any = proxy(hub)  # else the entry would keep its hub
        known = _known[hub] = KnownRows(
            "the Pusher apps of the admin", _read_rows, lambda: not mine.layer_is_lost
        )
    return known


def _changed(hub: Any, event: object = None) -> None:
    if hub in _known:
        _known[hub].changed()


def _of_admin(name: str, value: str) -> App | None:
    if not (conf.PUSHER_APPS_IN_ADMIN and APP_OPTIONS[name.upper()].allows(value)):
        return None
    hub = active_hub()
    known = None if hub is None else _known.get(hub)
    if known is not None and known.is_current:
        return next((app for app in known.rows.values() if getattr(app, name) == value), None)
    row = app_rows().filter(**{{"id": "app_id"}.get(name, name): value}).first()
    return None if row is None else _of_row(row)


def apps_with_webhooks(hub: Any) -> Iterator[App]:
    """Those of the settings, and those of the admin that ``hub`` knows."""
    known = known_apps(hub).rows.values() if hub in _known else ()
    return (app for app in (*site_apps(), *known) if app.webhooks)


def app_rows() -> Any:
    """The rows of the admin, in the database that is written to: a replica may miss a change."""
    model = apps.get_model("filtered_websocket", "PusherApp")
    return model._base_manager.using(router.db_for_write(model))


def _read_rows(known: Mapping[str, App]) -> dict[str, App]:
    """All of them; an app that has not changed is the same object."""
    made = {}
    for row in app_rows():
        app = known.get(row.key)
        made[row.key] = app if app is not None and app.row == _values(row) else _of_row(row)
    return made


def _values(row: Any) -> tuple[Any, ...]:
    return tuple(getattr(row, field.attname) for field in row._meta.concrete_fields)


def make_app_of(row: Any) -> App:
    """The app of a row. :exc:`.SettingError`, or ValueError, where it cannot be served."""
    if any(app.id == row.app_id or app.key == row.key for app in site_apps()):
        raise ValueError("an app of PUSHER_APPS has the same id or key")
    return _make("it", row.options(), row=_values(row))


def _of_row(row: Any) -> App:
    try:
        return make_app_of(row)
    except (SettingError, ValueError) as error:
        if _throttle.note(row.app_id):
            logger.error("the Pusher app %r of the admin is refused: %s", row.app_id, error)
    nobody_has = secrets.token_hex(32)
    return App(id=row.app_id, key=row.key, secret=nobody_has, enabled=False, row=_values(row))


def _forget(**of_the_signal: object) -> None:
    site_apps.cache_clear()


told["pusher_apps"] = _changed
missed.append(_changed)
setting_changed.connect(_forget, dispatch_uid="filtered_websocket.pusher.apps")
