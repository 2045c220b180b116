"""System checks of how messages leave: from every process, and under which names."""

from collections.abc import Iterable
from typing import Any

from channels_redis.utils import decode_hosts
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from ..conf import conf, database_numbers, default_namespace
from ..publishing.direct_host import foreign_options
from .settings import IN_MEMORY, PUBSUB


def check_publishing(**kwargs: Any) -> list[CheckMessage]:
    """How processes without WebSockets publish."""
    alias = conf.CHANNEL_LAYER
    layer = getattr(settings, "CHANNEL_LAYERS", {}).get(alias, {})
    name = f"CHANNEL_LAYERS[{alias!r}]"
    return [*_check_sender(name, layer), *_check_databases(name)]


def _check_sender(name: str, layer: dict[str, Any]) -> Iterable[CheckMessage]:
    backend = layer.get("BACKEND", IN_MEMORY)
    if backend == IN_MEMORY:
        return
    if backend != PUBSUB:
        found = f"is {backend}"
    elif foreign := sorted(_foreign_options(layer.get("CONFIG", {}))):
        found = f"has host options that only redis.asyncio takes ({', '.join(foreign)})"
    else:
        return
    yield Warning(
        f"{name} {found}: processes that serve no WebSockets publish by a thread with an event"
        " loop. Where gevent or eventlet run, every database query fails after that.",
        hint="Use channels_redis.pubsub, and hosts written as text, numbers, lists and dicts; or"
        " silence this where nothing runs under gevent or eventlet.",
        id="filtered_websocket.W012",
    )


def _foreign_options(config: dict[str, Any]) -> set[str]:
    hosts = config.get("hosts") or []
    # channels_redis refuses text in place of a list, with its own words.
    entries = [] if isinstance(hosts, str | bytes) else decode_hosts(hosts)
    return {name for host in entries for name in foreign_options(host)}


def _check_databases(name: str) -> Iterable[CheckMessage]:
    numbers = database_numbers()
    if len(set(numbers)) > 1:
        yield Error(
            f"{name} has hosts with different databases ({', '.join(map(str, numbers))}): Redis"
            " pub/sub has no databases, so the number is part of this site's names there.",
            hint="Give every host the same database number.",
            id="filtered_websocket.E021",
        )
    written = getattr(settings, "FILTERED_WEBSOCKET", {})
    by_hand = written.get("NAMESPACE") if isinstance(written, dict) else None
    if by_hand is not None and any(numbers):
        yield Warning(
            f"{name} uses database {max(numbers)}, and FILTERED_WEBSOCKET['NAMESPACE'] is"
            f" {by_hand!r:.80}: Redis pub/sub has no databases, so a site with that NAMESPACE on"
            " any database of this Redis receives this one's messages.",
            hint=f"Leave NAMESPACE out (it is {default_namespace()!r} then), or silence this"
            " where no other site on this Redis has that name.",
            id="filtered_websocket.W013",
        )
