"""
System checks of settings, for ``manage.py check``.

Ids are permanent: never reused, never renumbered. E003 to E013, E023 and E034 are raised where a
pipeline is built (``pipelines``), so that a server that runs no checks reports the same
messages.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from ..auth.authenticators import load_authenticators
from ..auth.tenants import load_tenant
from ..conf import CORE, SETTINGS, SettingError, conf
from ..connections.origins import one_of_origins
from ..pipelines.entries import PipelineError
from ..pipelines.pipeline import Pipeline
from ..pipelines.route import installed_filters, known_routes
from ..pipelines.rules import load_rules
from ..storage_objects import chosen
from .application import load_application

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
IN_MEMORY = "channels.layers.InMemoryChannelLayer"
COOKIE_SESSIONS = "django.contrib.sessions.backends.signed_cookies"
QUERY_AUTHENTICATOR = "filtered_websocket.auth.QueryAuthenticator"
#: A hub has one mailbox for all its connections; a burst must fit.
MIN_CAPACITY = 1000


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """FILTERED_WEBSOCKET: known keys, accepted values."""
    written = getattr(settings, "FILTERED_WEBSOCKET", {})
    if not isinstance(written, dict):
        return [
            Error(
                f"FILTERED_WEBSOCKET is {written!r:.80}.",
                hint="It must be a dict.",
                id="filtered_websocket.E002",
            )
        ]
    found = [found for key, value in written.items() for found in _check_setting(key, value)]
    if not found and conf.MAX_MESSAGE_SIZE >= conf.MAX_OUTBOX:
        found.append(
            Warning(
                f"FILTERED_WEBSOCKET['MAX_MESSAGE_SIZE'] is {conf.MAX_MESSAGE_SIZE}, and"
                f" MAX_OUTBOX {conf.MAX_OUTBOX}: one message can close every member of a group.",
                hint="Make MAX_OUTBOX at least four times as large as MAX_MESSAGE_SIZE.",
                id="filtered_websocket.W011",
            )
        )
    return found


def _check_setting(key: Any, value: Any) -> Iterable[CheckMessage]:
    if key not in SETTINGS:
        close = get_close_matches(str(key).upper(), SETTINGS, 1)
        yield Error(
            f"FILTERED_WEBSOCKET has no setting {key!r}.",
            hint=f"Did you mean {close[0]!r}?"
            if close
            else f"Known settings: {', '.join(sorted(SETTINGS))}.",
            id="filtered_websocket.E001",
        )
    elif not SETTINGS[key][1].allows(value):
        # A key of the API must not be in a log, misspelt or not.
        shown = type(value) if key == "API_KEY" else value
        yield Error(
            f"FILTERED_WEBSOCKET[{key!r}] is {shown!r:.80}.",
            hint=f"It must be {SETTINGS[key][1].words}.",
            id="filtered_websocket.E002",
        )


def check_access(**kwargs: Any) -> list[CheckMessage]:
    """Who may connect: authenticators, origins, tokens."""
    found: list[CheckMessage] = []
    valid = {key: SETTINGS[key][1].allows(getattr(conf, key)) for key in SETTINGS}
    if valid["AUTHENTICATORS"]:
        found += _check_authenticators()
    if valid["TENANT"]:
        found += _check_tenant()
    if valid["ALLOWED_ORIGINS"] and conf.ALLOWED_ORIGINS is not None:
        found += _check_origins(conf.ALLOWED_ORIGINS)
    if conf.AUTHENTICATORS and settings.SESSION_ENGINE == COOKIE_SESSIONS:
        found.append(
            Warning(
                "SESSION_ENGINE keeps sessions in cookies: a logout ends neither them nor their"
                " connections.",
                hint="Use sessions on the server: 'django.contrib.sessions.backends.db'.",
                id="filtered_websocket.W007",
            )
        )
    if conf.TOKENS == "open" and not settings.DEBUG:
        found.append(
            Warning(
                "FILTERED_WEBSOCKET['TOKENS'] is 'open', and DEBUG is off: any text that a client"
                " sends is accepted as a token.",
                hint="Leave it at 'database', and create tokens in the admin.",
                id="filtered_websocket.W004",
            )
        )
    return found


def _check_authenticators() -> Iterable[CheckMessage]:
    try:
        load_authenticators()
    except ImproperlyConfigured as error:
        yield Error(
            str(error),
            hint="Name classes, as 'filtered_websocket.auth.HeaderAuthenticator'.",
            id="filtered_websocket.E018",
        )
    if QUERY_AUTHENTICATOR in conf.AUTHENTICATORS:
        yield Warning(
            "FILTERED_WEBSOCKET['AUTHENTICATORS'] takes tokens from the URL, which"
            " proxies write to their logs.",
            hint="Send them as subprotocols or headers, or use tickets.",
            id="filtered_websocket.W006",
        )


def _check_tenant() -> Iterable[CheckMessage]:
    try:
        load_tenant()
    except SettingError as error:
        yield Error(error.message, hint=error.hint, id="filtered_websocket.E022")


def _check_origins(origins: Sequence[str]) -> Iterable[CheckMessage]:
    try:
        one_of_origins(origins)
    except ValueError as error:
        yield Error(
            f"FILTERED_WEBSOCKET['ALLOWED_ORIGINS']: {error}.",
            hint="An origin has a scheme and a host, and a port if it is not the usual one;"
            " or it is 'null', 'file://' or '*'.",
            id="filtered_websocket.E019",
        )
    everybody = [origin for origin in ("*", "null") if origin in origins]
    if everybody:
        yield Warning(
            f"FILTERED_WEBSOCKET['ALLOWED_ORIGINS'] has {everybody[0]!r}: it allows every page"
            " on the web to connect with the cookies of this site's users.",
            hint="List the origins of your pages and apps. Any page can open a frame whose"
            " origin is 'null': where an app needs it, take tokens instead of sessions.",
            id="filtered_websocket.W005",
        )


def check_filters(**kwargs: Any) -> list[CheckMessage]:
    """INSTALLED_FILTERS, and the filters, groups and codec of every route."""
    found: dict[tuple[str, str], CheckMessage] = {}

    def note(error: PipelineError) -> None:
        message = Error(error.message, hint=error.hint, id=error.id)
        found[error.id, error.message] = message

    try:
        entries = installed_filters()
    except PipelineError as error:
        note(error)
    else:
        for entry in entries:
            try:
                Pipeline([entry])
            except PipelineError as error:
                note(error)
    # Routes are registered when the application is imported.
    try:
        load_application()
    except PipelineError as error:
        note(error)
    except SettingError:
        pass  # check_application reports it
    if isinstance(conf.GROUPS, str):
        try:
            load_rules(conf.GROUPS)
        except PipelineError as error:
            note(error)
    for route in known_routes():
        try:
            route.pipeline  # noqa: B018 - built, or raises
        except PipelineError as error:
            note(error)
    return list(found.values())


def check_storage(**kwargs: Any) -> list[CheckMessage]:
    """The storage object: its module, and its options."""
    if not SETTINGS["STORAGE"][1].allows(conf.STORAGE):
        return []  # check_settings reports it
    try:
        chosen()
    except SettingError as error:
        return [Error(error.message, hint=error.hint, id="filtered_websocket.E017")]
    return []


def check_layer(**kwargs: Any) -> list[CheckMessage]:
    """The channel layer that carries group messages."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    alias = conf.CHANNEL_LAYER
    if alias not in layers:
        if alias == "default":
            return _check_no_layer()
        return [
            Error(
                f"FILTERED_WEBSOCKET['CHANNEL_LAYER'] is {alias!r}, which CHANNEL_LAYERS"
                " does not have.",
                hint=f"CHANNEL_LAYERS has: {', '.join(layers) or 'nothing'}.",
                id="filtered_websocket.E014",
            )
        ]
    name = f"CHANNEL_LAYERS[{alias!r}]"
    backend = layers[alias].get("BACKEND", "")
    config = layers[alias].get("CONFIG", {})
    return [
        *_check_in_memory(name, backend),
        *_check_capacity(name, backend, config),
        *_check_timeouts(name, backend, config),
        *_check_serializer(name, config),
    ]


