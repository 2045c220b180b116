"""
System checks of what is Channels' own: how ``CHANNEL_LAYERS`` is written, and groups that are
those of Channels, too.
"""

import re
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from ..conf import SETTINGS, SettingError, conf, import_object
from ..groups import GroupRule
from ..layer.names import Names, is_entry
from .groups import all_rules

#: Where a pattern of a group rule or of the setting stands for more than itself.
_PART = re.compile(r"[<*]")
#: What an entry of CHANNEL_LAYERS may have.
_KEYS = ("BACKEND", "CONFIG", "TEST_CONFIG")
#: What redis-py takes for an address.
_SCHEMES = ("redis://", "rediss://", "unix://")
_HOSTS = 'Write hosts as [{"address": "redis://127.0.0.1:6379/0", "socket_timeout": 2}].'
_LAYER = 'Write {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", ...}}.'


def check_written_layer(**kwargs: Any) -> list[CheckMessage]:
    """How the channel layer is written. No connection is opened; no text may have a password."""
    layers, alias = getattr(settings, "CHANNEL_LAYERS", {}), conf.CHANNEL_LAYER
    if "BACKEND" in layers:
        found = [("CHANNEL_LAYERS has a BACKEND, and no name for that layer.", _LAYER)]
    elif alias in layers:
        name = f"CHANNEL_LAYERS[{alias!r}]"
        found = [(f"{name}{words}", hint) for words, hint in _mistakes_of(layers[alias])]
    else:
        found = []  # check_layer reports it
    return [Error(words, hint=hint, id="filtered_websocket.E037") for words, hint in found]


def _mistakes_of(entry: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for key in sorted(set(entry) - set(_KEYS)):
        yield f" has {key!r}, which nothing reads.", 'Write it into its "CONFIG": {...}.'
    backend = entry.get("BACKEND", "")
    try:
        made = import_object(backend) if backend else None
    except SettingError as error:
        yield f": its BACKEND {backend!r}: {error.message}", error.hint
    else:
        if not callable(made):
            yield f": its BACKEND is {backend!r}, which is no class.", _LAYER
    if backend.startswith("channels_redis."):
        yield from _mistakes_of_hosts(entry.get("CONFIG", {}).get("hosts") or [])


def _mistakes_of_hosts(hosts: Any) -> Iterable[tuple[str, str]]:
    if isinstance(hosts, str | bytes | dict):
        yield f": its hosts are a {type(hosts).__name__}, not a list.", _HOSTS
        return
    for host in hosts:
        address = host.get("address") if isinstance(host, dict) else host
        if isinstance(address, str) and not address.startswith(_SCHEMES):
            yield f": an address begins with none of {', '.join(_SCHEMES)}.", _HOSTS


def check_channels(**kwargs: Any) -> Iterable[CheckMessage]:
    """Groups that are those of Channels, too."""
    entries = conf.CHANNELS_GROUPS
    if not entries or not SETTINGS["CHANNELS_GROUPS"][1].allows(entries):
        return []  # check_settings reports it
    wrong = [entry for entry in entries if not is_entry(entry)]
    received = [entry for entry in entries if isinstance(entry, str) and entry not in wrong]
    return [*map(_wrong, wrong), *_check_layer(), *_check_histories(received)]


def _wrong(entry: Any) -> CheckMessage:
    return Error(
        f"FILTERED_WEBSOCKET['CHANNELS_GROUPS'] has {entry!r:.120}, which is no name that Channels"
        " accepts for a group, and no forward(...).",
        hint="Names have 1 to 99 of the characters A-Z a-z 0-9 - _ . and here * stands for any of"
        " them, as 'orders-*'.",
        id="filtered_websocket.E036",
    )


def _check_layer() -> Iterable[CheckMessage]:
    if conf.CHANNEL_LAYER not in getattr(settings, "CHANNEL_LAYERS", {}):
        yield Warning(
            "FILTERED_WEBSOCKET['CHANNELS_GROUPS'] is set, and there is no channel layer: nothing"
            " is received from groups of Channels, and nothing is forwarded there.",
            hint="Configure CHANNEL_LAYERS, as for the consumers.",
            id="filtered_websocket.W034",
        )


def _check_histories(received: list[str]) -> Iterable[CheckMessage]:
    """Rules that keep publications of groups to which Channels sends what is not kept."""
    told = set()
    for rules in all_rules() if received else ():
        for rule in rules:
            entry = next((one for one in received if _may_meet(one, rule)), None)
            place = rules.source, str(rule)
            if rule.history is not None and entry is not None and place not in told:
                told.add(place)
                yield Warning(
                    f"{rules.source}: {rule} has a history, and CHANNELS_GROUPS has {entry!r}: what"
                    " existing code sends with group_send is delivered, and is not kept.",
                    hint="Who comes back misses it and is not told. Send it with publish(), or"
                    " silence this.",
                    id="filtered_websocket.W035",
                )


def _may_meet(entry: str, rule: GroupRule) -> bool:
    """Whether one name may be meant by both, as far as they begin without placeholders."""
    if rule.pattern is None:
        return False
    ours, theirs = _PART.split(rule.pattern)[0], _PART.split(entry)[0]
    if ours == rule.pattern:
        return Names([entry]).receives(ours)
    return theirs.startswith(ours) or (theirs != entry and ours.startswith(theirs))
