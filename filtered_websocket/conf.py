"""
``FILTERED_WEBSOCKET``: its keys, their defaults, and the values each accepts.

Values are cached, as some are read for every message; Django's ``setting_changed`` signal,
which ``override_settings`` sends, clears the cache. :func:`import_object` imports a dotted path.
"""

import os
from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from redis.connection import parse_url

from .setting_rules import (
    ALIAS,
    AMOUNT,
    APPS,
    CALLABLE,
    COUNT,
    ENTRIES,
    FLAG,
    KEY,
    KEYS,
    LIMIT,
    NETWORKS,
    OPTIONAL_NAME,
    OPTIONAL_PAUSE,
    ORIGINS,
    PATH,
    PATHS,
    PAUSE,
    RATE,
    SECONDS,
    STORAGE,
    TIMEOUT,
    URL_PATH,
    Rule,
    one_of,
)


class SettingError(ImproperlyConfigured):
    """A setting cannot be used: ``message`` says why, ``hint`` how to fix it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint


class NotFound(SettingError):
    """There is no module, or nothing in the module, at a dotted path."""


def describe(error: BaseException) -> str:
    """An exception as ``TypeError: its message``."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def import_longest(path: str) -> tuple[Any, str]:
    """
    Import the module that ``path`` begins with; return it and the rest of the path:
    ``a.b.Class`` gives ``(<module a.b>, "Class")``, and ``(None, path)`` without a module.

    :exc:`SettingError` for anything a module raises meanwhile, but KeyboardInterrupt.
    """
    module, names = None, path.split(".")
    # For any other text import_module() raises TypeError or ValueError.
    if not (all(names) and path.isprintable()):
        return None, path
    for count in range(1, len(names) + 1):
        name = ".".join(names[:count])
        try:
            module = import_module(name)
        except (KeyboardInterrupt, SettingError):
            raise
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                return module, ".".join(names[count - 1 :])
            raise _broken(name, f"import {name}", error) from error
    return module, ""


def import_object(path: str) -> Any:
    """
    What ``path`` (``module.name``) names.

    :exc:`NotFound` if there is no such thing; :exc:`SettingError` for anything the module
    raises meanwhile, but KeyboardInterrupt.
    """
    module, rest = import_longest(path)
    if module is None:
        raise NotFound(
            f"there is no module {path.rpartition('.')[0] or path!r}.",
            "Check its spelling, and that it is on the Python path.",
        )
    return get_attribute(module, rest) if rest else module


def get_attribute(module: Any, name: str) -> Any:
    """``name`` of a module. Raises as :func:`import_object`."""
    try:
        return getattr(module, name)
    except (KeyboardInterrupt, SettingError):
        raise
    except AttributeError as error:
        # Its text tells where a circular import is the cause.
        raise NotFound(f"{error}.", "Check its spelling.") from error
    except BaseException as error:  # of a module's __getattr__
        where = module.__name__
        raise _broken(f"{where}.{name}", f"from {where} import {name}", error) from error


def _broken(path: str, statement: str, error: BaseException) -> SettingError:
    # Without a settings module there is no manage.py.
    shell = "python manage.py shell" if os.environ.get("DJANGO_SETTINGS_MODULE") else "python"
    return SettingError(
        f"importing {path!r} fails: {describe(error)}.",
        f"Fix the module; '{shell} -c \"{statement}\"' shows where.",
    )


#: The namespace for database 0 of Redis.
DATABASE_0 = "fws"
CORE = "channels_redis.core.RedisChannelLayer"

