"""
System checks of what is Channels' own: how ``CHANNEL_LAYERS`` is written, and groups that are
those of Channels, too.
"""

import re
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from ..conf import SETTINGS, conf
from ..groups import GroupRule
from ..layer.health import layer_mistakes
from ..layer.names import Names, is_entry
from .groups import all_rules

#: Where a pattern of a group rule or of the setting stands for more than itself.
_PART = re.compile(r"[<*]")


def check_written_layer(**kwargs: Any) -> list[CheckMessage]:
    """How the channel layer is written."""
    return [
        Error(words, hint=hint, id="filtered_websocket.E037") for words, hint in layer_mistakes()
    ]


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
