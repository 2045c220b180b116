"""
System checks of a site's environment: Redis, installed packages, open files, and names of
settings that nothing reads.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Warning

from ..conf import SETTINGS, conf
from ..hub.limits import missing_descriptors

#: Package -> the first safe release of each series: without a known vulnerability that can
#: be used over the network. Older series have no safe release.
SAFE = {
    "autobahn": ["26.10.1"],
    "channels": ["3.0.3"],
    "daphne": ["4.2.3"],
    "django": ["5.2.13", "6.0.4"],
    "redis": ["4.5.4"],
    "twisted": ["26.4.0"],
}
#: The two settings that are not in the dict.
OUTSIDE = ["INSTALLED_FILTERS", "FILTERED_WEBSOCKET"]
#: How alike a misspelt name of one is. That of INSTALLED_APPS is 0.71.
ALIKE = 0.9
#: Keys of FILTERED_WEBSOCKET that a site may take for settings, and has no other use for.
INSIDE = (
    *("ALLOWED_ORIGINS", "ALLOW_NO_ORIGIN", "AUTHENTICATORS", "CHANNELS_GROUPS", "DRAIN_DEADLINE"),
    *("DRAIN_WINDOW", "LAYER_TIMEOUT", "MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS"),
    *("MAX_CONNECTIONS_PER_USER", "MAX_INBOX", "MAX_MESSAGE_SIZE", "MAX_OUTBOX", "PUSHER_APPS"),
    *("REFUSE_WITH", "SLOW_READER"),
)


def check_names(**kwargs: Any) -> list[CheckMessage]:
    """Settings with a name that is nearly one of this package, or in the wrong place."""
    written = getattr(settings, "FILTERED_WEBSOCKET", {})
    keys = written if isinstance(written, dict) else {}
    found = []
    for name in filter(str.isupper, dir(settings)):
        close = get_close_matches(name, OUTSIDE, 1, ALIKE)
        if close and name not in OUTSIDE:
            found.append((name, f"Did you mean {close[0]}?"))
        elif name in INSIDE and name not in keys:
            hint = f"Write it into the dict: FILTERED_WEBSOCKET = {{{name!r}: ...}}."
            found.append((name, f"{hint} Or silence this, where it is your own."))
    return [
        Warning(
            f"settings have {name}, which this package does not read.",
            hint=hint,
            id="filtered_websocket.W036",
        )
        for name, hint in found
    ]


def check_environment(**kwargs: Any) -> list[CheckMessage]:
    """Redis encryption, vulnerable packages, file limit. Opens no connection."""
    return [*_check_encryption(), *_check_versions(), *_check_descriptors()]


def _check_encryption() -> Iterable[CheckMessage]:
    alias = conf.CHANNEL_LAYER
    config = getattr(settings, "CHANNEL_LAYERS", {}).get(alias, {}).get("CONFIG", {})
    if config.get("symmetric_encryption_keys"):
        return
    if any(map(is_open, config.get("hosts") or ())):
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}] sends messages to another machine without encryption:"
            " others on the network can read them, and publish messages of their own.",
            hint="Use rediss:// (TLS), a Unix socket, or"
            ' "symmetric_encryption_keys": [SECRET_KEY].',
            id="filtered_websocket.W008",
        )


def is_open(host: Any) -> bool:
    """Whether one entry of ``hosts`` is on another machine and without TLS."""
    if isinstance(host, list | tuple):
        host = {"host": host[0]}
    elif not isinstance(host, dict):
        host = {"address": host}
    if "address" in host:
        address = urlsplit(str(host["address"]))
        return address.scheme == "redis" and not _is_here(address.hostname or "localhost")
    if "sentinels" in host:
        return not host.get("ssl") and not all(_is_here(str(one[0])) for one in host["sentinels"])
    return "path" not in host and not _is_here(str(host.get("host", "localhost")))


def _is_here(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _check_versions() -> Iterable[CheckMessage]:
    for name, releases in SAFE.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if is_unsafe(installed, releases):
            yield Warning(
                f"{name} {installed} has known vulnerabilities.",
                hint=f"Install {' or '.join(releases)}, or newer.",
                id="filtered_websocket.W009",
            )


def is_unsafe(installed: str, releases: list[str]) -> bool:
    """Whether a version is older than the safe release of its series."""
    mine = numbers(installed)
    # Compare with the newest series that is not newer than the installed version.
    begun = [release for release in map(numbers, releases) if release[:2] <= mine[:2]]
    return not begun or mine < max(begun)


def numbers(release: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    found = [int(number) for number in re.findall(r"\d+", release)[:3]]
    return (*found, 0, 0)[:3]


def _check_descriptors() -> Iterable[CheckMessage]:
    # Any other value is reported as E002.
    if SETTINGS["MAX_CONNECTIONS"][1].allows(conf.MAX_CONNECTIONS) and (n := missing_descriptors()):
        yield Warning(
            f"A process of this user may not open enough files for MAX_CONNECTIONS: {n} are"
            " missing.",
            hint="Raise 'ulimit -n' (LimitNOFILE of systemd), or lower MAX_CONNECTIONS.",
            id="filtered_websocket.W010",
        )
