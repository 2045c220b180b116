"""System checks of group rules and of the groups that routes join."""

import contextlib
from collections.abc import Iterable
from typing import Any

from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import create_pool, decode_hosts
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from ..conf import SettingError, conf, import_object
from ..groups import PERSONAL_PREFIX, RESERVED, GroupRule
from ..layer.redis_connection import can_take_over
from ..pipelines.entries import PipelineError
from ..pipelines.keeping import site_rules
from ..pipelines.route import Route, known_routes
from ..pipelines.rules import Rules, load_rules
from .application import load_application

#: Channel layers beside which this package knows where to keep presence.
KEEPS_PRESENCE = (InMemoryChannelLayer, RedisChannelLayer, RedisPubSubChannelLayer)


def check_groups(**kwargs: Any) -> Iterable[CheckMessage]:
    """Group rules: those of ``GROUPS``, and of every route."""
    found: dict[tuple[str | None, str], CheckMessage] = {}
    for rules in all_rules():
        checked = *_check_permissions(rules), *_check_layer(rules), *_check_site(rules)
        for message in checked:
            found[message.id, message.msg] = message
    for route in known_routes():
        for message in _check_names(route):
            found[message.id, message.msg] = message
    return list(found.values())


def all_rules() -> Iterable[Rules]:
    """Those of ``GROUPS``, and of every route."""
    # check_filters reports what cannot be loaded, check_application what cannot be imported.
    with contextlib.suppress(PipelineError, SettingError):
        load_application()
    if isinstance(conf.GROUPS, str):
        with contextlib.suppress(PipelineError):
            yield load_rules(conf.GROUPS)
    for route in known_routes():
        try:
            rules = route.pipeline.rules
        except PipelineError:
            continue
        if rules is not None:
            yield rules


def _check_permissions(rules: Rules) -> Iterable[CheckMessage]:
    """
    As Django's own checks do not, this asks no database: it may not be there yet. Django
    makes the rows from the models' options, which are compared.
    """
    known = known_permissions()
    for rule in rules:
        for name in ("join", "publish", "see"):
            permission = getattr(rule, name)
            if isinstance(permission, str) and permission not in known:
                yield Warning(
                    f"{rules.source}: {rule}: no model of this site has the permission"
                    f" {permission!r:.80} ({name}).",
                    hint="Write 'app_label.codename', as 'auth.view_user'; or silence this where"
                    " an authentication backend or a row of your own makes it.",
                    id="filtered_websocket.W018",
                )


def known_permissions() -> set[str]:
    """Those that ``migrate`` makes, as ``app_label.codename``."""
    found: set[str] = set()
    for model in apps.get_models():
        options = model._meta
        names = [f"{action}_{options.model_name}" for action in options.default_permissions]
        names += [codename for codename, _ in options.permissions]
        found.update(f"{options.app_label}.{name}" for name in names)
    return found


def _check_layer(rules: Rules) -> Iterable[CheckMessage]:
    """That what a rule keeps has a place."""
    layer = getattr(settings, "CHANNEL_LAYERS", {}).get(conf.CHANNEL_LAYER, {})
    if "BACKEND" not in layer:
        return
    wants = {
        "history": ("a history", _why_no_history, "filtered_websocket.E024"),
        "presence": ("presence", _why_no_presence, "filtered_websocket.E026"),
    }
    for name, (words, why_not, identifier) in wants.items():
        keeping: list[GroupRule] = [rule for rule in rules if getattr(rule, name)]
        reason = why_not(layer) if keeping else None
        if reason is not None:
            yield Error(
                f"{rules.source}: {keeping[0]} has {words}, and CHANNEL_LAYERS"
                f"[{conf.CHANNEL_LAYER!r}] {reason}.",
                hint=f"Use channels_redis.pubsub, or leave {name} out.",
                id=identifier,
            )


def _check_site(rules: Rules) -> Iterable[CheckMessage]:
    """That what Django code publishes is kept as well: no route says how it is."""
    keeping = [rule for rule in rules if rule.history]
    if not (keeping and isinstance(conf.GROUPS, str | None)):
        return  # check_settings reports what is no path
    try:
        site = site_rules()
    except PipelineError:
        return
    if site is None or not site.keeps:
        yield Warning(
            f"{rules.source}: {keeping[0]} has a history for what connections of its route"
            f" publish, and GROUPS is {conf.GROUPS!r:.80}: what publish() sends from views, tasks"
            " and signals is not kept, so who comes back misses it and is not told.",
            hint="Name a module with these rules in FILTERED_WEBSOCKET['GROUPS']; or silence this"
            " where nothing but connections publishes to such groups.",
            id="filtered_websocket.W024",
        )


def _why_no_presence(layer: dict[str, Any]) -> str | None:
    """Why this package does not know where to keep presence; None if it does."""
    known = _import_layer(layer["BACKEND"])
    if known is None or issubclass(known, KEEPS_PRESENCE):
        return None
    return f"is {layer['BACKEND']}, which cannot keep it"


def _why_no_history(layer: dict[str, Any]) -> str | None:
    """The same for a history."""
    known = _import_layer(layer["BACKEND"])
    if known is None or known is InMemoryChannelLayer:
        return None
    if not issubclass(known, RedisChannelLayer | RedisPubSubChannelLayer):
        return f"is {layer['BACKEND']}, beside which nothing is kept"
    with contextlib.suppress(Exception):  # of options that redis-py refuses: the layer fails
        hosts = decode_hosts(layer.get("CONFIG", {}).get("hosts"))
        if not all(can_take_over(create_pool(dict(host))) for host in hosts):
            return "has options with which only redis-py can connect: nothing is kept there"
    return None


def _import_layer(path: str) -> type | None:
    try:
        layer = import_object(path)
    except SettingError:
        return None  # Channels reports it
    return layer if isinstance(layer, type) else object


def _check_names(route: Route) -> Iterable[CheckMessage]:
    try:
        names = route.groups
    except PipelineError:
        return
    for name in names:
        if name.startswith(PERSONAL_PREFIX):
            yield Warning(
                f"A route's group {name!r:.80}: names that begin with {PERSONAL_PREFIX!r} are"
                f" {RESERVED[PERSONAL_PREFIX]}; what publish_to_user() sends to a user of that"
                " key reaches all of the route.",
                hint="Give the group another name; for users' own groups, set personal=True.",
                id="filtered_websocket.W019",
            )