def _check_no_layer() -> list[CheckMessage]:
    if settings.DEBUG:
        return []
    return [
        Warning(
            "CHANNEL_LAYERS has no 'default', and DEBUG is off.",
            hint="Messages stay in one process, and a logout in another one closes no connection"
            " here before RECHECK. Use channels_redis.pubsub for more than one process.",
            id="filtered_websocket.W014",
        )
    ]


def _check_in_memory(name: str, backend: str) -> Iterable[CheckMessage]:
    if backend == IN_MEMORY and not settings.DEBUG:
        yield Warning(
            f"{name} is the in-memory layer, and DEBUG is off.",
            hint="Messages stay in one process. Use channels_redis.pubsub for more than one.",
            id="filtered_websocket.W001",
        )


def _check_capacity(name: str, backend: str, config: dict[str, Any]) -> Iterable[CheckMessage]:
    if backend == CORE and config.get("capacity", 100) < MIN_CAPACITY:
        yield Warning(
            f"{name} keeps {config.get('capacity', 100)} messages per process and drops"
            " the rest without an error.",
            hint='All connections of a process share that: set "capacity" to 10000.',
            id="filtered_websocket.W002",
        )


def _check_timeouts(name: str, backend: str, config: dict[str, Any]) -> Iterable[CheckMessage]:
    hosts = config.get("hosts") or ["redis://localhost:6379"]
    # channels_redis.core blocks for 5 s in BZPOPMIN; redis-py 8 gives up after 5 s.
    times_out = backend == CORE and int(redis.__version__.split(".")[0]) >= 8
    if times_out and any(_timeout(host, missing=5) is not None for host in hosts):
        yield Error(
            f"{name}: with redis-py 8 an idle channels_redis.core fails every 5 seconds.",
            hint='Write hosts as [{"address": "redis://...", "socket_timeout": None}],'
            " or use channels_redis.pubsub.",
            id="filtered_websocket.E015",
        )
    if backend == PUBSUB and any(_timeout(host, missing=None) is None for host in hosts):
        yield Warning(
            f"{name}: no socket_timeout, so a Redis that stops answering holds up every"
            " publish and join.",
            hint='Write hosts as [{"address": "redis://...", "socket_timeout": 2}].',
            id="filtered_websocket.W003",
        )


def _timeout(host: Any, missing: float | None) -> Any:
    """The socket timeout that one entry of ``hosts`` sets; ``missing`` if it sets none."""
    return host.get("socket_timeout", missing) if isinstance(host, dict) else missing


def _check_serializer(name: str, config: dict[str, Any]) -> Iterable[CheckMessage]:
    if config.get("serializer_format", "msgpack") == "json":
        yield Error(
            f"{name} serialises to JSON, which cannot carry bytes.",
            hint='Leave "serializer_format" out: msgpack can.',
            id="filtered_websocket.E016",
        )
