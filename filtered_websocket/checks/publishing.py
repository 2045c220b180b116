"""System checks of how messages leave: from every process, and under which names."""

from collections.abc import Iterable
from typing import Any

from channels_redis.utils import decode_hosts
from django.conf import settings
from django.core.checks import CheckMessage, Warning

from ..conf import conf
from ..layer.direct import foreign_options
from .settings import IN_MEMORY, PUBSUB


def check_publishing(**kwargs: Any) -> list[CheckMessage]:
    """How processes without WebSockets publish."""
    alias = conf.CHANNEL_LAYER
    layer = getattr(settings, "CHANNEL_LAYERS", {}).get(alias, {})
    return [*_check_sender(f"CHANNEL_LAYERS[{alias!r}]", layer)]


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