#: Key -> (default, accepted values). Units and explanations are in docs/settings.md.
SETTINGS: dict[str, tuple[Any, Rule]] = {
    "ALLOWED_ORIGINS": (None, ORIGINS),
    "ALLOW_NO_ORIGIN": (True, FLAG),
    "API_KEY": (None, KEYS),
    "API_RATE": ("1000/s", RATE),
    "AUTHENTICATORS": (
        [
            "filtered_websocket.auth.SessionAuthenticator",
            "filtered_websocket.auth.HeaderAuthenticator",
            "filtered_websocket.auth.SubprotocolAuthenticator",
            "filtered_websocket.auth.TicketAuthenticator",
        ],
        PATHS,
    ),
    "BLOCKING_THREADS": (8, COUNT),
    "CALLS": (8, COUNT),
    "CHANNELS_GROUPS": ([], ENTRIES),
    "CHANNEL_LAYER": ("default", ALIAS),
    "CODEC": (None, PATH),
    "CONSOLE": ("fws-console/", URL_PATH),
    "CONSOLE_TENANT": (None, KEY),
    "DRAIN_DEADLINE": (8.0, SECONDS),
    "DRAIN_WINDOW": (None, OPTIONAL_PAUSE),
    "FILTER_GRACE": (10.0, SECONDS),
    "FILTER_TIMEOUT": (None, TIMEOUT),
    "GROUPS": (None, PATH),
    "GUESS_LIMIT": (10, LIMIT),
    "JWT_ALGORITHM": ("HS256", one_of("HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA")),
    "JWT_KEY": (None, KEY),
    "JWT_USER": (None, CALLABLE),
    "LAYER_SETTLE": (1.5, PAUSE),
    "LAYER_TIMEOUT": (2.0, SECONDS),
    "MAX_CONNECTIONS": (None, LIMIT),
    "MAX_CONNECTIONS_PER_ADDRESS": (None, LIMIT),
    "MAX_CONNECTIONS_PER_USER": (None, LIMIT),
    "MAX_GROUPS": (128, COUNT),
    "MAX_INBOX": (64, COUNT),
    "MAX_MESSAGE_SIZE": (262_144, COUNT),
    "MAX_OUTBOX": (1_048_576, COUNT),
    "METRICS_ALLOWED": ([], NETWORKS),
    "NAMESPACE": (None, OPTIONAL_NAME),
    "ON_ERROR": ("drop", one_of("drop", "close")),
    "PRESENCE_LEASE": (60.0, SECONDS),
    "PROTOCOL": ("plain", one_of("plain", "centrifuge", "pusher")),
    "PUBLISH_MAX_AGE": (30.0, SECONDS),
    "PUBLISH_QUEUE": (10_000, COUNT),
    "PUBLISH_QUEUE_BYTES": (67_108_864, COUNT),
    "PUSHER_APPS": ([], APPS),
    "PUSHER_APPS_IN_ADMIN": (False, FLAG),
    "RECHECK": (60.0, SECONDS),
    "REFUSE_WITH": ("403", one_of("403", "close")),
    "SLOW_READER": ("close", one_of("close", "drop_newest")),
    "STORAGE": (
        {"BACKEND": "filtered_websocket.storage_objects.default", "OPTIONS": {}},
        STORAGE,
    ),
    "TENANT": (None, CALLABLE),
    "TOKENS": ("database", one_of("database", "open")),
    "TRUSTED_PROXIES": (0, AMOUNT),
}

DEFAULTS: dict[str, Any] = {key: default for key, (default, _) in SETTINGS.items()}


class Conf:
    """``conf.KEY`` is the site's value, or the default."""

    def __getattr__(self, name: str) -> Any:
        if name not in DEFAULTS:
            raise AttributeError(f"no such setting: FILTERED_WEBSOCKET[{name!r}]")
        value = DEFAULTS[name]
        try:
            chosen = getattr(settings, "FILTERED_WEBSOCKET", {})
        except ImproperlyConfigured:
            # Settings are not configured yet.
            return DATABASE_0 if name == "NAMESPACE" else value
        # If it is not a dict, manage.py check reports it (E002).
        if isinstance(chosen, dict):
            value = chosen.get(name, value)
        if name == "NAMESPACE" and value is None:
            value = default_namespace()
        # As an instance attribute, so that the next access does not call __getattr__.
        vars(self)[name] = value
        return value

    def forget(self) -> None:
        """Clear the cache."""
        vars(self).clear()


conf = Conf()


def default_namespace() -> str:
    """
    ``fws``, or ``fws-<n>`` for database n of Redis: pub/sub has no databases, and sites that
    keep apart by them would receive each other's messages.
    """
    number = next(iter(database_numbers()), 0)
    return f"{DATABASE_0}-{number}" if number else DATABASE_0


def database_numbers() -> list[int]:
    """
    The Redis database of each host of the channel layer. Empty for ``channels_redis.core``,
    whose messages are keys of their database.
    """
    layer = getattr(settings, "CHANNEL_LAYERS", {}).get(conf.CHANNEL_LAYER, {})
    hosts = layer.get("CONFIG", {}).get("hosts")
    if layer.get("BACKEND") == CORE or not isinstance(hosts, list | tuple):
        return []
    return list(map(_database_number, hosts))


def _database_number(host: Any) -> int:
    """As redis-py reads one entry of ``hosts``: the URL's number comes before ``db``."""
    options = host if isinstance(host, dict) else {"address": host}
    try:
        number = options.get("db")
        if isinstance(options.get("address"), str):
            url: dict[str, Any] = parse_url(options["address"])  # type: ignore[no-untyped-call]
            number = url.get("db", number)
        return int(number or 0)
    except (TypeError, ValueError):
        return 0  # redis-py reports it when it connects


def _forget(setting: str, **kwargs: Any) -> None:
    if setting in ("FILTERED_WEBSOCKET", "CHANNEL_LAYERS"):
        conf.forget()


# Connected before the receivers of modules that read these values: receivers are called in
# the order in which they were connected.
setting_changed.connect(_forget, dispatch_uid="filtered_websocket.conf")
